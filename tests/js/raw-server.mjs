/**
 * A WebSocket server (RFC 6455) of raw bytes for the tests: it does nothing by itself. A test accepts or refuses
 * each handshake, reads what the client sent message by message, and sends whatever bytes it likes.
 */
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";

export const SUBPROTOCOL = "websocket.io-rpc-v0.1";
const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/** Values on one side, waiting readers on the other; once failed, a read without a value rejects. */
class Queue {
  #values = [];
  #readers = [];
  #error = null;

  push(value) {
    if (this.#readers.length > 0) this.#readers.shift().resolve(value);
    else this.#values.push(value);
  }

  fail(error) {
    this.#error = error;
    for (const reader of this.#readers.splice(0)) reader.reject(error);
  }

  read() {
    if (this.#values.length > 0) return Promise.resolve(this.#values.shift());
    if (this.#error) return Promise.reject(this.#error);
    return new Promise((resolve, reject) => this.#readers.push({ resolve, reject }));
  }
}

export class RawServer {
  #http = createServer((_request, response) => response.writeHead(404).end());
  #handshakes = new Queue();
  #sockets = new Set();

  static async start() {
    const server = new RawServer();
    server.#http.on("upgrade", (request, socket, head) => {
      server.#sockets.add(socket);
      socket.on("error", () => {}); // a client may reset the line
      server.#handshakes.push(new Handshake(request, socket, head));
    });
    server.#http.listen(0, "127.0.0.1");
    await once(server.#http, "listening");
    return server;
  }

  get url() {
    return `ws://127.0.0.1:${this.#http.address().port}/socket`;
  }

  /** The next client that asks, not yet answered. */
  handshake() {
    return this.#handshakes.read();
  }

  /** The next client that asks, accepted. */
  async accept() {
    return (await this.handshake()).accept();
  }

  async stop() {
    this.#handshakes.fail(new Error("the server has stopped"));
    for (const socket of this.#sockets) socket.destroy();
    this.#http.close();
    await once(this.#http, "close");
  }
}

class Handshake {
  #socket;
  #head;

  constructor(request, socket, head) {
    this.request = request;
    this.#socket = socket;
    this.#head = head;
  }

  accept({ protocol = SUBPROTOCOL } = {}) {
    const accept = createHash("sha1").update(this.request.headers["sec-websocket-key"] + GUID).digest("base64");
    const lines = [
      "HTTP/1.1 101 Switching Protocols",
      "Upgrade: websocket",
      "Connection: Upgrade",
      `Sec-WebSocket-Accept: ${accept}`,
    ];
    if (protocol) lines.push(`Sec-WebSocket-Protocol: ${protocol}`);
    this.#socket.write(`${lines.join("\r\n")}\r\n\r\n`);
    return new Peer(this.#socket, this.#head);
  }

  refuse() {
    this.#socket.end("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
  }
}

export function frame(opcode, payload, { fin = true } = {}) {
  const body = Buffer.from(payload);
  const length = body.length;
  const head = length < 126 ? Buffer.alloc(2) : length < 65536 ? Buffer.alloc(4) : Buffer.alloc(10);
  head[0] = (fin ? 0x80 : 0) | opcode;
  if (length < 126) head[1] = length;
  else if (length < 65536) head.writeUInt16BE(length, head.writeUInt8(126, 1));
  else head.writeBigUInt64BE(BigInt(length), head.writeUInt8(127, 1));
  return Buffer.concat([head, body]);
}

/** The server's end of one connection. Messages are hex strings, as in the vectors. */
class Peer {
  #socket;
  #buffer = Buffer.alloc(0);
  #fragments = [];
  #messages = new Queue();

  constructor(socket, head) {
    this.#socket = socket;
    socket.on("data", (data) => this.#feed(data));
    socket.on("close", () => this.#messages.fail(new Error("the connection has ended, there is no further message")));
    if (head.length > 0) this.#feed(head);
    socket.resume();
  }

  /** The next message of the client: `{ binary: hex }`, `{ text }` or `{ close: { code, reason } }`. */
  read() {
    return this.#messages.read();
  }

  async readBinary() {
    const message = await this.read();
    if (message.binary === undefined) throw new Error(`expected a binary message, got ${JSON.stringify(message)}`);
    return message.binary;
  }

  /** Sends binary messages, all of them with one write. */
  send(...messages) {
    this.#socket.write(Buffer.concat(messages.map((hex) => frame(2, Buffer.from(hex, "hex")))));
  }

  sendText(text) {
    this.#socket.write(frame(1, text));
  }

  sendRaw(bytes) {
    this.#socket.write(bytes);
  }

  sendClose(code, reason = "") {
    const body = Buffer.from(`..${reason}`);
    body.writeUInt16BE(code);
    this.#socket.write(frame(8, code === 1005 ? "" : body));
  }

  /** Closes in the ordinary way: close frame and FIN. */
  close(code, reason) {
    this.sendClose(code, reason);
    this.#socket.end();
  }

  /** FIN without a close frame. */
  end() {
    this.#socket.end();
  }

  /** RST. */
  reset() {
    this.#socket.resetAndDestroy();
  }

  #feed(data) {
    this.#buffer = Buffer.concat([this.#buffer, data]);
    for (let taken; (taken = this.#parse()) > 0; ) this.#buffer = this.#buffer.subarray(taken);
  }

  /** Takes one frame off the buffer; returns how many bytes it had, or 0 if it is not complete. */
  #parse() {
    const buffer = this.#buffer;
    if (buffer.length < 2) return 0;
    const [fin, opcode, masked, short] = [buffer[0] & 0x80, buffer[0] & 0x0f, buffer[1] & 0x80, buffer[1] & 0x7f];
    if (!masked) throw new Error("a client must mask its frames");
    const extended = short === 126 ? 2 : short === 127 ? 8 : 0;
    const start = 2 + extended + 4;
    if (buffer.length < start) return 0;
    const length = short === 126 ? buffer.readUInt16BE(2) : short === 127 ? Number(buffer.readBigUInt64BE(2)) : short;
    if (buffer.length < start + length) return 0;
    const mask = buffer.subarray(start - 4, start);
    const payload = Buffer.from(buffer.subarray(start, start + length).map((byte, at) => byte ^ mask[at & 3]));
    if (opcode === 8) this.#onClose(payload);
    else if (opcode <= 2) this.#onData(opcode, payload, fin);
    return start + length;
  }

  #onData(opcode, payload, fin) {
    this.#fragments.push({ opcode, payload });
    if (!fin) return;
    const whole = Buffer.concat(this.#fragments.map((fragment) => fragment.payload));
    const kind = this.#fragments[0].opcode;
    this.#fragments = [];
    this.#messages.push(kind === 2 ? { binary: whole.toString("hex") } : { text: whole.toString() });
  }

  #onClose(payload) {
    const code = payload.length >= 2 ? payload.readUInt16BE() : 1005;
    this.#messages.push({ close: { code, reason: payload.subarray(2).toString() } });
  }
}
