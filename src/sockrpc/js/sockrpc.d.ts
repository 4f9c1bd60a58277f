/**
 * A payload to send: a string goes as UTF-8, a view as the bytes it shows (whatever its element type), an
 * array-like as its numbers, each an integer of 0 to 255 (else a `RangeError`). The bytes are copied before
 * the method returns.
 */
export type Payload = string | ArrayBuffer | ArrayBufferView | ArrayLike<number>;

/** A received payload: a `Uint8Array` of your own, whose `buffer` holds these bytes and nothing else. */
export type Bytes = ReturnType<Uint8Array["slice"]>;

export interface SocketIoOptions {
  /** The class to connect with, the global `WebSocket` by default. */
  WebSocket?: (new (url: string | URL, protocols?: string | string[]) => WebSocket) | undefined;
  /** The id of the first call, 1 by default. Ids count up, wrap at 2**32 and skip those in flight. */
  firstId?: number | undefined;
  /** How many unread payloads a listener may hold: 4096 by default. */
  maxListenerPayloads?: number | undefined;
  /** How many bytes they may have together: 16 MiB by default. */
  maxListenerBytes?: number | undefined;
}

export interface CallOptions {
  /** Its abort resets the call. One signal may serve any number of calls. */
  signal?: AbortSignal | null | undefined;
  /** Milliseconds, including the wait for the connection to open; 0 to 2**31 - 1, or `Infinity`, the default. */
  timeout?: number | undefined;
}

/**
 * A client of `websocket.io-rpc-v0.1`. It starts to connect when it is made and never reconnects by itself.
 *
 * @example
 * const socket = new SocketIo("ws://127.0.0.1:3000/socket");
 * const answer = await socket.call("uppercase", "hello");
 * console.log(new TextDecoder().decode(answer)); // HELLO
 */
export class SocketIo {
  /** @throws SyntaxError if `WebSocket` refuses the URL. */
  constructor(url: string | URL, options?: SocketIoOptions);

  /** The WebSocket in use: for its state, and for listeners of your own. `connect()` may put another in its place. */
  readonly ws: WebSocket;

  /**
   * Resolves when the connection is open. On a client whose connection has ended it opens a new one; listeners
   * survive, calls do not.
   *
   * @throws ConnectionLostError The connection could not be opened.
   * @throws ConnectionClosedError `close()` came first.
   */
  connect(): Promise<void>;

  /**
   * Calls a method and resolves with its answer. The request is written before `call` returns; before the
   * connection is open it is kept until it opens.
   *
   * An abort or a time-out sends one reset at once, so that the server stops the work too, and rejects; an answer
   * that crosses the reset is dropped. If the call was not written yet, nothing is sent at all.
   *
   * This protocol version has no frame for an error: a call that fails on the server is never answered. Give a
   * `timeout`.
   *
   * @throws RPCAbortError The signal was aborted (`reason` is the signal's), or the timeout expired (`reason` is a
   *   `DOMException` named `TimeoutError`).
   * @throws ConnectionLostError The connection was lost first, at once when that is noticed. The server may have
   *   run the method; the call is never sent again.
   * @throws ConnectionClosedError `close()` came first.
   * @throws RangeError The name has more than 255 bytes of UTF-8, a number in `data` is no byte, or `timeout` is out
   *   of range. Nothing was sent.
   * @throws TypeError An argument has the wrong type. Nothing was sent.
   */
  call(name: string, data?: Payload, options?: CallOptions): Promise<Bytes>;

  /**
   * Sends a notification, which is never answered. Before the connection is open it is kept until it opens, and
   * dropped if it does not. Throws (and never rejects) the errors of `call`.
   */
  notify(name: string, data?: Payload): void;

  /**
   * Listens for an event. The listener exists from the first `next()` on: what came before it was dropped. Each of
   * several listeners gets every payload. Leaving the loop, or `return()`, unsubscribes at once, also while
   * a `next()` is waiting.
   *
   * The iterator ends, after what it holds, by `removeEvent()` and `close()`. A lost connection does not end it: it
   * goes on after `connect()`. Held payloads beyond the limits end it with a `ListenerOverflowError` after
   * the payloads it holds; other listeners notice nothing.
   *
   * @example
   * for await (const payload of socket.on("message")) console.log(new TextDecoder().decode(payload));
   */
  on(name: string): AsyncGenerator<Bytes, void, void>;

  /** Ends all listeners of an event. True if there was one. */
  removeEvent(name: string): boolean;

  /** The ids of the calls in flight, and the names of the events listened for. */
  status(): { pending: string[]; events: string[] };

  /** Closes the connection (1000), rejects the calls in flight with `ConnectionClosedError` and ends the iterators. */
  close(): void;
}

/** The caller gave up a call. `message` is `String(reason)`; if that throws, it says that it cannot be shown. */
export class RPCAbortError extends Error {
  constructor(id: number, name: string, data: Payload, reason?: unknown);
  /** The id of the call. */
  id: number;
  /** The method that was called. */
  name: string;
  /** The payload, as it was given to `call`. */
  data: Payload;
  /** The signal's reason, or the `TimeoutError`. */
  reason: unknown;
}

/** The connection ended, but not by `close()`. */
export class ConnectionLostError extends Error {
  constructor(code?: number, reason?: string);
  /**
   * The close code that the server sent; 1005 if its close frame held none; 1006 if there was no close frame.
   * If this client closed because of the server's bytes: 4002 for a malformed message or an unconfirmed
   * subprotocol, 4003 for a text message (the RFC's 1002 and 1003, which `WebSocket` does not let a program send).
   */
  code: number;
  /** The reason beside the code, possibly empty. */
  reason: string;
}

/** `close()` ended the connection. */
export class ConnectionClosedError extends Error {
  constructor();
}

/** A listener fell behind by more than `maxListenerPayloads` or `maxListenerBytes`. */
export class ListenerOverflowError extends Error {
  constructor(event: string);
  event: string;
}
