/**
 * Calls and their cancellation. "Row n" is the row of the table of things that go wrong with cancellation, of
 * which those that concern a caller are here.
 */
import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { ConnectionClosedError, ConnectionLostError, RPCAbortError, SocketIo } from "../../src/sockrpc/js/sockrpc.js";
import {
  assertUsable,
  connectedPair,
  delivered,
  drain,
  requestFrame,
  resetFrame,
  responseFrame,
  startServer,
  text,
} from "./support.mjs";

const listenersOf = (signal) => getEventListeners(signal, "abort").length;

/** Counts the timers of one distinctive length that are set and not cleared. */
function countTimers(t, length) {
  const { setTimeout, clearTimeout } = globalThis;
  const live = new Set();
  globalThis.setTimeout = (callback, delay, ...rest) => {
    const timer = setTimeout(callback, delay, ...rest);
    if (delay === length) live.add(timer);
    return timer;
  };
  globalThis.clearTimeout = (timer) => {
    live.delete(timer);
    clearTimeout(timer);
  };
  t.after(() => Object.assign(globalThis, { setTimeout, clearTimeout }));
  return live;
}

// ---- ids ----

test("ids count up from 1 and go on after a reconnection", async (t) => {
  const { server, client, peer } = await connectedPair(t);
  client.call("a").catch(() => {});
  client.call("b").catch(() => {});
  assert.deepEqual(await drain(client, peer), [requestFrame(1, "a"), requestFrame(2, "b")]);
  client.close();
  const connected = client.connect();
  const secondPeer = await server.accept();
  await connected;
  client.call("c").catch(() => {});
  assert.deepEqual(await drain(client, secondPeer), [requestFrame(3, "c")]);
});

test("ids wrap at 2**32 to 0", async (t) => {
  const { client, peer } = await connectedPair(t, { firstId: 2 ** 32 - 2 });
  const calls = ["a", "b", "c", "d"].map((name) => client.call(name));
  assert.deepEqual(client.status().pending, ["4294967294", "4294967295", "0", "1"]);
  for (const [name, id] of Object.entries({ a: 2 ** 32 - 2, b: 2 ** 32 - 1, c: 0, d: 1 })) {
    assert.equal(await peer.readBinary(), requestFrame(id, name));
    peer.send(responseFrame(id, name));
  }
  assert.deepEqual((await Promise.all(calls)).map(text), ["a", "b", "c", "d"]);
});

/** 2**32 calls are out of reach of a test, so the table is taken out of the module. */
function importCallTable() {
  const source = readFileSync(new URL("../../src/sockrpc/js/sockrpc.js", import.meta.url), "utf8");
  return import(`data:text/javascript,${encodeURIComponent(`${source}\nexport { CallTable };`)}`);
}

test("ids in flight are skipped, also across the wrap", async () => {
  const { CallTable } = await importCallTable();
  const table = new CallTable(2 ** 32 - 2);
  for (const id of [2 ** 32 - 1, 0, 1, 3]) table.add({ id });
  assert.deepEqual([table.allocateId(), table.allocateId(), table.allocateId()], [2 ** 32 - 2, 2, 4]);
});

test("row 3: a call is ended by identity, so the end of an earlier one does not touch who has its id now", async () => {
  const { CallTable } = await importCallTable();
  const table = new CallTable(1);
  const [earlier, later] = [{ id: 1 }, { id: 1 }];
  table.add(later);
  assert.equal(table.take(1, earlier), undefined);
  assert.equal(table.take(1, later), later);
  assert.equal(table.take(1), undefined);
});

test("row 3: an id is not used again right after its reset", async (t) => {
  const { client, peer } = await connectedPair(t);
  const controller = new AbortController();
  const first = client.call("a", "", { signal: controller.signal });
  controller.abort();
  const second = client.call("b");
  await assert.rejects(first, RPCAbortError);
  peer.send(responseFrame(1, "answer of the first"), responseFrame(2, "answer of the second"));
  assert.equal(text(await second), "answer of the second");
});

for (const firstId of [-1, 1.5, 2 ** 32, "1", NaN]) {
  test(`a first id of ${JSON.stringify(firstId)} is refused`, () => {
    assert.throws(() => new SocketIo("ws://127.0.0.1:1", { firstId }), RangeError);
  });
}

// ---- answers ----

test("answers find their calls in whatever order they come", async (t) => {
  const { client, peer } = await connectedPair(t);
  const calls = ["a", "b", "c"].map((name) => client.call(name));
  assert.deepEqual(client.status().pending, ["1", "2", "3"]);
  peer.send(responseFrame(3, "C"), responseFrame(1, "A"), responseFrame(2, "B"));
  assert.deepEqual((await Promise.all(calls)).map(text), ["A", "B", "C"]);
  assert.deepEqual(client.status().pending, []);
});

test("an answer for an unknown id is dropped", async (t) => {
  const { client, peer } = await connectedPair(t);
  const call = client.call("a");
  peer.send(responseFrame(0), responseFrame(2), responseFrame(2 ** 32 - 1), responseFrame(1, "A"), responseFrame(1, "again"));
  assert.equal(text(await call), "A");
  await delivered(client, peer);
  assert.deepEqual(await drain(client, peer), [requestFrame(1, "a")]);
  await assertUsable(client, peer);
});

// ---- abort ----

test("rows 6 and 13: an abort sends exactly one reset, in the same turn, and rejects", async (t) => {
  const { client, peer } = await connectedPair(t);
  const controller = new AbortController();
  const call = client.call("long_running_task", [1, 2], { signal: controller.signal, timeout: 60_000 });
  controller.abort("TimeOut!");
  client.notify("after"); // written in the same turn, yet behind the reset
  assert.deepEqual(client.status().pending, []);
  await assert.rejects(call, (error) => {
    assert.ok(error instanceof RPCAbortError);
    assert.ok(error instanceof Error);
    assert.deepEqual({ ...error }, { id: 1, name: "long_running_task", data: [1, 2], reason: "TimeOut!" });
    assert.equal(error.message, "TimeOut!");
    return true;
  });
  controller.abort("again");
  assert.deepEqual(await drain(client, peer), [
    requestFrame(1, "long_running_task", [1, 2]),
    resetFrame(1),
    "01056166746572",
  ]);
  await assertUsable(client, peer);
});

test("an abort without a reason has the signal's own: an AbortError", async (t) => {
  const { client } = await connectedPair(t);
  const controller = new AbortController();
  const call = client.call("a", "", { signal: controller.signal });
  controller.abort();
  await assert.rejects(call, (error) => {
    assert.equal(error.reason, controller.signal.reason);
    assert.equal(error.reason.name, "AbortError");
    assert.equal(error.message, String(controller.signal.reason));
    return true;
  });
});

for (const reason of ["text", 7, null, Symbol("symbol"), new Error("error"), { toString: () => "object" }]) {
  test(`message is String(reason) for ${String(reason)}`, async (t) => {
    const { client } = await connectedPair(t);
    const controller = new AbortController();
    const call = client.call("a", "", { signal: controller.signal });
    controller.abort(reason);
    await assert.rejects(call, (error) => error.reason === reason && error.message === String(reason));
  });
}

test("row 1: an answer that crosses the reset is dropped", async (t) => {
  const { client, peer } = await connectedPair(t);
  const controller = new AbortController();
  const call = client.call("a", "", { signal: controller.signal });
  await peer.readBinary();
  peer.send(responseFrame(1, "too late")); // on its way when the abort comes
  controller.abort();
  await assert.rejects(call, RPCAbortError);
  await delivered(client, peer);
  assert.deepEqual(await drain(client, peer), [resetFrame(1)]);
  await assertUsable(client, peer);
});

test("an abort after the answer sends nothing", async (t) => {
  const { client, peer } = await connectedPair(t);
  const controller = new AbortController();
  const call = client.call("a", "", { signal: controller.signal });
  peer.send(responseFrame(1, "A"));
  assert.equal(text(await call), "A");
  controller.abort();
  assert.deepEqual(await drain(client, peer), [requestFrame(1, "a")]);
});

test("an abort in the same turn in which the answer was received sends nothing", async (t) => {
  const { client, peer } = await connectedPair(t);
  const controller = new AbortController();
  // Runs after the client's own listener and before anything that awaits the call.
  client.ws.addEventListener("message", () => controller.abort(), { once: true });
  const call = client.call("a", "", { signal: controller.signal });
  peer.send(responseFrame(1, "A"));
  assert.equal(text(await call), "A");
  assert.ok(controller.signal.aborted);
  assert.deepEqual(await drain(client, peer), [requestFrame(1, "a")]);
});

test("row 16: a signal that is already aborted sends nothing", async (t) => {
  const { client, peer } = await connectedPair(t);
  const signal = AbortSignal.abort("never mind");
  await assert.rejects(client.call("a", "x", { signal }), { message: "never mind", name: "a", data: "x" });
  assert.equal(listenersOf(signal), 0);
  assert.deepEqual(client.status().pending, []);
  assert.deepEqual(await drain(client, peer), []);
});

test("row 16: one signal serves a hundred calls, each with one reset, and no listener is left", async (t) => {
  const warnings = [];
  const listen = (warning) => warnings.push(warning);
  process.on("warning", listen);
  t.after(() => process.off("warning", listen));
  // Early releases of Node 22 take more than ten listeners on any signal for a leak, and say so.
  const plain = new AbortController().signal;
  for (let count = 0; count < 11; count++) plain.addEventListener("abort", () => {});
  const { client, peer } = await connectedPair(t);
  const takenForLeak = warnings.length > 0;
  const controller = new AbortController();
  const { signal } = controller;
  const ids = Array.from({ length: 100 }, (_, at) => at + 1);
  const calls = ids.map(() => client.call("a", "", { signal }));
  assert.equal(listenersOf(signal), 100);
  controller.abort("all");
  const outcomes = await Promise.allSettled(calls);
  assert.deepEqual(
    outcomes.map(({ reason }) => [reason.id, reason.reason]),
    ids.map((id) => [id, "all"]),
  );
  assert.equal(listenersOf(signal), 0);
  assert.deepEqual(await drain(client, peer), [...ids.map((id) => requestFrame(id, "a")), ...ids.map(resetFrame)]);
  if (!takenForLeak) assert.deepEqual(warnings, []);
  await assertUsable(client, peer);
});

test("row 16: of calls on one signal, those answered before the abort are not reset", async (t) => {
  const { client, peer } = await connectedPair(t);
  const controller = new AbortController();
  const { signal } = controller;
  const calls = ["a", "b", "c"].map((name) => client.call(name, "", { signal }));
  peer.send(responseFrame(2, "B"));
  assert.equal(text(await calls[1]), "B");
  assert.equal(listenersOf(signal), 2);
  controller.abort();
  await Promise.allSettled(calls);
  assert.deepEqual((await drain(client, peer)).slice(3), [resetFrame(1), resetFrame(3)]);
});

test("row 16: listeners are removed however a call settles", async (t) => {
  const { client, peer } = await connectedPair(t);
  const { signal } = new AbortController();
  const answered = client.call("a", "", { signal });
  peer.send(responseFrame(1));
  await answered;
  assert.equal(listenersOf(signal), 0);

  await assert.rejects(client.call("b", "", { signal, timeout: 1 }));
  assert.equal(listenersOf(signal), 0);

  await assert.rejects(client.call("c", null, { signal }));
  assert.equal(listenersOf(signal), 0);

  const lost = client.call("d", "", { signal });
  peer.reset();
  await assert.rejects(lost, ConnectionLostError);
  assert.equal(listenersOf(signal), 0);

  await assert.rejects(client.call("e", "", { signal }), ConnectionLostError);
  assert.equal(listenersOf(signal), 0);
});

test("row 16: the page's own onabort and listeners on a signal are left alone", async (t) => {
  const { client } = await connectedPair(t);
  const controller = new AbortController();
  const heard = [];
  controller.signal.onabort = () => heard.push("onabort");
  controller.signal.addEventListener("abort", () => heard.push("listener"));
  const call = client.call("a", "", { signal: controller.signal });
  controller.abort();
  await assert.rejects(call);
  assert.deepEqual(heard, ["onabort", "listener"]);
});

test("a signal of null or undefined is none; something else is refused before anything is written", async (t) => {
  const { client, peer } = await connectedPair(t);
  const calls = [null, undefined].map((signal) => client.call("a", "", { signal }));
  peer.send(responseFrame(1), responseFrame(2));
  await Promise.all(calls);
  await assert.rejects(client.call("b", "", { signal: {} }), TypeError);
  assert.deepEqual(await drain(client, peer), [requestFrame(1, "a"), requestFrame(2, "a")]);
  assert.deepEqual(client.status().pending, []);
});

// ---- time-outs ----

test("row 17: a time-out sends one reset and rejects with an RPCAbortError whose reason is a TimeoutError", async (t) => {
  const { client, peer } = await connectedPair(t);
  await assert.rejects(client.call("slow", "x", { timeout: 5 }), (error) => {
    assert.ok(error instanceof RPCAbortError);
    assert.deepEqual([error.id, error.name, error.data], [1, "slow", "x"]);
    assert.ok(error.reason instanceof DOMException);
    assert.equal(error.reason.name, "TimeoutError");
    assert.equal(error.message, String(error.reason));
    assert.match(error.message, /"slow" took longer than 5 ms/);
    return true;
  });
  assert.deepEqual(await drain(client, peer), [requestFrame(1, "slow", "x"), resetFrame(1)]);
  await assertUsable(client, peer);
});

test("a time-out of 0 still sends the request, then its reset", async (t) => {
  const { client, peer } = await connectedPair(t);
  await assert.rejects(client.call("a", "", { timeout: 0 }), RPCAbortError);
  assert.deepEqual(await drain(client, peer), [requestFrame(1, "a"), resetFrame(1)]);
});

test("row 6: a time-out and an abort of one call send one reset", async (t) => {
  const { client, peer } = await connectedPair(t);
  const controller = new AbortController();
  const call = client.call("a", "", { signal: controller.signal, timeout: 1 });
  await assert.rejects(call, (error) => error.reason.name === "TimeoutError");
  controller.abort();
  assert.deepEqual(await drain(client, peer), [requestFrame(1, "a"), resetFrame(1)]);
});

test("timers are cleared however a call settles", async (t) => {
  const timers = countTimers(t, 123_456);
  const { client, peer } = await connectedPair(t);
  const timeout = 123_456;
  const controller = new AbortController();
  const answered = client.call("a", "", { timeout });
  const aborted = client.call("b", "", { timeout, signal: controller.signal });
  const lost = client.call("c", "", { timeout });
  assert.equal(timers.size, 3);
  peer.send(responseFrame(1));
  await answered;
  assert.equal(timers.size, 2);
  controller.abort();
  await assert.rejects(aborted, RPCAbortError);
  assert.equal(timers.size, 1);
  peer.reset();
  await assert.rejects(lost, ConnectionLostError);
  assert.equal(timers.size, 0);
  await assert.rejects(client.call("d", "", { timeout }), ConnectionLostError);
  assert.equal(timers.size, 0);
});

test("a time-out of Infinity is none, one out of range is refused before anything is written", async (t) => {
  const timers = countTimers(t, Infinity);
  const { client, peer } = await connectedPair(t);
  const call = client.call("a", "", { timeout: Infinity });
  assert.equal(timers.size, 0);
  peer.send(responseFrame(1));
  await call;
  for (const timeout of [-1, NaN, 2 ** 31, -Infinity, "5", null]) {
    await assert.rejects(client.call("b", "", { timeout }), RangeError);
  }
  assert.deepEqual(await drain(client, peer), [requestFrame(1, "a")]);
});

// ---- before the opening ----

test("calls and notifications made before the opening are written when it comes, in order", async (t) => {
  const server = await startServer(t);
  const client = new SocketIo(server.url);
  t.after(() => client.close());
  const call = client.call("a", "1");
  client.notify("b", "2");
  client.call("c", "3").catch(() => {});
  assert.deepEqual(client.status().pending, ["1", "2"]);
  const peer = await server.accept();
  assert.equal(await peer.readBinary(), requestFrame(1, "a", "1"));
  assert.equal(await peer.readBinary(), "01016232");
  assert.equal(await peer.readBinary(), requestFrame(2, "c", "3"));
  peer.send(responseFrame(1, "A"));
  assert.equal(text(await call), "A");
});

test("row 5: a call aborted or timed out before its request was written sends nothing", async (t) => {
  const server = await startServer(t);
  const client = new SocketIo(server.url);
  t.after(() => client.close());
  const controller = new AbortController();
  const aborted = client.call("aborted", "", { signal: controller.signal });
  const timedOut = client.call("timed out", "", { timeout: 1 });
  const kept = client.call("kept");
  const rejections = Promise.all([
    assert.rejects(aborted, { message: "gone", id: 1 }),
    assert.rejects(timedOut, (error) => error.reason.name === "TimeoutError"),
  ]);
  controller.abort("gone");
  const handshake = await server.handshake(); // not answered: the client can not write yet
  await rejections;
  assert.deepEqual(client.status().pending, ["3"]);
  assert.equal(listenersOf(controller.signal), 0);
  const peer = handshake.accept();
  await client.connect();
  assert.deepEqual(await drain(client, peer), [requestFrame(3, "kept")]);
  peer.send(responseFrame(3));
  await kept;
});

test("a call made before the opening and aborted after it is reset", async (t) => {
  const server = await startServer(t);
  const client = new SocketIo(server.url);
  t.after(() => client.close());
  const controller = new AbortController();
  const call = client.call("a", "", { signal: controller.signal });
  const peer = await server.accept();
  assert.equal(await peer.readBinary(), requestFrame(1, "a"));
  controller.abort("late");
  await assert.rejects(call, { message: "late" });
  assert.deepEqual(await drain(client, peer), [resetFrame(1)]);
});

test("calls waiting for an opening that fails reject at once, and nothing of them is sent later", async (t) => {
  const server = await startServer(t);
  const client = new SocketIo(server.url);
  t.after(() => client.close());
  const call = client.call("a");
  client.notify("b");
  (await server.handshake()).refuse();
  await assert.rejects(call, { name: "ConnectionLostError", code: 1006 });
  assert.deepEqual(client.status().pending, []);
  const connected = client.connect();
  const peer = await server.accept();
  await connected;
  assert.deepEqual(await drain(client, peer), []);
});

// ---- the end of a connection ----

for (const [kind, end, code, reason] of [
  ["a close frame of 1001", (peer) => peer.close(1001, "going away"), 1001, "going away"],
  ["a close frame of 1013", (peer) => peer.close(1013, "try again"), 1013, "try again"],
  ["a close frame without a code", (peer) => peer.close(1005), 1005, ""],
  ["TCP FIN", (peer) => peer.end(), 1006, undefined],
  ["TCP RST", (peer) => peer.reset(), 1006, undefined],
  ["a frame that is no WebSocket frame", (peer) => peer.sendRaw(Buffer.from("f200", "hex")), 1006, undefined],
]) {
  test(`rows 14 and 15: ${kind} rejects all calls in flight at once`, async (t) => {
    const { client, peer } = await connectedPair(t);
    const { signal } = new AbortController();
    const calls = [client.call("a"), client.call("b", "", { signal }), client.call("c", "", { timeout: 60_000 })];
    await drain(client, peer);
    end(peer);
    const outcomes = await Promise.allSettled(calls);
    for (const { reason: error } of outcomes) {
      assert.ok(error instanceof ConnectionLostError);
      assert.ok(!(error instanceof RPCAbortError));
      assert.equal(error.code, code);
      if (reason !== undefined) assert.equal(error.reason, reason);
      assert.match(error.message, new RegExp(`^connection lost \\(${code}`));
    }
    assert.equal(new Set(outcomes.map(({ reason: error }) => error)).size, 3);
    assert.deepEqual(client.status().pending, []);
    await assert.rejects(client.call("d"), { name: "ConnectionLostError", code });
    assert.throws(() => client.notify("e"), { name: "ConnectionLostError", code });
  });
}

test("row 15: calls in flight when the line dies are not replayed after connect()", async (t) => {
  const { server, client, peer } = await connectedPair(t);
  const call = client.call("pay", "100");
  await peer.readBinary();
  peer.reset();
  await assert.rejects(call, ConnectionLostError);
  const connected = client.connect();
  const secondPeer = await server.accept();
  await connected;
  assert.deepEqual(await drain(client, secondPeer), []);
  secondPeer.send(responseFrame(1, "of another connection"));
  await delivered(client, secondPeer);
  await assertUsable(client, secondPeer);
});

test("an abort after the line has died sends nothing, also not on the next connection", async (t) => {
  const { server, client, peer } = await connectedPair(t);
  const controller = new AbortController();
  const call = client.call("a", "", { signal: controller.signal });
  await peer.readBinary();
  peer.end();
  await assert.rejects(call, ConnectionLostError);
  const connected = client.connect();
  const secondPeer = await server.accept();
  await connected;
  controller.abort();
  assert.deepEqual(await drain(client, secondPeer), []);
});

test("while the server's close is not complete, an abort still rejects, and a new call is refused", async (t) => {
  const { client, peer } = await connectedPair(t);
  const controller = new AbortController();
  const aborted = client.call("a", "", { signal: controller.signal });
  const waiting = client.call("c");
  await drain(client, peer);
  peer.sendClose(1001); // and the line stays open
  assert.deepEqual(await peer.read(), { close: { code: 1001, reason: "" } });
  assert.equal(client.ws.readyState, 2);
  controller.abort("now");
  await assert.rejects(aborted, { message: "now" });
  await assert.rejects(client.call("d"), { name: "ConnectionLostError", code: 1006 });
  assert.throws(() => client.notify("e"), ConnectionLostError);
  assert.deepEqual(client.status().pending, ["2"]);
  peer.end();
  await assert.rejects(waiting, { name: "ConnectionLostError", code: 1001 });
});

test("close() rejects the calls in flight at once, without a reset", async (t) => {
  const { client, peer } = await connectedPair(t);
  const { signal } = new AbortController();
  const call = client.call("a", "", { signal });
  client.close();
  assert.deepEqual(client.status().pending, []);
  await assert.rejects(call, (error) => error instanceof ConnectionClosedError && !(error instanceof RPCAbortError));
  assert.equal(listenersOf(signal), 0);
  assert.equal(await peer.readBinary(), requestFrame(1, "a"));
  assert.deepEqual(await peer.read(), { close: { code: 1000, reason: "" } });
  await assert.rejects(client.call("b"), ConnectionClosedError);
  assert.throws(() => client.notify("c"), ConnectionClosedError);
});
