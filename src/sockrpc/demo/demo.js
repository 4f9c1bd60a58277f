import { ConnectionLostError, RPCAbortError, SocketIo } from "./sockrpc.js";

const $ = (id) => document.getElementById(id);
const text = (bytes) => new TextDecoder().decode(bytes);
const TASK = "long_runing_task"; // the spelling of the published tutorial

// Frames on the wire, decoded anew by a WebSocket that reports every message.

const OPCODES = { 1: "notify", 2: "request", 3: "reset", 4: "response" };
const LOG_ROWS = 250;

function decode(data) {
  const bytes = new Uint8Array(data);
  const view = new DataView(data);
  const frame = { frame: OPCODES[bytes[0]] ?? `opcode ${bytes[0]}`, id: "", name: "", payload: "", size: bytes.length };
  let at = 1;
  if (bytes[0] !== 1) {
    frame.id = view.getUint32(at);
    at += 4;
  }
  if (bytes[0] <= 2) {
    const size = bytes[at];
    frame.name = text(bytes.subarray(at + 1, at + 1 + size));
    at += 1 + size;
  }
  frame.payload = text(bytes.subarray(at, at + 200));
  return frame;
}

function log(way, data) {
  if ($("log-pause").checked) return;
  const frame = decode(data);
  const row = document.createElement("tr");
  row.setAttribute("role", "row");
  row.dataset.way = way;
  row.dataset.frame = frame.frame;
  const time = new Date().toISOString().slice(11, 23);
  const arrow = way === "up" ? "→" : "←";
  for (const words of [time, arrow, frame.frame, frame.id, frame.name, frame.payload, frame.size]) {
    const cell = row.insertCell();
    cell.setAttribute("role", "cell");
    cell.textContent = words;
  }
  row.cells[1].setAttribute("aria-label", way === "up" ? "sent" : "received");
  $("log").prepend(row);
  while ($("log").rows.length > LOG_ROWS) $("log").lastChild.remove();
}

class WatchedWebSocket extends WebSocket {
  constructor(...args) {
    super(...args);
    this.addEventListener("message", (event) => log("down", event.data));
  }

  send(data) {
    super.send(data);
    log("up", ArrayBuffer.isView(data) ? data.slice().buffer : data.slice(0));
  }
}

// The connection. The client does not reconnect by itself; this page does, with back-off and jitter.

const url = new URL("socket", location.href);
url.protocol = url.protocol.replace("http", "ws");
const socket = new SocketIo(url, { WebSocket: WatchedWebSocket });
const LONGEST_DELAY = 10_000;

function showConnection(state, words) {
  $("connection").dataset.state = state;
  $("connection-text").textContent = words;
}

async function stayConnected() {
  let delay = 500;
  let words = "connected";
  for (;;) {
    try {
      await socket.connect();
      delay = 500;
      showConnection("open", words);
      words = "connected again";
      await new Promise((resolve) => socket.ws.addEventListener("close", resolve, { once: true }));
    } catch (error) {
      if (!(error instanceof ConnectionLostError)) throw error;
    }
    showFlight({ running: [], count: 0 });
    const wait = delay * (0.5 + Math.random() / 2);
    showConnection("lost", `connection lost, trying again in ${(wait / 1000).toFixed(1)} s`);
    await new Promise((resolve) => setTimeout(resolve, wait));
    showConnection("connecting", "reconnecting");
    delay = Math.min(delay * 2, LONGEST_DELAY);
  }
}

function say(id, words, kind = "") {
  $(id).textContent = words;
  $(id).dataset.kind = kind;
}

function explain(error) {
  if (error instanceof RPCAbortError) return [error.reason?.name === "TimeoutError" ? "timed out" : "cancelled", "warn"];
  if (error instanceof ConnectionLostError) return ["connection lost", "bad"];
  return [String(error), "bad"];
}

// Three seconds of work

/** Only one of two buttons can be pressed at a time, and the keyboard's focus goes with it. */
function startedBy(start, cancel) {
  const pass = (from, to) => {
    $(to).disabled = false;
    if (document.activeElement === $(from)) $(to).focus();
    $(from).disabled = true;
  };
  pass(start, cancel);
  return () => pass(cancel, start);
}

let task = null;

$("task-start").addEventListener("click", async () => {
  const controller = new AbortController();
  task = controller;
  const stopped = startedBy("task-start", "task-cancel");
  say("task-result", "running");
  const began = performance.now();
  const draw = () => {
    $("task-progress").value = performance.now() - began;
    if (task === controller) requestAnimationFrame(draw);
  };
  draw();
  const limit = Number($("task-timeout").value);
  const timeout = limit < Number($("task-timeout").max) ? limit : undefined;
  try {
    const answer = await socket.call(TASK, [], { signal: controller.signal, timeout });
    say("task-result", text(answer), "good");
  } catch (error) {
    say("task-result", ...explain(error));
  }
  task = null;
  stopped();
});

$("task-cancel").addEventListener("click", () => task?.abort());

const showTimeout = () => {
  const range = $("task-timeout");
  const words = range.value === range.max ? "none" : `${(range.value / 1000).toFixed(1)} s`;
  $("task-timeout-text").textContent = words;
  range.setAttribute("aria-valuetext", words);
};
$("task-timeout").addEventListener("input", showTimeout);
showTimeout();

let many = null;

$("many-start").addEventListener("click", async () => {
  many = new AbortController();
  const stopped = startedBy("many-start", "many-cancel");
  say("many-result", "100 running");
  // All of these calls share a signal.
  const calls = Array.from({ length: 100 }, () => socket.call(TASK, [], { signal: many.signal }));
  const results = await Promise.allSettled(calls);
  const done = results.filter((each) => each.status === "fulfilled").length;
  say("many-result", `${done} done, ${100 - done} ${many.signal.aborted ? "cancelled" : "failed"}`, done === 100 ? "good" : "warn");
  stopped();
});

$("many-cancel").addEventListener("click", () => many?.abort());

function showFlight({ running, count, done, aborted }) {
  $("flight-count").textContent = count;
  $("flight").replaceChildren(...running.map(({ id, method, client }) => {
    const item = document.createElement("li");
    const who = document.createElement("span");
    who.className = "who";
    who.textContent = ` from ${client}`;
    item.append(`#${id} ${method}`, who);
    return item;
  }));
  if (count > running.length) {
    const item = document.createElement("li");
    item.textContent = `and ${count - running.length} more`;
    $("flight").append(item);
  }
  if (done !== undefined) $("flight-totals").textContent = `done ${done} · aborted ${aborted}`;
}

async function follow(event, show) {
  for await (const payload of socket.on(event)) show(payload);
}
follow("calls", (payload) => showFlight(JSON.parse(text(payload))));

// Ping

// The pong returns the payload of the ping, which is the time it was sent.
follow("pong", (payload) => say("pong", `${(performance.now() - Number(text(payload))).toFixed(2)} ms`, "good"));

function whenOpen(output, act) {
  return async (event) => {
    event.preventDefault();
    try {
      await act();
    } catch (error) {
      say(output, ...explain(error));
    }
  };
}

$("ping").addEventListener("click", whenOpen("pong", () => socket.notify("ping", performance.now().toFixed(2))));

// Upper case and address

$("upper-form").addEventListener("submit", whenOpen("upper-result", async () => {
  say("upper-result", text(await socket.call("uppercase", $("upper-text").value, { timeout: 5000 })), "good");
}));

$("ip").addEventListener("click", whenOpen("ip-result", async () => {
  say("ip-result", text(await socket.call("myip", [], { timeout: 5000 })), "good");
}));

// Chat

const name = `tab ${Math.floor(Math.random() * 900 + 100)}`;
$("chat-name").textContent = name;

follow("message", (payload) => {
  const item = document.createElement("p");
  item.textContent = text(payload);
  $("chat").append(item);
  while ($("chat").childElementCount > 200) $("chat").firstChild.remove();
  $("chat").scrollTop = $("chat").scrollHeight;
});

$("chat-form").addEventListener("submit", whenOpen("chat-result", () => {
  const words = $("chat-text").value.trim();
  if (!words) return;
  socket.notify("broadcast", `${name}: ${words}`);
  $("chat-text").value = "";
  say("chat-result", "");
}));

$("log-clear").addEventListener("click", () => $("log").replaceChildren());

stayConnected();
