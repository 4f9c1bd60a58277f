/**
 * The types, as a browser's and as a Node program sees them: what must type-check, and, below
 * `@ts-expect-error`, what must not. Compiled by tsc, never run.
 */
import {
  type Bytes,
  type CallOptions,
  ConnectionClosedError,
  ConnectionLostError,
  ListenerOverflowError,
  type Payload,
  RPCAbortError,
  SocketIo,
  type SocketIoOptions,
} from "sockrpc";

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
/** Must be instantiated with `true`; `any` equals nothing but itself. */
function same<_ extends true>(): void {}

const socket = new SocketIo("ws://127.0.0.1:3000/socket");
const { signal } = new AbortController();

// ---- must type-check ----

new SocketIo(new URL("ws://127.0.0.1:3000/socket"), {});
new SocketIo("", { firstId: 0, maxListenerPayloads: 1, maxListenerBytes: 1 });
new SocketIo("", { WebSocket: undefined, firstId: undefined });
new SocketIo("", { WebSocket });
new SocketIo("", { WebSocket: class extends WebSocket {} });

same<Equal<typeof socket.ws, WebSocket>>();
same<Equal<ReturnType<typeof socket.connect>, Promise<void>>>();
same<Equal<ReturnType<typeof socket.call>, Promise<Bytes>>>();
same<Equal<ReturnType<typeof socket.notify>, void>>();
same<Equal<ReturnType<typeof socket.on>, AsyncGenerator<Bytes, void, void>>>();
same<Equal<ReturnType<typeof socket.removeEvent>, boolean>>();
same<Equal<ReturnType<typeof socket.status>, { pending: string[]; events: string[] }>>();
same<Equal<ReturnType<typeof socket.close>, void>>();
same<Equal<Bytes, Uint8Array<ArrayBuffer>>>();
same<Equal<Payload, string | ArrayBuffer | ArrayBufferView | ArrayLike<number>>>();

const payloads: Payload[] = [
  "text",
  [],
  [1, 2],
  [1, 2] as const,
  { length: 0 },
  new ArrayBuffer(1),
  new Uint8Array(1),
  new Float64Array(1),
  new BigInt64Array(1),
  new DataView(new ArrayBuffer(1)),
];
for (const payload of payloads) {
  socket.notify("ping", payload);
  await socket.call("echo", payload);
}
socket.notify("ping");
await socket.call("myip");
await socket.call("long_runing_task", [], { signal });
await socket.call("long_running_task", "", { signal, timeout: 500 });
await socket.call("long_running_task", undefined, { signal: undefined, timeout: undefined });
await socket.call("long_running_task", "", { signal: null });
await socket.call("long_running_task", "", { signal: AbortSignal.timeout(5) });

// As the published tutorial has it.
const decodeText = (data: Uint8Array) => new TextDecoder().decode(data);
const rpc = async (...args: Parameters<typeof socket.call>) => decodeText(await socket.call(...args));
const answer: string = await rpc("uppercase", "hello");
for await (const message of socket.on("message")) decodeText(message);
const buffer: ArrayBuffer = (await socket.call(answer)).buffer; // not SharedArrayBuffer: it may go into a Blob
new Blob([buffer, await socket.call("image")]);

const iterator = socket.on("pong");
const { done, value } = await iterator.next();
if (!done) same<Equal<typeof value, Bytes>>();
await iterator.return();
await iterator.throw(new Error());

try {
  await socket.call("a");
} catch (error) {
  if (error instanceof RPCAbortError) {
    same<Equal<typeof error.id, number>>();
    same<Equal<typeof error.name, string>>();
    same<Equal<typeof error.data, Payload>>();
    same<Equal<typeof error.reason, unknown>>();
  } else if (error instanceof ConnectionLostError) {
    same<Equal<typeof error.code, number>>();
    same<Equal<typeof error.reason, string>>();
  } else if (error instanceof ConnectionClosedError) {
    const closed: Error = error;
    throw closed;
  } else if (error instanceof ListenerOverflowError) {
    same<Equal<typeof error.event, string>>();
  }
}
new RPCAbortError(1, "name", [], "reason") satisfies Error;

function options(call: CallOptions, client: SocketIoOptions): void {
  void call.timeout?.toFixed();
  void client.firstId?.toFixed();
}
options({}, {});

// ---- must not type-check ----

// @ts-expect-error the URL is required
new SocketIo();
// @ts-expect-error no such option
new SocketIo("", { reconnect: true });
// @ts-expect-error not a WebSocket class
new SocketIo("", { WebSocket: Date });
// @ts-expect-error a class, not an instance
new SocketIo("", { WebSocket: socket.ws });
// @ts-expect-error not a number
new SocketIo("", { firstId: "1" });

// @ts-expect-error the name is required
socket.call();
// @ts-expect-error a name is a string
socket.call(1);
// @ts-expect-error a number is no payload
socket.call("a", 1);
// @ts-expect-error null is no payload
socket.call("a", null);
// @ts-expect-error an object is no payload
socket.call("a", { text: "hi" });
// @ts-expect-error an array of strings is no payload
socket.call("a", ["x"]);
// @ts-expect-error an array of bigints is no payload
socket.call("a", [1n]);
// @ts-expect-error a Blob is no payload
socket.call("a", new Blob([]));
// @ts-expect-error the options are an object
socket.call("a", "", signal.aborted);
// @ts-expect-error a controller is not its signal
socket.call("a", "", { signal: new AbortController() });
// @ts-expect-error no such option
socket.call("a", "", { deadline: 5 });
// @ts-expect-error milliseconds are a number
socket.call("a", "", { timeout: "5" });
// @ts-expect-error an answer is bytes, not a string
(await socket.call("a")).toUpperCase();
// @ts-expect-error an answer is awaited first
socket.call("a").byteLength;

// @ts-expect-error a notification has no options
socket.notify("a", "", { signal });
// @ts-expect-error a notification is never answered
socket.notify("a").then();
// @ts-expect-error an iterator, no callback
socket.on("a", () => {});
// @ts-expect-error iterated asynchronously only
for (const _ of socket.on("a"));
// @ts-expect-error nothing is sent into the iterator
socket.on("a").next("x");
// @ts-expect-error a name is a string
socket.removeEvent();
// @ts-expect-error read only
socket.ws = socket.ws;
// @ts-expect-error strings, not numbers
socket.status().pending.includes(1);
// @ts-expect-error private
socket.calls;
// @ts-expect-error the reason is unknown until looked at
new RPCAbortError(1, "name", []).reason.name;
// @ts-expect-error the payload is required
new RPCAbortError(1, "name");
// @ts-expect-error a code is a number
new ConnectionLostError("1001");
