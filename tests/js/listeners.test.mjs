/** Events: what `on()` gives out, how listeners begin, end and fall behind. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { ListenerOverflowError } from "../../src/sockrpc/js/sockrpc.js";
import { connectedPair, delivered, notifyFrame, text } from "./support.mjs";

const DONE = { done: true, value: undefined };

/** Takes what the iterator holds until it is done or throws. */
async function collect(iterator) {
  const payloads = [];
  for await (const payload of iterator) payloads.push(text(payload));
  return payloads;
}

const read = async (iterator) => text((await iterator.next()).value);

test("for await over on() gets the payloads in order; leaving the loop unsubscribes", async (t) => {
  const { client, peer } = await connectedPair(t);
  const loop = (async () => {
    const payloads = [];
    for await (const payload of client.on("pong")) {
      payloads.push(text(payload));
      if (payloads.length === 3) break;
    }
    return payloads;
  })();
  assert.deepEqual(client.status().events, ["pong"]);
  peer.send(notifyFrame("pong", "1"), notifyFrame("other", "x"), notifyFrame("pong", ""), notifyFrame("pong", "3"));
  assert.deepEqual(await loop, ["1", "", "3"]);
  assert.deepEqual(client.status().events, []);
});

test("a listener exists from its first next(), not from on()", async (t) => {
  const { client, peer } = await connectedPair(t);
  const listener = client.on("pong");
  assert.deepEqual(client.status().events, []);
  peer.send(notifyFrame("pong", "before"));
  await delivered(client, peer);
  const first = listener.next();
  assert.deepEqual(client.status().events, ["pong"]);
  peer.send(notifyFrame("pong", "after"));
  assert.equal(text((await first).value), "after");
});

test("between two next() a listener holds what comes", async (t) => {
  const { client, peer } = await connectedPair(t);
  const listener = client.on("pong");
  const first = listener.next();
  peer.send(notifyFrame("pong", "1"), notifyFrame("pong", "2"), notifyFrame("pong", "3"));
  await delivered(client, peer);
  assert.equal(text((await first).value), "1");
  assert.equal(await read(listener), "2");
  assert.equal(await read(listener), "3");
});

test("several next() at once are served in order", async (t) => {
  const { client, peer } = await connectedPair(t);
  const listener = client.on("pong");
  const reads = [read(listener), read(listener), read(listener)];
  peer.send(notifyFrame("pong", "1"), notifyFrame("pong", "2"), notifyFrame("pong", "3"));
  assert.deepEqual(await Promise.all(reads), ["1", "2", "3"]);
});

test("several listeners of one event each get every payload, and a copy of their own", async (t) => {
  const { client, peer } = await connectedPair(t);
  const [one, two] = [client.on("pong"), client.on("pong")];
  const firsts = [one.next(), two.next()];
  assert.deepEqual(client.status().events, ["pong"]);
  peer.send(notifyFrame("pong", "1"), notifyFrame("pong", "2"));
  const [{ value: mine }, { value: theirs }] = await Promise.all(firsts);
  mine.fill(0);
  assert.equal(text(theirs), "1");
  assert.notEqual(mine.buffer, theirs.buffer);
  assert.deepEqual([await read(one), await read(two)], ["2", "2"]);
});

test("the end of one listener leaves the others of its event alone", async (t) => {
  const { client, peer } = await connectedPair(t);
  const [one, two] = [client.on("pong"), client.on("pong")];
  const firsts = [one.next(), two.next()];
  await one.return();
  assert.deepEqual(await firsts[0], DONE);
  assert.deepEqual(client.status().events, ["pong"]);
  peer.send(notifyFrame("pong", "1"));
  assert.equal(text((await firsts[1]).value), "1");
  await two.return();
  assert.deepEqual(client.status().events, []);
});

test("names such as __proto__ are events like any other", async (t) => {
  const { client, peer } = await connectedPair(t);
  const reads = ["__proto__", "constructor", ""].map((event) => read(client.on(event)));
  assert.deepEqual(client.status().events, ["__proto__", "constructor", ""]);
  peer.send(notifyFrame("", "3"), notifyFrame("__proto__", "1"), notifyFrame("constructor", "2"));
  assert.deepEqual(await Promise.all(reads), ["1", "2", "3"]);
});

test("row 23: return() while a next() waits ends both at once", async (t) => {
  const { client } = await connectedPair(t);
  const listener = client.on("pong");
  const waiting = [listener.next(), listener.next()];
  assert.deepEqual(await listener.return(), DONE);
  assert.deepEqual(await Promise.all(waiting), [DONE, DONE]);
  assert.deepEqual(client.status().events, []);
  assert.deepEqual(await listener.next(), DONE);
});

test("return() drops what is held, twice is as good as once, and before the first next() nothing ever listens", async (t) => {
  const { client, peer } = await connectedPair(t);
  const listener = client.on("pong");
  const first = listener.next();
  peer.send(notifyFrame("pong", "1"), notifyFrame("pong", "2"));
  await delivered(client, peer);
  await first;
  assert.deepEqual(await listener.return(), DONE);
  assert.deepEqual(await listener.return(), DONE);
  assert.deepEqual(await listener.next(), DONE);

  const unused = client.on("pong");
  await unused.return();
  assert.deepEqual(await unused.next(), DONE);
  assert.deepEqual(client.status().events, []);
});

test("throw() unsubscribes and rejects with what it was given", async (t) => {
  const { client } = await connectedPair(t);
  const listener = client.on("pong");
  const waiting = listener.next();
  await assert.rejects(listener.throw(new Error("mine")), { message: "mine" });
  assert.deepEqual(await waiting, DONE);
  assert.deepEqual(client.status().events, []);
});

test("asynchronous disposal unsubscribes", { skip: !Symbol.asyncDispose }, async (t) => {
  const { client } = await connectedPair(t);
  const listener = client.on("pong");
  const waiting = listener.next();
  await listener[Symbol.asyncDispose]();
  assert.deepEqual(await waiting, DONE);
});

test("what on() gives out shows nothing but an iterator", async (t) => {
  const { client } = await connectedPair(t);
  assert.deepEqual(Object.keys(client.on("pong")), ["next", "return", "throw"]);
});

test("removeEvent() ends all listeners of the event after what they hold, and says whether there was one", async (t) => {
  const { client, peer } = await connectedPair(t);
  const [holding, waiting, other] = [client.on("pong"), client.on("pong"), client.on("other")];
  const first = holding.next();
  waiting.next();
  const otherFirst = other.next();
  peer.send(notifyFrame("pong", "1"), notifyFrame("pong", "2"));
  await delivered(client, peer);
  await first;
  const loop = collect(waiting);
  assert.equal(client.removeEvent("pong"), true);
  assert.equal(client.removeEvent("pong"), false);
  assert.equal(client.removeEvent("never"), false);
  assert.deepEqual(client.status().events, ["other"]);
  assert.deepEqual(await collect(holding), ["2"]);
  assert.deepEqual(await loop, ["2"]);

  const again = client.on("pong");
  const next = again.next();
  peer.send(notifyFrame("pong", "3"), notifyFrame("other", "4"));
  assert.equal(text((await next).value), "3");
  assert.equal(text((await otherFirst).value), "4");
});

test("close() ends all iterators after what they hold", async (t) => {
  const { client, peer } = await connectedPair(t);
  const [holding, waiting] = [client.on("pong"), client.on("other")];
  const first = holding.next();
  const loop = collect(waiting);
  peer.send(notifyFrame("pong", "1"), notifyFrame("pong", "2"));
  await delivered(client, peer);
  await first;
  client.close();
  assert.deepEqual(client.status().events, []);
  assert.deepEqual(await loop, []);
  assert.deepEqual(await collect(holding), ["2"]);
});

test("listeners survive a lost connection: they go on, in silence, after connect()", async (t) => {
  const { server, client, peer } = await connectedPair(t);
  const listener = client.on("pong");
  const first = listener.next();
  peer.send(notifyFrame("pong", "1"), notifyFrame("pong", "2"));
  assert.equal(text((await first).value), "1");
  const lost = client.call("a");
  peer.reset();
  await assert.rejects(lost);
  assert.deepEqual(client.status().events, ["pong"]);
  const secondListener = client.on("pong"); // one may also begin while there is no connection
  const secondFirst = secondListener.next();
  const connected = client.connect();
  const secondPeer = await server.accept();
  await connected;
  secondPeer.send(notifyFrame("pong", "3"));
  assert.deepEqual([await read(listener), await read(listener)], ["2", "3"]);
  assert.equal(text((await secondFirst).value), "3");
});

test("a listener may begin before the opening, and after close() for the next connection", async (t) => {
  const { server, client } = await connectedPair(t);
  client.close();
  const first = client.on("pong").next();
  const connected = client.connect();
  const secondPeer = await server.accept();
  await connected;
  secondPeer.send(notifyFrame("pong", "1"));
  assert.equal(text((await first).value), "1");
});

// ---- limits ----

test("a listener that holds exactly maxListenerPayloads gets them all; one more ends it after what it holds", async (t) => {
  const { client, peer } = await connectedPair(t, { maxListenerPayloads: 3 });
  const [atTheLimit, over, reading] = [client.on("a"), client.on("b"), client.on("b")];
  const firsts = [atTheLimit.next(), over.next()];
  const loop = (async () => {
    const payloads = [];
    for await (const payload of reading) if (payloads.push(text(payload)) === 5) return payloads;
  })();
  for (const payload of ["0", "1", "2", "3"]) {
    peer.send(notifyFrame("a", payload), notifyFrame("b", payload));
    await delivered(client, peer);
  }
  peer.send(notifyFrame("b", "4"));
  await delivered(client, peer);
  await Promise.all(firsts);

  assert.deepEqual([await read(over), await read(over), await read(over)], ["1", "2", "3"]);
  await assert.rejects(over.next(), (error) => {
    assert.ok(error instanceof ListenerOverflowError);
    assert.deepEqual([error.name, error.event], ["ListenerOverflowError", "b"]);
    return true;
  });
  assert.deepEqual(await over.next(), DONE);

  // The others have noticed nothing.
  assert.deepEqual(await loop, ["0", "1", "2", "3", "4"]);
  assert.deepEqual([await read(atTheLimit), await read(atTheLimit), await read(atTheLimit)], ["1", "2", "3"]);
  peer.send(notifyFrame("a", "5"));
  assert.equal(await read(atTheLimit), "5");
  assert.deepEqual(client.status().events, ["a"]);
});

test("a listener that holds exactly maxListenerBytes gets them all; one more byte ends it", async (t) => {
  const { client, peer } = await connectedPair(t, { maxListenerBytes: 10 });
  const [atTheLimit, over] = [client.on("a"), client.on("b")];
  const firsts = [atTheLimit.next(), over.next()];
  for (const payload of ["0123456789abcdef", "01234", "56789", ""]) {
    peer.send(notifyFrame("a", payload), notifyFrame("b", payload));
  }
  peer.send(notifyFrame("b", "x"));
  await delivered(client, peer);
  await Promise.all(firsts); // handed over, never held: not counted
  assert.deepEqual([await read(over), await read(over), await read(over)], ["01234", "56789", ""]);
  await assert.rejects(over.next(), ListenerOverflowError);

  // What was taken is no longer counted.
  assert.equal(await read(atTheLimit), "01234");
  peer.send(notifyFrame("a", "abcde"));
  await delivered(client, peer);
  assert.deepEqual([await read(atTheLimit), await read(atTheLimit), await read(atTheLimit)], ["56789", "", "abcde"]);
});

test("the limits are 4096 payloads by default", async (t) => {
  const { client, peer } = await connectedPair(t);
  const [atTheLimit, over] = [client.on("a"), client.on("b")];
  const firsts = [atTheLimit.next(), over.next()];
  peer.send(...Array(4097).fill(notifyFrame("a", "x")), ...Array(4098).fill(notifyFrame("b", "x")));
  await delivered(client, peer);
  await Promise.all(firsts);
  assert.deepEqual(client.status().events, ["a"]);
  for (let at = 0; at < 4096; at++) assert.equal(await read(over), "x");
  await assert.rejects(over.next(), ListenerOverflowError);
});

test("the limits are 16 MiB by default", async (t) => {
  const { client, peer } = await connectedPair(t);
  const [atTheLimit, over] = [client.on("a"), client.on("b")];
  const firsts = [atTheLimit.next(), over.next()];
  const mebibyte = "x".repeat(2 ** 20);
  peer.send(notifyFrame("a"), notifyFrame("b"));
  for (let at = 0; at < 16; at++) peer.send(notifyFrame("a", mebibyte), notifyFrame("b", mebibyte));
  peer.send(notifyFrame("b", "x"));
  await delivered(client, peer);
  await Promise.all(firsts);
  assert.deepEqual(client.status().events, ["a"]);
});

test("an overflow is forgotten by return()", async (t) => {
  const { client, peer } = await connectedPair(t, { maxListenerPayloads: 0 });
  const listener = client.on("a");
  const first = listener.next();
  peer.send(notifyFrame("a"), notifyFrame("a"));
  await delivered(client, peer);
  await first;
  await listener.return();
  assert.deepEqual(await listener.next(), DONE);
});
