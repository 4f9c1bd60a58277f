/** Opening, closing and opening anew; the rest of the surface. */
import assert from "node:assert/strict";
import { test } from "node:test";

import * as sockrpc from "../../src/sockrpc/js/sockrpc.js";
import { assertUsable, connectedPair, delivered, drain, responseFrame, startServer, text, vectors } from "./support.mjs";

const { ConnectionClosedError, ConnectionLostError, RPCAbortError, SocketIo } = sockrpc;

test("the module exports the client and its errors", () => {
  assert.deepEqual(Object.keys(sockrpc).sort(), [
    "ConnectionClosedError",
    "ConnectionLostError",
    "ListenerOverflowError",
    "RPCAbortError",
    "SocketIo",
  ]);
});

test("an RPCAbortError can be made by anyone, and its message is String(reason)", () => {
  const error = new RPCAbortError(7, "m", [1], 42);
  assert.deepEqual([error.id, error.name, error.data, error.reason, error.message], [7, "m", [1], 42, "42"]);
  assert.ok(error instanceof Error);
});

test("errors of the connection say in words what happened", () => {
  assert.equal(new ConnectionLostError().message, "connection lost (1006)");
  assert.equal(new ConnectionLostError(1001, "bye").message, "connection lost (1001: bye)");
  assert.equal(new ConnectionClosedError().name, "ConnectionClosedError");
});

test("opening starts in the constructor and offers exactly the one subprotocol", async (t) => {
  const server = await startServer(t);
  const client = new SocketIo(server.url);
  t.after(() => client.close());
  const handshake = await server.handshake();
  assert.equal(handshake.request.headers["sec-websocket-protocol"], vectors.subprotocol);
  assert.equal(client.ws.readyState, 0);
  const peer = handshake.accept();
  await client.connect();
  assert.equal(client.ws.readyState, 1);
  assert.equal(client.ws.binaryType, "arraybuffer");
  await assertUsable(client, peer);
});

test("the URL may be a URL object", async (t) => {
  const server = await startServer(t);
  const client = new SocketIo(new URL(server.url));
  t.after(() => client.close());
  await assertUsable(client, await server.accept());
});

test("a URL that WebSocket refuses is refused by the constructor", () => {
  assert.throws(() => new SocketIo("not a url"), { name: "SyntaxError" });
});

test("connect() on an open client resolves at once and opens nothing", async (t) => {
  const { client, peer } = await connectedPair(t);
  const { ws } = client;
  await Promise.all([client.connect(), client.connect()]);
  assert.equal(client.ws, ws);
  await assertUsable(client, peer);
});

test("connect() rejects when the server refuses; the client is not stuck", async (t) => {
  const server = await startServer(t);
  const client = new SocketIo(server.url);
  t.after(() => client.close());
  const connected = [client.connect(), client.connect()];
  (await server.handshake()).refuse();
  for (const promise of connected) await assert.rejects(promise, { name: "ConnectionLostError", code: 1006 });
  await assert.rejects(client.call("a"), { name: "ConnectionLostError", code: 1006 });

  const again = client.connect();
  const peer = await server.accept();
  await again;
  await assertUsable(client, peer);
});

test("an opening that fails while nobody waits for it is no unhandled rejection", async (t) => {
  const unhandled = [];
  const listen = (error) => unhandled.push(error);
  process.on("unhandledRejection", listen);
  t.after(() => process.off("unhandledRejection", listen));
  const server = await startServer(t);
  const client = new SocketIo(server.url);
  const failed = new Promise((resolve) => client.ws.addEventListener("error", resolve));
  (await server.handshake()).refuse();
  await failed;
  await new Promise((resolve) => setImmediate(resolve)); // unhandled rejections are told after the microtasks
  assert.deepEqual(unhandled, []);
});

test("a server that confirms no subprotocol is refused", async (t) => {
  const server = await startServer(t);
  const client = new SocketIo(server.url);
  t.after(() => client.close());
  const call = client.call("a");
  const connected = client.connect();
  const rejections = Promise.all([
    assert.rejects(connected, ConnectionLostError),
    assert.rejects(call, ConnectionLostError),
  ]);
  (await server.handshake()).accept({ protocol: null });
  await rejections;
});

/** Stands for WebSocket classes that do not check the subprotocol themselves. */
class Lenient extends WebSocket {
  constructor(url) {
    super(url);
  }
}

test("a WebSocket that lets an unconfirmed subprotocol pass is closed with 4002, nothing having been sent", async (t) => {
  const server = await startServer(t);
  const client = new SocketIo(server.url, { WebSocket: Lenient });
  t.after(() => client.close());
  const rejection = assert.rejects(client.call("a"), { name: "ConnectionLostError", code: 4002, reason: /subprotocol/ });
  const peer = (await server.handshake()).accept({ protocol: null });
  await assert.rejects(client.connect(), { name: "ConnectionLostError", code: 4002 });
  await rejection;
  const { close } = await peer.read();
  assert.equal(close.code, 4002);
  assert.match(close.reason, /subprotocol/);
});

test("{ WebSocket } injects the class", async (t) => {
  const made = [];
  class Recording extends WebSocket {
    constructor(...args) {
      super(...args);
      made.push({ args, ws: this });
    }
  }
  const { server, client, peer } = await connectedPair(t, { WebSocket: Recording });
  assert.ok(client.ws instanceof Recording);
  await assertUsable(client, peer);
  client.close();
  const connected = client.connect();
  await server.accept();
  await connected;
  assert.equal(client.ws, made[1].ws);
  assert.deepEqual(
    made.map(({ args }) => args),
    [
      [server.url, vectors.subprotocol],
      [server.url, vectors.subprotocol],
    ],
  );
});

test("{ WebSocket: undefined } means the global one", async (t) => {
  const { client } = await connectedPair(t, { WebSocket: undefined });
  assert.ok(client.ws instanceof WebSocket);
});

test("close() sends 1000, may be called again, and before the opening rejects connect()", async (t) => {
  const { client, peer } = await connectedPair(t);
  client.close();
  client.close();
  assert.deepEqual(await peer.read(), { close: { code: 1000, reason: "" } });

  const server = await startServer(t);
  const early = new SocketIo(server.url);
  const connected = early.connect();
  const call = early.call("a");
  early.close();
  early.close();
  await assert.rejects(connected, ConnectionClosedError);
  await assert.rejects(call, ConnectionClosedError);
  await assert.rejects(early.call("b"), ConnectionClosedError);
});

test("close() after a failed opening does nothing", async (t) => {
  const server = await startServer(t);
  const client = new SocketIo(server.url);
  const connected = client.connect();
  (await server.handshake()).refuse();
  await assert.rejects(connected, ConnectionLostError);
  client.close();
});

test("connect() after close() opens anew", async (t) => {
  const { server, client, peer } = await connectedPair(t);
  const { ws } = client;
  client.close();
  const connected = client.connect(); // at once, while the old connection is still closing
  assert.notEqual(client.ws, ws);
  const secondPeer = await server.accept();
  await connected;
  await assertUsable(client, secondPeer);

  // The end of the old connection is no business of the new one.
  const oldEnded = new Promise((resolve) => ws.addEventListener("close", resolve));
  peer.close(1000);
  await oldEnded;
  await assertUsable(client, secondPeer);
});

test("connect() after a lost connection opens anew, as often as one likes", async (t) => {
  const { server, client, peer } = await connectedPair(t);
  let last = peer;
  for (const end of [(p) => p.reset(), (p) => p.end(), (p) => p.close(1013, "later")]) {
    const call = client.call("a");
    end(last);
    await assert.rejects(call, ConnectionLostError);
    const connected = [client.connect(), client.connect()]; // one new connection, not two
    last = await server.accept();
    await Promise.all(connected);
    await assertUsable(client, last);
  }
});

test("connect() while the server's close is not complete opens anew, and old calls reject at once", async (t) => {
  const { server, client, peer } = await connectedPair(t);
  const call = client.call("a");
  await drain(client, peer);
  peer.sendClose(1001);
  await peer.read();
  assert.equal(client.ws.readyState, 2);
  const connected = client.connect();
  await assert.rejects(call, ConnectionLostError);
  const secondPeer = await server.accept();
  await connected;
  peer.end();
  await assertUsable(client, secondPeer);
});

test("nothing reconnects by itself", async (t) => {
  const { client, peer } = await connectedPair(t);
  const { ws } = client;
  const ended = new Promise((resolve) => ws.addEventListener("close", resolve));
  peer.end();
  await ended;
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(client.ws, ws);
  assert.equal(ws.readyState, 3);
});

test("handlers that the page sets on ws do not disturb the client", async (t) => {
  const { client, peer } = await connectedPair(t);
  const heard = [];
  client.ws.onmessage = ({ data }) => heard.push(data.byteLength);
  client.ws.onclose = ({ code }) => heard.push(code);
  const call = client.call("a");
  peer.send(responseFrame(1, "A"));
  assert.equal(text(await call), "A");
  const lost = client.call("b");
  peer.close(1001);
  await assert.rejects(lost, { code: 1001 });
  assert.deepEqual(heard, [6, 1001]);
});

test("ws can not be assigned", async (t) => {
  const { client } = await connectedPair(t);
  assert.throws(() => (client.ws = null), TypeError);
});

test("status() lists the calls in flight and the events listened for, as strings", async (t) => {
  const { client, peer } = await connectedPair(t);
  assert.deepEqual(client.status(), { pending: [], events: [] });
  const controller = new AbortController();
  const calls = [client.call("a"), client.call("b", "", { signal: controller.signal })];
  client.on("pong").next();
  client.on("message").next();
  assert.deepEqual(client.status(), { pending: ["1", "2"], events: ["pong", "message"] });
  controller.abort();
  peer.send(responseFrame(1));
  await Promise.allSettled(calls);
  assert.deepEqual(client.status(), { pending: [], events: ["pong", "message"] });
  client.status().pending.push("99"); // a list of the caller's own
  assert.deepEqual(client.status().pending, []);
});

test("a thousand calls, half of them cancelled, leave nothing behind", async (t) => {
  const { client, peer } = await connectedPair(t);
  const controllers = Array.from({ length: 1000 }, () => new AbortController());
  const calls = controllers.map(({ signal }, at) => client.call("echo", String(at), { signal }));
  controllers.forEach((controller, at) => at % 2 && controller.abort());
  peer.send(...controllers.map((_, at) => responseFrame(at + 1, String(at)))); // to all: answers cross resets
  const outcomes = await Promise.allSettled(calls);
  outcomes.forEach(({ status, value }, at) => {
    assert.equal(status, at % 2 ? "rejected" : "fulfilled");
    if (status === "fulfilled") assert.equal(text(value), String(at));
  });
  assert.equal((await drain(client, peer)).length, 1500);
  await delivered(client, peer);
  assert.deepEqual(client.status(), { pending: [], events: [] });
  await assertUsable(client, peer);
});
