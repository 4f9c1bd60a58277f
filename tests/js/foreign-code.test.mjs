/**
 * The page's code within ours: what it hands in may throw when it is made text, and a WebSocket that it injects may
 * run anything within `send`. A call settles all the same, and once.
 */
import assert from "node:assert/strict";
import { test } from "node:test";

import { ConnectionClosedError, ConnectionLostError, RPCAbortError, SocketIo } from "../../src/sockrpc/js/sockrpc.js";
import {
  assertUsable,
  connectedPair,
  drain,
  hex,
  requestFrame,
  resetFrame,
  responseFrame,
  text,
  vectors,
} from "./support.mjs";

const SUBPROTOCOL = vectors.subprotocol;

/** A WebSocket without a line: `sent` has what was sent, and `onsend` runs within each `send`. */
class Wire extends EventTarget {
  readyState = 1;
  protocol = SUBPROTOCOL;
  sent = [];
  onsend = () => {};

  send(data) {
    this.sent.push(hex(data));
    this.onsend();
  }

  close() {
    this.readyState = 3;
  }

  receive(frame) {
    this.dispatchEvent(Object.assign(new Event("message"), { data: new Uint8Array(Buffer.from(frame, "hex")).buffer }));
  }
}

const wired = (t, options = {}) => {
  const client = new SocketIo("ws://nowhere", { WebSocket: Wire, ...options });
  t.after(() => client.close());
  return client;
};

const throwing = {
  "an object without a prototype": /(?<who>.)/.exec("x").groups,
  "a toString that throws": {
    toString() {
      throw new Error("no text");
    },
  },
  "a toString that returns no text": { toString: () => ({}), valueOf: () => ({}) },
  "a revoked proxy": (() => {
    const { proxy, revoke } = Proxy.revocable({}, {});
    revoke();
    return proxy;
  })(),
};

for (const [what, reason] of Object.entries(throwing)) {
  test(`an abort whose reason is ${what} sends the reset and rejects`, async (t) => {
    const { client, peer } = await connectedPair(t);
    const controller = new AbortController();
    const call = client.call("a", "", { signal: controller.signal, timeout: 60_000 });
    controller.abort(reason);
    await assert.rejects(call, (error) => {
      assert.ok(error instanceof RPCAbortError);
      assert.ok(error.reason === reason);
      assert.equal(error.message, "(a value that cannot be shown)");
      return true;
    });
    assert.deepEqual(await drain(client, peer), [requestFrame(1, "a"), resetFrame(1)]);
    await assertUsable(client, peer);
  });

  test(`a signal that was aborted before with ${what} rejects, and nothing is sent`, async (t) => {
    const { client, peer } = await connectedPair(t);
    await assert.rejects(client.call("a", "", { signal: AbortSignal.abort(reason) }), RPCAbortError);
    assert.deepEqual(await drain(client, peer), []);
    await assertUsable(client, peer);
  });

  test(`an error event whose message is ${what} rejects all calls`, async (t) => {
    const client = wired(t);
    const calls = [client.call("a"), client.call("b")];
    client.ws.dispatchEvent(Object.assign(new Event("error"), { message: reason }));
    for (const call of calls) await assert.rejects(call, ConnectionLostError);
    assert.deepEqual(client.status().pending, []);
  });
}

test("a reason whose toString closes the client leaves the call with one end, and sends nothing more", async (t) => {
  const client = wired(t);
  const controller = new AbortController();
  const call = client.call("a", "", { signal: controller.signal });
  controller.abort({
    toString() {
      client.close();
      return "closed";
    },
  });
  await assert.rejects(call, ConnectionClosedError);
  assert.deepEqual(client.ws.sent, [requestFrame(1, "a")]);
});

test("a reason whose toString makes another call does not mix the two up", async (t) => {
  const client = wired(t);
  const controller = new AbortController();
  let other;
  const call = client.call("a", "", { signal: controller.signal });
  controller.abort({
    toString() {
      other = client.call("b");
      return "given up";
    },
  });
  await assert.rejects(call, { message: "given up", id: 1 });
  client.ws.receive(responseFrame(2, "B"));
  assert.equal(text(await other), "B");
  assert.deepEqual(client.ws.sent, [requestFrame(1, "a"), requestFrame(2, "b"), resetFrame(1)]);
});

test("an answer that comes within send is the answer", async (t) => {
  const client = wired(t);
  client.ws.onsend = () => client.ws.receive(responseFrame(1, "A"));
  assert.equal(text(await client.call("a")), "A");
  assert.deepEqual(client.status().pending, []);
});

test("an abort within send is followed by the reset", async (t) => {
  const client = wired(t);
  const controller = new AbortController();
  client.ws.onsend = () => controller.abort("now");
  await assert.rejects(client.call("a", "", { signal: controller.signal }), { message: "now" });
  assert.deepEqual(client.ws.sent, [requestFrame(1, "a"), resetFrame(1)]);
});

test("a send that throws rejects its call with that, and leaves nothing in flight", async (t) => {
  const client = wired(t);
  client.ws.onsend = () => {
    throw new Error("the line is full");
  };
  await assert.rejects(client.call("a"), { message: "the line is full" });
  assert.deepEqual(client.status().pending, []);
});

test("a send that ends the connection and throws rejects its call once", async (t) => {
  const client = wired(t);
  client.ws.onsend = () => {
    client.close();
    throw new Error("the line is gone");
  };
  await assert.rejects(client.call("a"), { message: "the line is gone" });
  assert.deepEqual(client.status().pending, []);
});

test("a reset that cannot be sent rejects its call all the same", async (t) => {
  const client = wired(t);
  let abort;
  const signal = {
    reason: "given up",
    addEventListener: (_, listener) => (abort = listener),
    removeEventListener() {},
  };
  const call = client.call("a", "", { signal });
  client.ws.onsend = () => {
    throw new Error("the line is full");
  };
  assert.throws(abort, { message: "the line is full" });
  await assert.rejects(call, { message: "given up" });
  assert.deepEqual(client.status().pending, []);
});

test("of calls aborted within the first send of the opening, only the one that was sent is reset", async (t) => {
  class Opening extends Wire {
    readyState = 0;
  }
  const client = wired(t, { WebSocket: Opening });
  const [first, second] = [new AbortController(), new AbortController()];
  const calls = [
    client.call("a", "", { signal: first.signal }),
    client.call("b", "", { signal: second.signal }),
    client.call("c"),
  ];
  client.ws.onsend = () => {
    client.ws.onsend = () => {};
    second.abort("unsent");
    first.abort("sent");
  };
  client.ws.readyState = 1;
  client.ws.dispatchEvent(new Event("open"));
  await assert.rejects(calls[0], { message: "sent" });
  await assert.rejects(calls[1], { message: "unsent" });
  assert.deepEqual(client.ws.sent, [requestFrame(1, "a"), resetFrame(1), requestFrame(3, "c")]);
  client.ws.receive(responseFrame(3));
  await calls[2];
});

test("a WebSocket whose close throws does not keep the iterators open", async (t) => {
  const client = new SocketIo("ws://nowhere", { WebSocket: Wire });
  const next = client.on("event").next();
  client.ws.close = () => {
    throw new Error("no");
  };
  assert.throws(() => client.close(), { message: "no" });
  assert.deepEqual(await next, { done: true, value: undefined });
});
