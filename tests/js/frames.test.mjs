/** The bytes on the wire, against the vectors shared with the Python tests, and what happens to wrong ones. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { ConnectionLostError } from "../../src/sockrpc/js/sockrpc.js";
import { frame } from "./raw-server.mjs";
import { connectedPair, drain, hex, notifyFrame, requestFrame, responseFrame, text, vectors } from "./support.mjs";

const bytes = (digits) => Uint8Array.from(Buffer.from(digits, "hex"));

for (const { meaning, sender, hex: message, frame } of vectors.valid) {
  const title = `worked bytes, from the ${sender}: ${meaning}`;

  if (frame.type === "request") {
    test(title, async (t) => {
      const { client, peer } = await connectedPair(t, { firstId: frame.id });
      client.call(frame.name, bytes(frame.payload)).catch(() => {});
      assert.equal(await peer.readBinary(), message);
    });
  } else if (frame.type === "reset") {
    test(title, async (t) => {
      const { client, peer } = await connectedPair(t, { firstId: frame.id });
      const controller = new AbortController();
      const call = client.call("long_runing_task", [], { signal: controller.signal });
      controller.abort();
      await assert.rejects(call);
      await peer.readBinary();
      assert.equal(await peer.readBinary(), message);
    });
  } else if (frame.type === "response") {
    test(title, async (t) => {
      const { client, peer } = await connectedPair(t, { firstId: frame.id });
      const call = client.call("any");
      peer.send(message);
      assert.equal(hex(await call), frame.payload);
    });
  } else if (sender === "client") {
    test(title, async (t) => {
      const { client, peer } = await connectedPair(t);
      client.notify(frame.name, bytes(frame.payload));
      assert.equal(await peer.readBinary(), message);
    });
  } else {
    test(title, async (t) => {
      const { client, peer } = await connectedPair(t);
      const next = client.on(frame.name).next();
      peer.send(message);
      assert.equal(hex((await next).value), frame.payload);
    });
  }
}

test("every kind of frame in the vectors has been met", () => {
  const kinds = new Set(vectors.valid.map(({ sender, frame }) => `${sender} ${frame.type}`));
  assert.deepEqual([...kinds].sort(), [
    "client notify",
    "client request",
    "client reset",
    "server notify",
    "server response",
  ]);
});

const invalid = [
  ...vectors.invalid.filter(({ receiver }) => receiver === "client"),
  { meaning: "notification without a name length, to a client", hex: "01", reason: "short" },
  { meaning: "opcode 0, to a client", hex: "0000000001", reason: "opcode" },
  { meaning: "response without an id", hex: "04", reason: "short" },
];

for (const { meaning, hex: message, reason } of invalid) {
  test(`malformed: ${meaning} closes with 4002 and a reason, and rejects the calls in flight`, async (t) => {
    const { client, peer } = await connectedPair(t);
    const calls = [client.call("one"), client.call("two")];
    await peer.readBinary();
    await peer.readBinary();
    peer.send(message);
    for (const call of calls) {
      await assert.rejects(call, (error) => {
        assert.ok(error instanceof ConnectionLostError);
        assert.equal(error.code, 4002);
        assert.match(error.reason, new RegExp(`^protocol error: .*${reason}`));
        return true;
      });
    }
    const { close } = await peer.read();
    assert.equal(close.code, 4002);
    assert.match(close.reason, new RegExp(`^protocol error: .*${reason}`));
  });
}

test("a text message closes with 4003 and a reason, and rejects the calls in flight", async (t) => {
  const { client, peer } = await connectedPair(t);
  const call = client.call("one");
  await peer.readBinary();
  peer.sendText("hello");
  await assert.rejects(call, { name: "ConnectionLostError", code: 4003, reason: "protocol error: text message" });
  assert.deepEqual(await peer.read(), { close: { code: 4003, reason: "protocol error: text message" } });
});

test("what stands before a malformed message in the same read is served, what stands after it is ignored", async (t) => {
  const { server, client, peer } = await connectedPair(t);
  const [before, after] = [client.call("before"), client.call("after")];
  const listener = client.on("news");
  const first = listener.next();
  peer.send(responseFrame(1, "1"), notifyFrame("news", "1"), "ff", responseFrame(2, "2"), notifyFrame("news", "2"));
  assert.equal(text(await before), "1");
  await assert.rejects(after, ConnectionLostError);
  assert.equal(text((await first).value), "1");

  const reconnected = client.connect();
  const secondPeer = await server.accept();
  await reconnected;
  secondPeer.send(notifyFrame("news", "3"));
  assert.equal(text((await listener.next()).value), "3");
});

test("after a malformed message a WebSocket that goes on delivering is not heard", async (t) => {
  const { client, peer } = await connectedPair(t);
  const listener = client.on("news");
  listener.next();
  peer.send(notifyFrame("news", "1"), "ff");
  await peer.read(); // the close frame
  const data = Uint8Array.from(Buffer.from(notifyFrame("news", "2"), "hex")).buffer;
  client.ws.dispatchEvent(new MessageEvent("message", { data }));
  client.close();
  assert.deepEqual(await listener.next(), { done: true, value: undefined });
});

test("a malformed message never reaches the console or the process as an exception", async (t) => {
  const uncaught = [];
  const listen = (error) => uncaught.push(error);
  process.on("uncaughtException", listen).on("unhandledRejection", listen);
  t.after(() => process.off("uncaughtException", listen).off("unhandledRejection", listen));
  const { peer } = await connectedPair(t);
  peer.send("");
  await peer.read();
  assert.deepEqual(uncaught, []);
});

test("a name of 255 bytes goes out, one of 256 is refused before anything is written", async (t) => {
  const { client, peer } = await connectedPair(t);
  const [longest, tooLong] = ["é".repeat(127) + "a", "é".repeat(128)];
  await assert.rejects(client.call(tooLong), RangeError);
  assert.throws(() => client.notify(tooLong), RangeError);
  assert.throws(() => client.on(tooLong), RangeError);
  client.call(longest).catch(() => {});
  client.notify(longest);
  assert.deepEqual(await drain(client, peer), [requestFrame(1, longest), notifyFrame(longest)]);
});

test("a name must be a string", async (t) => {
  const { client, peer } = await connectedPair(t);
  await assert.rejects(client.call(undefined), TypeError);
  assert.throws(() => client.notify(7), TypeError);
  assert.throws(() => client.on(null), TypeError);
  assert.deepEqual(await drain(client, peer), []);
});

test("a name that begins with a byte order mark keeps it", async (t) => {
  const { client, peer } = await connectedPair(t);
  const next = client.on("\ufeffnews").next();
  peer.send(notifyFrame("news", "no"), notifyFrame("\ufeffnews", "yes"));
  assert.equal(text((await next).value), "yes");
});

const memory = Uint8Array.from([9, 1, 2, 3, 4, 9, 9, 9]).buffer;

for (const [kind, data, payload] of [
  ["a string, as UTF-8", "hé👀", "68c3a9f09f9180"],
  ["an ArrayBuffer", Uint8Array.from([1, 2, 3]).buffer, "010203"],
  ["a Uint8Array", Uint8Array.from([0, 255]), "00ff"],
  ["a Uint8Array on a part of its buffer", new Uint8Array(memory, 1, 4), "01020304"],
  ["a Buffer on a part of its pool", Buffer.from("hi"), "6869"],
  ["a DataView on a part of its buffer", new DataView(memory, 2, 2), "0203"],
  ["a Uint16Array, as its bytes", new Uint16Array(memory, 2, 1), "0203"],
  ["a Uint8Array on shared memory", new Uint8Array(new SharedArrayBuffer(2)), "0000"],
  ["an array", [1, 2, 255], "0102ff"],
  ["an array-like", { length: 2, 0: 7, 1: 8 }, "0708"],
  ["an empty string", "", ""],
  ["an empty array", [], ""],
  ["an empty view", new Uint8Array(memory, 8), ""],
  ["an empty ArrayBuffer", new ArrayBuffer(0), ""],
  ["nothing", undefined, ""],
]) {
  test(`payload: ${kind}`, async (t) => {
    const { client, peer } = await connectedPair(t);
    client.notify("n", data);
    client.call("c", data).catch(() => {});
    assert.deepEqual(await drain(client, peer), [`01016e${payload}`, `02000000010163${payload}`]);
  });
}

for (const [kind, data, error] of [
  ["null", null, TypeError],
  ["a number", 5, TypeError],
  ["an object", {}, TypeError],
  ["a Blob", new Blob(["x"]), TypeError],
  ["an array with 256", [256], RangeError],
  ["an array with -1", [-1], RangeError],
  ["an array with a fraction", [1.5], RangeError],
  ["an array of strings", ["a"], RangeError],
]) {
  test(`payload: ${kind} is refused before anything is written`, async (t) => {
    const { client, peer } = await connectedPair(t);
    assert.throws(() => client.notify("n", data), error);
    await assert.rejects(client.call("c", data), error);
    assert.deepEqual(await drain(client, peer), []);
    assert.deepEqual(client.status().pending, []);
  });
}

test("a payload of a mebibyte goes both ways", async (t) => {
  const { client, peer } = await connectedPair(t);
  const payload = new Uint8Array(2 ** 20).map((_, at) => at * 31);
  const call = client.call("echo", payload);
  assert.equal(await peer.readBinary(), `0200000001046563686f${hex(payload)}`);
  peer.send(`0400000001${hex(payload)}`);
  assert.deepEqual(Buffer.from(await call), Buffer.from(payload));
});

test("bytes changed after the call has returned do not change the request, also before the opening", async (t) => {
  const { server, client, peer } = await connectedPair(t);
  const payload = Uint8Array.from([1, 2]);
  client.call("c", payload).catch(() => {});
  payload.fill(9);
  assert.deepEqual(await drain(client, peer), ["020000000101630102"]);

  client.close();
  const connected = client.connect();
  client.notify("n", payload);
  payload.fill(7);
  const secondPeer = await server.accept();
  await connected;
  assert.deepEqual(await drain(client, secondPeer), ["01016e0909"]);
});

test("payloads given out are Uint8Arrays whose buffer holds nothing else", async (t) => {
  const { client, peer } = await connectedPair(t);
  const call = client.call("c");
  const next = client.on("n").next();
  peer.send(responseFrame(1, "abc"), notifyFrame("n", "defg"));
  for (const [payload, length] of [
    [await call, 3],
    [(await next).value, 4],
  ]) {
    assert.equal(Object.getPrototypeOf(payload), Uint8Array.prototype);
    assert.deepEqual([payload.byteOffset, payload.byteLength, payload.buffer.byteLength], [0, length, length]);
  }
});

test("a fragmented answer is put together", async (t) => {
  const { client, peer } = await connectedPair(t);
  const call = client.call("c");
  const whole = Buffer.from(responseFrame(1, "whole"), "hex");
  peer.sendRaw(frame(2, whole.subarray(0, 3), { fin: false }));
  peer.sendRaw(frame(0, whole.subarray(3)));
  assert.equal(text(await call), "whole");
});
