// sockrpc: RPC over WebSocket whose calls can really be cancelled.
// An ES module without dependencies, for browsers and Node >= 22. sockrpc.d.ts has the documentation.

const SUBPROTOCOL = "websocket.io-rpc-v0.1";

// WebSocket.close() allows only 1000 and 3000 to 4999, so 4002 and 4003 replace RFC 6455's 1002 and 1003.
const CLOSE_PROTOCOL_ERROR = 4002;
const CLOSE_TEXT_MESSAGE = 4003;
const CLOSE_ABNORMAL = 1006; // never sent; it means that no close frame came

const [CONNECTING, OPEN] = [0, 1]; // WebSocket.readyState
const MAX_NAME_BYTES = 255;
const MAX_TIMEOUT = 2 ** 31 - 1; // a timer set for longer fires at once

/** `String(value)`, which throws for a value without a `toString`, such as `match.groups`. */
function textOf(value) {
  try {
    return String(value);
  } catch {
    return "(a value that cannot be shown)";
  }
}

/** The caller gave up a call, by its signal or its timeout. */
export class RPCAbortError extends Error {
  constructor(id, name, data, reason) {
    super(textOf(reason));
    this.id = id;
    this.name = name;
    this.data = data;
    this.reason = reason;
  }
}

/** The connection ended, but not by us: by the server, the line, or bytes that the protocol forbids. */
export class ConnectionLostError extends Error {
  constructor(code = CLOSE_ABNORMAL, reason = "") {
    super(`connection lost (${textOf(code)}${reason && `: ${textOf(reason)}`})`);
    this.name = "ConnectionLostError";
    this.code = code;
    this.reason = reason;
  }
}

/** We ended the connection, by `close()`. */
export class ConnectionClosedError extends Error {
  constructor() {
    super("the connection was closed by close()");
    this.name = "ConnectionClosedError";
  }
}

/** A listener held more than its limits allow. */
export class ListenerOverflowError extends Error {
  constructor(event) {
    super(`the listener for "${event}" fell behind`);
    this.name = "ListenerOverflowError";
    this.event = event;
  }
}

const [NOTIFY, REQUEST, RESET, RESPONSE] = [1, 2, 3, 4];
const encoder = new TextEncoder();
// ignoreBOM keeps a BOM: a name may begin with U+FEFF.
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function encodeName(name) {
  if (typeof name !== "string") throw new TypeError("a name must be a string");
  const bytes = encoder.encode(name);
  if (bytes.length > MAX_NAME_BYTES) throw new RangeError(`a name may have 255 bytes, this one has ${bytes.length}`);
  return bytes;
}

function toByte(value) {
  if (Number.isInteger(value) && value >= 0 && value <= 255) return value;
  throw new RangeError("a byte is an integer of 0 to 255");
}

function encodePayload(data) {
  if (typeof data === "string") return encoder.encode(data);
  if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  // Check the tag, not instanceof: a buffer may come from another frame or worker.
  if (Object.prototype.toString.call(data) === "[object ArrayBuffer]") return new Uint8Array(data);
  if (typeof data === "object" && Number.isInteger(data?.length)) return Uint8Array.from(data, toByte);
  throw new TypeError("a payload must be a string, an ArrayBuffer, a view or an array-like of bytes");
}

function serializeHead(opcode, id) {
  const head = new Uint8Array(5);
  head[0] = opcode;
  new DataView(head.buffer).setUint32(1, id);
  return head;
}

function join(head, name, payload) {
  const message = new Uint8Array(head.length + 1 + name.length + payload.length);
  message.set(head);
  message[head.length] = name.length;
  message.set(name, head.length + 1);
  message.set(payload, head.length + 1 + name.length);
  return message;
}

/** Parses a message of a server; returns `{ fault }` for a bad one. The payload is a view of the message. */
function parseFrame(buffer) {
  const bytes = new Uint8Array(buffer);
  if (bytes.length === 0) return { fault: "empty message" };
  if (bytes[0] === RESPONSE) {
    if (bytes.length < 5) return { fault: "too short for its id" };
    return { id: new DataView(buffer).getUint32(1), payload: bytes.subarray(5) };
  }
  if (bytes[0] !== NOTIFY) return { fault: `opcode ${bytes[0]} is not for a client` };
  if (bytes.length < 2) return { fault: "too short for its name length" };
  const end = 2 + bytes[1];
  if (bytes.length < end) return { fault: "too short for its name" };
  try {
    return { name: decoder.decode(bytes.subarray(2, end)), payload: bytes.subarray(end) };
  } catch {
    return { fault: "name is not UTF-8" };
  }
}

class CallTable {
  #calls = new Map();
  #nextId;

  constructor(firstId) {
    if (firstId !== firstId >>> 0) throw new RangeError("firstId must be an unsigned 32-bit integer");
    this.#nextId = firstId;
  }

  allocateId() {
    while (this.#calls.has(this.#nextId)) this.#nextId = (this.#nextId + 1) >>> 0;
    const id = this.#nextId;
    this.#nextId = (id + 1) >>> 0;
    return id;
  }

  add(call) {
    this.#calls.set(call.id, call);
  }

  /** Returns undefined if the call is gone. Pass `call` to mean that very call: its id may be in use again. */
  take(id, call = this.#calls.get(id)) {
    if (this.#calls.get(id) !== call) return undefined;
    this.#calls.delete(id);
    return call;
  }

  ids() {
    return [...this.#calls.keys()];
  }
}

class ListenerTable {
  #events = new Map();

  constructor(maxPayloads = 4096, maxBytes = 16 * 2 ** 20) {
    this.maxPayloads = maxPayloads;
    this.maxBytes = maxBytes;
  }

  add(event, listener) {
    if (this.#events.has(event)) this.#events.get(event).add(listener);
    else this.#events.set(event, new Set([listener]));
  }

  remove(event, listener) {
    const listeners = this.#events.get(event);
    if (listeners?.delete(listener) && listeners.size === 0) this.#events.delete(event);
  }

  deliver(event, payload) {
    // Each listener gets a copy, so that none sees changes by another.
    for (const listener of this.#events.get(event) ?? []) listener.deliver(payload.slice());
  }

  end(event) {
    const listeners = this.#events.get(event);
    for (const listener of listeners ?? []) listener.end();
    return listeners !== undefined;
  }

  events() {
    return [...this.#events.keys()];
  }
}

/**
 * The iterator of `on()`. An async generator function would not do: its `return()` would wait for a
 * pending `next()`, which waits for a payload that may never come.
 */
function createIterator(table, event) {
  let state = "new"; // later "listening", then "ended"
  let held = [];
  let heldBytes = 0;
  let error = null; // thrown after the held payloads
  const waiting = []; // resolve functions of next(); none while anything is held

  const listener = {
    deliver(value) {
      if (waiting.length > 0) return waiting.shift()({ done: false, value });
      if (held.length >= table.maxPayloads || heldBytes + value.length > table.maxBytes) {
        error = new ListenerOverflowError(event);
        return listener.end();
      }
      held.push(value);
      heldBytes += value.length;
    },
    end() {
      state = "ended";
      table.remove(event, listener);
      for (const resolve of waiting.splice(0)) resolve({ done: true, value: undefined });
    },
  };

  return {
    async next() {
      if (state === "new") {
        state = "listening";
        table.add(event, listener);
      }
      if (held.length > 0) {
        heldBytes -= held[0].length;
        return { done: false, value: held.shift() };
      }
      const thrown = error;
      error = null; // an iterator throws once, and is done then
      if (thrown) throw thrown;
      if (state === "ended") return { done: true, value: undefined };
      return new Promise((resolve) => waiting.push(resolve));
    },
    async return() {
      [held, error] = [[], null];
      listener.end();
      return { done: true, value: undefined };
    },
    async throw(thrown) {
      await this.return();
      throw thrown;
    },
    async [Symbol.asyncDispose ?? Symbol("asyncDispose")]() {
      await this.return();
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}

export class SocketIo {
  #url;
  #WebSocket;
  #calls;
  #listeners;
  #ws;
  #unsent = new Map(); // call, or a symbol for a notification -> message made before the connection opened
  #opened; // a promise: resolved by the opening, rejected by an earlier end
  #settleOpened;
  #ended = null; // makes the error for the end of the connection; null while it lives

  constructor(url, { WebSocket = globalThis.WebSocket, firstId = 1, maxListenerPayloads, maxListenerBytes } = {}) {
    this.#url = url;
    this.#WebSocket = WebSocket;
    this.#calls = new CallTable(firstId);
    this.#listeners = new ListenerTable(maxListenerPayloads, maxListenerBytes);
    this.#open();
  }

  get ws() {
    return this.#ws;
  }

  async connect() {
    if (this.#ended || this.#ws.readyState > OPEN) {
      this.#end(() => new ConnectionLostError(CLOSE_ABNORMAL, "replaced while it was closing"));
      this.#open();
    }
    await this.#opened;
  }

  async call(name, data = "", { signal, timeout = Infinity } = {}) {
    const method = encodeName(name);
    const payload = encodePayload(data);
    if (timeout !== Infinity && !(Number.isFinite(timeout) && timeout >= 0 && timeout <= MAX_TIMEOUT)) {
      throw new RangeError(`a timeout is 0 to ${MAX_TIMEOUT} milliseconds, or Infinity`);
    }
    const id = this.#calls.allocateId();
    if (signal?.aborted) throw new RPCAbortError(id, name, data, signal.reason);
    const call = { id };
    const settled = new Promise((resolve, reject) => Object.assign(call, { resolve, reject }));
    settled.catch(() => {}); // avoids an unhandled rejection if `#send` throws
    const abort = (reason) => {
      const error = new RPCAbortError(id, name, data, reason); // its `toString` may settle the call
      if (!this.#calls.take(id, call)) return;
      const written = !this.#unsent.delete(call);
      call.reject(error);
      if (written) this.#ws.send(serializeHead(RESET, id)); // a connection that is closing discards it
    };
    const onAbort = () => abort(signal.reason);
    const onTimeout = () => abort(new DOMException(`"${name}" took longer than ${timeout} ms`, "TimeoutError"));
    let timer;
    try {
      signal?.addEventListener("abort", onAbort);
      this.#calls.add(call); // before sending: an injected WebSocket may answer or run the page's code in `send`
      this.#send(join(serializeHead(REQUEST, id), method, payload), call);
      if (timeout !== Infinity) timer = setTimeout(onTimeout, timeout);
      return await settled;
    } finally {
      this.#calls.take(id, call); // the call could not be sent
      signal?.removeEventListener("abort", onAbort);
      clearTimeout(timer);
    }
  }

  notify(name, data = "") {
    this.#send(join([NOTIFY], encodeName(name), encodePayload(data)), Symbol("notification"));
  }

  on(name) {
    encodeName(name); // a name that no frame can carry is refused here
    return createIterator(this.#listeners, name);
  }

  removeEvent(name) {
    return this.#listeners.end(name);
  }

  status() {
    return { pending: this.#calls.ids().map(String), events: this.#listeners.events() };
  }

  close() {
    this.#end(() => new ConnectionClosedError());
    for (const event of this.#listeners.events()) this.#listeners.end(event);
    this.#ws.close(1000);
  }

  #open() {
    const ws = new this.#WebSocket(this.#url, SUBPROTOCOL);
    ws.binaryType = "arraybuffer";
    this.#ws = ws;
    this.#ended = null;
    this.#opened = new Promise((resolve, reject) => (this.#settleOpened = { resolve, reject }));
    this.#opened.catch(() => {}); // connect() may never have been called
    // Ignore events once this connection has ended or another has replaced it.
    const alive = () => this.#ws === ws && !this.#ended;
    const listen = (type, handle) => ws.addEventListener(type, (event) => alive() && handle(event));
    listen("open", () => this.#onOpen());
    listen("message", ({ data }) => this.#onMessage(data));
    listen("close", ({ code, reason }) => this.#end(() => new ConnectionLostError(code, reason)));
    // An error is always fatal and always 1006; in Node 22 no close event follows a failed handshake.
    listen("error", ({ message }) => this.#end(() => new ConnectionLostError(CLOSE_ABNORMAL, message)));
  }

  #onOpen() {
    if (this.#ws.protocol !== SUBPROTOCOL) {
      return this.#fail(CLOSE_PROTOCOL_ERROR, "the server did not confirm the subprotocol");
    }
    this.#settleOpened.resolve();
    for (const [key, message] of this.#unsent) {
      this.#unsent.delete(key); // before sending: an abort within `send` has a reset to send
      this.#ws.send(message);
    }
  }

  #onMessage(data) {
    if (typeof data === "string") return this.#fail(CLOSE_TEXT_MESSAGE, "text message");
    const { fault, id, name, payload } = parseFrame(data);
    if (fault !== undefined) this.#fail(CLOSE_PROTOCOL_ERROR, fault);
    else if (name !== undefined) this.#listeners.deliver(name, payload);
    // Without the call, the answer crossed a reset. The copy's `buffer` holds nothing but the payload.
    else this.#calls.take(id)?.resolve(payload.slice());
  }

  /** Writes, or keeps the message until the connection opens; throws if neither is possible. */
  #send(message, key) {
    if (this.#ended) throw this.#ended();
    const { readyState } = this.#ws;
    if (readyState === OPEN) this.#ws.send(message);
    else if (readyState === CONNECTING) this.#unsent.set(key, message);
    else throw new ConnectionLostError(CLOSE_ABNORMAL, "the connection is closing");
  }

  /** Closes because of bytes that the server sent, and ignores everything that follows. */
  #fail(code, fault) {
    const reason = `protocol error: ${fault}`;
    this.#end(() => new ConnectionLostError(code, reason));
    this.#ws.close(code, reason);
  }

  /** Every ending takes this path. Unanswered calls are never sent again. */
  #end(error) {
    if (this.#ended) return;
    this.#ended = error;
    this.#unsent.clear();
    this.#settleOpened.reject(error());
    for (const id of this.#calls.ids()) this.#calls.take(id).reject(error());
  }
}
