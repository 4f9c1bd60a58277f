/**
 * The client against a real sockrpc server: the endpoint of `sockrpc demo`, whose URL stands in SOCKRPC_TEST_URL.
 * Kept out of the default run, because without a server these tests fail; they never skip.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { test } from "node:test";

import { RPCAbortError, SocketIo } from "../../../src/sockrpc/js/sockrpc.js";
import { text } from "../support.mjs";

const url = process.env.SOCKRPC_TEST_URL;
assert.ok(url, "SOCKRPC_TEST_URL must hold the URL of a server's endpoint, such as ws://127.0.0.1:3000/socket");

async function connect(t) {
  const client = new SocketIo(url);
  t.after(() => client.close());
  await client.connect();
  return client;
}

const isTimeout = (error) => error instanceof RPCAbortError && error.reason.name === "TimeoutError";

/** After whatever a test did: the connection still serves calls, and none is left over. */
async function assertUsable(client) {
  assert.equal(text(await client.call("uppercase", "still here")), "STILL HERE");
  assert.deepEqual(client.status().pending, []);
}

test("uppercase answers, also beyond ASCII and before the opening", async (t) => {
  const client = new SocketIo(url);
  t.after(() => client.close());
  assert.equal(text(await client.call("uppercase", "hello, é")), "HELLO, É");
  assert.equal(text(await client.call("uppercase")), "");
});

test("myip answers with this client's address and port", async (t) => {
  const client = await connect(t);
  assert.match(text(await client.call("myip", [])), /^(127\.0\.0\.1|::1|\[::1\]):\d+$/);
});

test("a hundred calls at once each get their own answer", async (t) => {
  const client = await connect(t);
  const words = Array.from({ length: 100 }, (_, at) => `word ${at}`);
  const answers = await Promise.all(words.map((word) => client.call("uppercase", word)));
  assert.deepEqual(
    answers.map(text),
    words.map((word) => word.toUpperCase()),
  );
});

test("a payload of a mebibyte goes both ways", async (t) => {
  const client = await connect(t);
  const answer = await client.call("uppercase", "x".repeat(2 ** 20));
  assert.equal(text(answer), "X".repeat(2 ** 20));
});

for (const method of ["long_running_task", "long_runing_task"]) {
  test(`${method} answers done! when it is let`, async (t) => {
    const client = await connect(t);
    assert.equal(text(await client.call(method, [])), "done!");
    await assertUsable(client);
  });

  test(`${method} is cancelled by its signal`, async (t) => {
    const client = await connect(t);
    const controller = new AbortController();
    const call = client.call(method, [], { signal: controller.signal });
    await assertBusy(client);
    controller.abort("TimeOut!");
    await assert.rejects(call, { message: "TimeOut!", name: method, id: 1 });
    await assertUsable(client);
  });
}

/** The server has read everything sent so far, and the long call is still in flight. */
async function assertBusy(client) {
  await client.call("uppercase", "x");
  assert.deepEqual(client.status().pending, ["1"]);
}

test("a time-out cancels", async (t) => {
  const client = await connect(t);
  await assert.rejects(client.call("long_running_task", "", { timeout: 50 }), isTimeout);
  await assertUsable(client);
});

test("a hundred long calls cancelled at once by one signal leave a connection that works", async (t) => {
  const client = await connect(t);
  const controller = new AbortController();
  const calls = Array.from({ length: 100 }, () =>
    client.call("long_running_task", "", { signal: controller.signal }),
  );
  assert.equal(client.status().pending.length, 100);
  controller.abort();
  const outcomes = await Promise.allSettled(calls);
  assert.ok(outcomes.every(({ reason }) => reason instanceof RPCAbortError));
  await assertUsable(client);
});

test("ten thousand pairs of request and reset on one connection do not disturb it", async (t) => {
  const client = await connect(t);
  for (let round = 0; round < 100; round++) {
    const controller = new AbortController();
    const calls = Array.from({ length: 100 }, () =>
      client.call("long_running_task", "", { signal: controller.signal }),
    );
    controller.abort();
    await Promise.allSettled(calls);
    await assertUsable(client);
  }
});

test("an answer that crosses its reset does no harm", async (t) => {
  const client = await connect(t);
  for (let round = 0; round < 100; round++) {
    const controller = new AbortController();
    const crossed = client.call("uppercase", "crossing", { signal: controller.signal });
    const answered = client.call("uppercase", "answered");
    controller.abort();
    await assert.rejects(crossed, RPCAbortError);
    assert.equal(text(await answered), "ANSWERED");
  }
  await assertUsable(client);
});

test("ids wrap at 2**32", async (t) => {
  const client = new SocketIo(url, { firstId: 2 ** 32 - 1 });
  t.after(() => client.close());
  const answers = await Promise.all(["a", "b"].map((word) => client.call("uppercase", word)));
  assert.deepEqual(answers.map(text), ["A", "B"]);
});

test("a method nobody registered is never answered: the time-out ends the wait", async (t) => {
  const client = await connect(t);
  await assert.rejects(client.call("no such method", "", { timeout: 50 }), isTimeout);
  await assertUsable(client);
});

test("ping is answered by pong, with its payload", async (t) => {
  const client = await connect(t);
  const pongs = client.on("pong");
  const first = pongs.next();
  client.notify("ping", "1");
  client.notify("ping", Uint8Array.from([0, 255]));
  assert.equal(text((await first).value), "1");
  assert.deepEqual([...(await pongs.next()).value], [0, 255]);
});

test("broadcast reaches every client as message, the sender too", async (t) => {
  const clients = [await connect(t), await connect(t), await connect(t)];
  const messages = clients.map((client) => client.on("message").next());
  for (const client of clients) await assertUsable(client); // all have joined
  clients[0].notify("broadcast", "hello, all");
  for (const message of messages) assert.equal(text((await message).value), "hello, all");
});

test("connect() after close() opens anew", async (t) => {
  const client = await connect(t);
  const lost = client.call("long_running_task");
  client.close();
  await assert.rejects(lost, { name: "ConnectionClosedError" });
  await client.connect();
  await assertUsable(client);
});

test("the published tutorial's page runs with nothing changed but the import", async (t) => {
  const decodeText = (data) => new TextDecoder().decode(data);
  const socket = new SocketIo(url);
  t.after(() => socket.close());
  await socket.connect();
  const rpc = async (...args) => decodeText(await socket.call(...args));
  const long_runing_task = async (timeout) => {
    const c = new AbortController();
    const timer = setTimeout(() => c.abort("TimeOut!"), timeout);
    t.after(() => clearTimeout(timer));
    const start = performance.now();
    const output = await rpc("long_runing_task", [], { signal: c.signal });
    const end = performance.now();
    return `${output}: ${Math.round(end - start)}ms`;
  };
  const heard = [];
  const listen = async (event) => {
    for await (const msg of socket.on(event)) if (heard.push(`${event} ${decodeText(msg)}`) === 2) return;
  };
  const loops = ["pong", "message"].map((event) => listen(event));

  assert.match(await rpc("myip", []), /:\d+$/);
  assert.equal(await rpc("uppercase", "hello"), "HELLO");
  await assert.rejects(long_runing_task(100), { name: "long_runing_task", message: "TimeOut!" });
  assert.match(await long_runing_task(60_000), /^done!: \d+ms$/);
  socket.notify("ping", "Hello, Server!");
  socket.notify("broadcast", "Hello, World!");
  await Promise.race(loops);
  assert.deepEqual(heard.sort(), ["message Hello, World!", "pong Hello, Server!"]);
});

test("the README's program runs as pasted, but for the import and the URL", async (t) => {
  const directory = new URL("../../../src/sockrpc/js/", import.meta.url);
  const readme = readFileSync(new URL("README.md", directory), "utf8");
  const [, program] = readme.match(/```js\n(.*?)```/s);
  assert.ok(program.includes('from "sockrpc"') && program.includes('"ws://127.0.0.1:3000/socket"'));
  const source = program
    .replace('from "sockrpc"', `from ${JSON.stringify(new URL("sockrpc.js", directory).href)}`)
    .replace('"ws://127.0.0.1:3000/socket"', JSON.stringify(url));
  const child = spawn(process.execPath, ["--input-type=module", "-"], { stdio: ["pipe", "pipe", "inherit"] });
  t.after(() => child.kill());
  child.stdin.end(source);
  const lines = [];
  for await (const line of createInterface({ input: child.stdout })) if (lines.push(line) === 3) break;
  assert.deepEqual(lines, ["HELLO", "changed my mind", "hi"]);
});
