"""The public API as a type checker sees it: checked by `mypy --strict` (`make check`), never run.

`assert_type` says what must come out. A line with `type: ignore[...]` must not type-check: if it
does, the ignore is not needed, and that is an error too.
"""

from __future__ import annotations

import asyncio
import ssl
from types import SimpleNamespace
from typing import assert_type

from websockets.http11 import Request, Response

import sockrpc

app = sockrpc.App()


# Handlers


@app.method("uppercase")
async def uppercase(call: sockrpc.Call) -> str:
    return call.text.upper()


@app.method
def echo(call: sockrpc.Call) -> bytes:
    return call.payload


@app.method(timeout=1.5, run_to_completion=True)
async def pay(call: sockrpc.Call) -> None: ...


@app.method("crunch", thread=True)
def crunch(call: sockrpc.Call) -> bytearray | memoryview | None:
    while not call.is_reset:
        call.raise_if_reset()
    return None


@app.on("ping")
async def ping(notification: sockrpc.Notification) -> None:
    assert_type(notification.event, str)
    assert_type(notification.payload, bytes)
    assert_type(notification.text, str)
    assert_type(notification.socket, sockrpc.Socket)
    assert_type(await notification.socket.notify("pong", notification.payload), None)


@app.on
def pong(notification: sockrpc.Notification) -> None: ...


@app.on_connect
async def connected(socket: sockrpc.Socket) -> None:
    assert_type(socket.state, SimpleNamespace)
    assert_type(socket.in_flight, int)
    assert_type(socket.subprotocol, str | None)
    assert_type(socket.request, Request | None)
    assert_type(socket.notify_nowait("hello"), bool)
    assert_type(await socket.close(1000, "bye"), None)


@app.on_disconnect
def disconnected(socket: sockrpc.Socket) -> None: ...


app.method("handler")(lambda call: call.payload)
app.on("event")(lambda notification: notification.text)


async def work() -> int:
    return 1


def undo(number: int) -> None: ...


async def undo_slowly() -> None: ...


@app.method()
async def everything(call: sockrpc.Call) -> str:
    assert_type(call.method, str)
    assert_type(call.payload, bytes)
    assert_type(call.text, str)
    assert_type(call.id, int)
    assert_type(call.socket, sockrpc.Socket)
    assert_type(call.is_reset, bool)
    assert_type(call.abort_reason, str | None)
    assert_type(await call.respond("text"), bool)
    assert_type(await call.respond(bytearray(b"bytes")), bool)
    assert_type(call.spawn_and_abort_on_reset(work()), asyncio.Task[int])
    assert_type(await call.abort_on_reset(work()), int | None)
    assert_type(await call.wait_reset(), None)
    assert_type(call.on_abort(undo, 1), None)
    assert_type(call.on_abort(undo_slowly), None)
    # What is decorated keeps its type.
    assert_type(await uppercase(call), str)
    assert_type(echo(call), bytes)
    return ""


async def handle_socket(socket: sockrpc.Socket) -> None:
    async for procedure in socket:
        assert_type(procedure, sockrpc.Call | sockrpc.Notification)
        match procedure:
            case sockrpc.Notification(event="ping", payload=payload):
                assert_type(payload, bytes)
                await socket.notify("pong", payload)
            case sockrpc.Call(method="myip") as call:
                await call.respond(str(socket.remote_address))
            case sockrpc.Call() as call:
                assert_type(call, sockrpc.Call)


# Servers


async def process_request(socket: sockrpc.Socket, request: Request) -> Response | None:
    assert_type(request.path, str)
    return None


def refuse_all(socket: sockrpc.Socket, request: Request) -> Response:
    raise NotImplementedError


async def serve_everywhere(context: ssl.SSLContext) -> None:
    async with sockrpc.serve(app, "127.0.0.1", 3000, path="/socket", ssl=context) as server:
        assert_type(server, sockrpc.Server)
        assert_type(server.connections, frozenset[sockrpc.Socket])
        assert_type(server.statistics(), sockrpc.Statistics)
        assert_type(server.statistics().calls_answered, int)
        assert_type(server.close(), None)
        assert_type(await server.serve_forever(), None)
    assert_type(await sockrpc.serve(handle_socket, port=0, process_request=process_request), sockrpc.Server)
    sockrpc.serve(app, uds="socket", origins="*", process_request=refuse_all)
    sockrpc.serve(app, port=0, origins=["https://example.org"], ping_interval=None, max_in_flight=10)


def run_everywhere() -> None:
    assert_type(sockrpc.run(app), None)
    sockrpc.run(handle_socket, host="127.0.0.1", port=3000, loop="uvloop", stop_grace=1.5)
    sockrpc.run(app, on_started=lambda server: server.close(), max_connections=None)


async def broadcast(room: sockrpc.Room, socket: sockrpc.Socket) -> None:
    assert_type(room.join(socket), None)
    assert_type(room.leave(socket), None)
    assert_type(room.broadcast("event", "payload", exclude=socket), int)
    assert_type(len(room), int)
    assert_type(socket in room, bool)


# Clients


async def call_everything() -> None:
    async with sockrpc.connect("ws://127.0.0.1:3000/socket") as client:
        assert_type(client, sockrpc.Client)
        assert_type(await client.call("uppercase", "hello"), bytes)
        assert_type(await client.call("echo", memoryview(b"bytes"), timeout=1), bytes)
        assert_type(await client.notify("ping", b"hi"), None)
        pongs = client.on("pong")
        assert_type(pongs, sockrpc.Listener)
        assert_type(await anext(pongs), bytes)
        async for payload in pongs:
            assert_type(payload, bytes)
        assert_type(await pongs.aclose(), None)
        assert_type(client.status(), sockrpc.Status)
        assert_type(client.status().pending, list[int])
        assert_type(client.status().events, list[str])
        assert_type(await client.close(), None)
    assert_type(await sockrpc.connect("ws://localhost/", stall_timeout=None), sockrpc.Client)
    async for again in sockrpc.connect("ws://localhost/", headers={"A": "b"}, max_listener_bytes=1):
        assert_type(again, sockrpc.Client)


def tell(error: sockrpc.SockRPCError) -> None:
    match error:
        case sockrpc.ProtocolError() | sockrpc.ConnectionLost() | sockrpc.ConnectionClosed():
            assert_type(error.code, int)
            assert_type(error.reason, str)
        case sockrpc.HandshakeError():
            assert_type(error.status, int | None)
            assert_type(error.reason, str)


assert_type(sockrpc.SUBPROTOCOL, str)
assert_type(sockrpc.__version__, str)


# What must not type-check


def wrong_registrations() -> None:
    @app.method("wrong")  # type: ignore[type-var]
    async def without_a_call() -> str:
        return ""

    @app.method("wrong")  # type: ignore[type-var]
    def of_a_number(call: int) -> str:
        return ""

    @app.on("wrong")  # type: ignore[type-var]
    def of_a_call(notification: sockrpc.Call) -> None: ...

    @app.on_connect  # type: ignore[type-var]
    def without_a_socket() -> None: ...

    @app.method("wrong")  # type: ignore[type-var]
    def what_can_not_be_sent(call: sockrpc.Call) -> dict[str, int]:
        return {}

    @app.method("wrong")  # type: ignore[type-var]
    def what_can_not_be_aborted(call: sockrpc.Call) -> asyncio.Future[bytes]:
        return asyncio.get_running_loop().create_future()

    app.method(1)  # type: ignore[call-overload]
    app.method("wrong", timeout="1")  # type: ignore[call-overload]
    app.method("wrong", 1.0)  # type: ignore[call-overload]
    app.method("wrong", run_to_end=True)  # type: ignore[call-overload]
    app.on("wrong", timeout=1)  # type: ignore[call-overload]


async def wrong_uses_of_a_call(call: sockrpc.Call) -> None:
    await call.respond(1)  # type: ignore[arg-type]
    await call.respond()  # type: ignore[call-arg]
    call.respond("never awaited")  # type: ignore[unused-coroutine]
    call.spawn_and_abort_on_reset(work)  # type: ignore[arg-type]
    await call.abort_on_reset(1)  # type: ignore[arg-type]
    call.on_abort(1)  # type: ignore[arg-type]
    call.payload = b""  # type: ignore[misc]
    call.is_reset = True  # type: ignore[misc]
    call.reset()  # type: ignore[attr-defined]


async def call_with(path: str) -> None: ...


async def wrong_uses_of_a_socket(socket: sockrpc.Socket, room: sockrpc.Room) -> None:
    await socket.notify(b"event")  # type: ignore[arg-type]
    await socket.notify("event", 1)  # type: ignore[arg-type]
    await socket.notify("event", None)  # type: ignore[arg-type]
    await socket.close("bye")  # type: ignore[arg-type]
    socket.in_flight = 1  # type: ignore[misc]
    await call_with(socket.request.path)  # type: ignore[union-attr]
    room.broadcast("event", "payload", socket)  # type: ignore[call-arg]
    room.join(1)  # type: ignore[arg-type]


async def wrong_servers() -> None:
    sockrpc.serve()  # type: ignore[call-arg]
    sockrpc.serve(uppercase, port=0)  # type: ignore[arg-type]
    sockrpc.serve(app, "127.0.0.1", "3000")  # type: ignore[arg-type]
    sockrpc.serve(app, "127.0.0.1", 3000, "/socket")  # type: ignore[call-arg]
    sockrpc.serve(app, port=0, max_inflight=1)  # type: ignore[call-arg]
    sockrpc.serve(app, port=0, max_in_flight="1")  # type: ignore[arg-type]
    sockrpc.serve(app, port=0, stop_grace=None)  # type: ignore[arg-type]
    sockrpc.serve(app, port=0, max_listener_bytes=1)  # type: ignore[call-arg]
    sockrpc.serve(app, port=0, process_request=handle_socket)  # type: ignore[arg-type]
    sockrpc.run(app, loop="trio")  # type: ignore[arg-type]
    sockrpc.run(app, max_inflight=1)  # type: ignore[call-arg]
    sockrpc.run(app, max_in_flight="1")  # type: ignore[arg-type]


async def wrong_clients(client: sockrpc.Client) -> None:
    await client.call()  # type: ignore[call-arg]
    await client.call(b"method")  # type: ignore[arg-type]
    await client.call("method", 1)  # type: ignore[arg-type]
    await client.call("method", b"", 1.0)  # type: ignore[call-arg, arg-type]
    await client.call("method", timeout="1")  # type: ignore[arg-type]
    client.call("never awaited")  # type: ignore[unused-coroutine]
    _: str = await client.call("method")  # type: ignore[assignment]
    for _payload in client.on("event"):  # type: ignore[attr-defined]
        pass
    sockrpc.connect()  # type: ignore[call-arg]
    sockrpc.connect("ws://localhost/", max_in_flight=1)  # type: ignore[call-arg]
    sockrpc.connect("ws://localhost/", ping_interval="1")  # type: ignore[arg-type]
    with sockrpc.connect("ws://localhost/"):  # type: ignore[attr-defined]
        pass
