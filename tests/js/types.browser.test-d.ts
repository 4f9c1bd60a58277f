/** What only a browser's program can say. Compiled by tsc, never run. */
import { SocketIo } from "sockrpc";

const socket = new SocketIo("ws://127.0.0.1:3000/socket");

socket.ws.addEventListener("close", ({ code, reason }) => console.log(code.toFixed(), reason.length));
document.querySelector("img")!.src = URL.createObjectURL(new Blob([await socket.call("image")]));
// @ts-expect-error an Event is no payload
document.addEventListener("click", (event) => socket.notify("click", event));
