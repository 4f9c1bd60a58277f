/** What the tests share: a client and a raw server joined, frames in hex, and fences in place of sleeps. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import { SocketIo } from "../../src/sockrpc/js/sockrpc.js";
import { RawServer } from "./raw-server.mjs";

export const vectors = JSON.parse(readFileSync(new URL("../vectors.json", import.meta.url), "utf8"));

export const hex = (bytes) => Buffer.from(bytes).toString("hex");
export const text = (bytes) => new TextDecoder().decode(bytes);
const u32 = (id) => id.toString(16).padStart(8, "0");
const named = (name) => hex([Buffer.byteLength(name)]) + hex(Buffer.from(name));

export const notifyFrame = (name, payload = "") => `01${named(name)}${hex(Buffer.from(payload))}`;
export const requestFrame = (id, name, payload = "") => `02${u32(id)}${named(name)}${hex(Buffer.from(payload))}`;
export const resetFrame = (id) => `03${u32(id)}`;
export const responseFrame = (id, payload = "") => `04${u32(id)}${hex(Buffer.from(payload))}`;

/** A server for the duration of one test. */
export async function startServer(t) {
  const server = await RawServer.start();
  t.after(() => server.stop());
  return server;
}

/** A client and the server's end of its open connection, for the duration of one test. */
export async function connectedPair(t, options) {
  const server = await startServer(t);
  const client = new SocketIo(server.url, options);
  t.after(() => client.close());
  const peer = await server.accept();
  await client.connect();
  return { server, client, peer };
}

let fences = 0;

/** Everything the client has sent that was not read yet, as hex. */
export async function drain(client, peer) {
  const fence = notifyFrame("fence", String(++fences));
  client.notify("fence", String(fences));
  const messages = [];
  for (;;) {
    const message = await peer.readBinary();
    if (message === fence) return messages;
    messages.push(message);
  }
}

/** Resolves when the client has acted on everything that the server has sent. */
export async function delivered(client, peer) {
  const listener = client.on("delivered");
  const next = listener.next();
  peer.send(notifyFrame("delivered"));
  await next;
  await listener.return();
}

/** After whatever a test did to it: the connection works, and nothing is left over. */
export async function assertUsable(client, peer) {
  const call = client.call("usable");
  const request = await peer.readBinary();
  assert.equal(request.slice(10), requestFrame(0, "usable").slice(10));
  peer.send(`04${request.slice(2, 10)}6f6b`);
  assert.equal(text(await call), "ok");
  assert.deepEqual(client.status().pending, []);
}
