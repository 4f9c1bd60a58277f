"""The part of the public API that `sockrpc.v1` brings, as a type checker sees it; see examples.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import assert_type

import sockrpc
from sockrpc import Call, Code, Outcome, RPCError

app = sockrpc.App()


# Handlers


@app.method
async def generate(call: Call) -> AsyncIterator[str]:
    for token in call.text.split():
        yield token


@app.method("lines", thread=True)
def lines(call: Call) -> Iterator[bytes]:
    with open("/etc/hosts", "rb") as file:
        yield from file


@app.method("feed", credit_timeout=30)
async def feed(call: Call) -> AsyncIterator[sockrpc.Tracked | str]:
    assert_type(call.resume_from, bytes | None)
    yield sockrpc.Tracked("item", b"cursor")
    yield "item"


@app.method("pay", timeout=5)
async def pay(call: Call) -> bytes:
    if not call.payload:
        raise RPCError(Code.INVALID_ARGUMENT, "empty order", details=b"order")
    answer = await call.peer.call("confirm", "Pay?", timeout=20)
    call.commit()
    return answer


@app.method("sum")
async def total(call: Call) -> str:
    return str(sum([int(item) async for item in call.items()]))


@app.method("chat")
async def chat(call: Call) -> str:
    async for item in call.items():
        assert_type(item, bytes)
        assert_type(await call.send(item.upper(), cursor=b"1"), bool)
    assert_type(call.deadline, float | None)
    assert_type(call.remaining, float | None)
    assert_type(call.metadata["traceparent"], bytes)
    assert_type(call.metadata.text("traceparent"), str | None)
    return "bye"


@app.on_connect
async def admit(socket: sockrpc.Socket) -> None:
    if "authorization" not in socket.metadata:
        raise RPCError(Code.UNAUTHENTICATED)
    assert_type(await socket.call("hello"), bytes)


async def socket_form(socket: sockrpc.Socket) -> None:
    async for procedure in socket:
        match procedure:
            case Call(method="chat") as call:
                assert_type(await call.fail(Code.NOT_FOUND, "no chat"), bool)
                await call.fail(200)


def serve_old_pages_too() -> None:
    sockrpc.serve(app, port=0, protocols=("sockrpc.v1", "websocket.io-rpc-v0.1"), debug=True, max_calls=10)
    sockrpc.run(app, port=0, window_bytes=1 << 20, credit_timeout=None, max_outgoing_calls=10)


# Callers


async def token() -> dict[str, str]:
    return {"authorization": "Bearer x"}


async def main() -> None:
    async with sockrpc.connect("ws://host/socket", app=app, metadata=token) as client:
        assert_type(client.subprotocol, str)
        assert_type(client.closing, bool)
        async for word in client.stream("generate", "a b c"):
            assert_type(word.decode(), str)
        assert_type(await client.call("sum", items=["1", "2"], metadata={"a": b"b"}), bytes)
        async with client.stream("chat", items=generate_items(), window_bytes=1 << 20) as chat:
            assert_type(chat, sockrpc.Stream)
            async for item in chat:
                assert_type(item, bytes)
            assert_type(await chat.result(), bytes)
            assert_type(chat.cursor, bytes | None)
        async with client.stream("chat") as chat:
            assert_type(await chat.send("a"), bool)
            assert_type(await chat.end(), None)
            assert_type(await chat.cancel(), Outcome)
        payment = client.start("pay", b"order")
        assert_type(payment, sockrpc.Handle)
        try:
            assert_type(await payment, bytes)
        except sockrpc.DeadlineExceeded as error:
            if error.outcome is Outcome.NOT_STARTED:
                payment = client.start("pay", b"order")
        except RPCError as error:
            assert_type(error.code, Code | int)
            assert_type(error.message, str)
            assert_type(error.details, bytes)
            assert_type(error.retry_after, float | None)
            assert_type(error.received, bool)
        except sockrpc.ConnectionLost as error:
            assert_type(error.outcome, Outcome)
        assert_type(payment.cancel(), asyncio.Future[Outcome])
        assert_type(payment.done(), bool)
        async with sockrpc.timeout(5):
            await asyncio.gather(client.call("a"), client.call("b"))
        with sockrpc.deadline(None):
            await client.call("a")
    sockrpc.connect("ws://host/", metadata={"authorization": "x"}, protocols=("sockrpc.v1",))
    sockrpc.connect("ws://host/", metadata=lambda: {"authorization": b"x"})


async def generate_items() -> AsyncIterator[bytes]:
    yield b"a"


# What must not type-check


async def wrong_uses(client: sockrpc.Client, call: Call) -> None:
    await client.call("method", items=[1])  # type: ignore[list-item]
    await client.call("method", metadata={"a": 1})  # type: ignore[dict-item]
    client.start("method", b"", 1.0)  # type: ignore[call-arg, arg-type]
    for _ in client.stream("method"):  # type: ignore[attr-defined]
        pass
    await client.stream("method")  # type: ignore[misc]
    async with client.start("method"):  # type: ignore[attr-defined]
        pass
    _text: str = await client.start("method")  # type: ignore[assignment]
    RPCError("NOT_FOUND")  # type: ignore[arg-type]
    RPCError(Code.NOT_FOUND, "text", b"details")  # type: ignore[call-arg]
    sockrpc.Tracked("item")  # type: ignore[call-arg]
    sockrpc.Tracked("item", "cursor")  # type: ignore[arg-type]
    await call.send(1)  # type: ignore[arg-type]
    await call.send("item", b"cursor")  # type: ignore[call-arg]
    await call.fail("NOT_FOUND")  # type: ignore[arg-type]
    call.fail(Code.NOT_FOUND)  # type: ignore[unused-coroutine]
    for _item in call.items():  # type: ignore[attr-defined]
        pass
    call.deadline = None  # type: ignore[misc]
    sockrpc.connect("ws://host/", app=main)  # type: ignore[arg-type]
    sockrpc.connect("ws://host/", metadata=5)  # type: ignore[arg-type]
    sockrpc.timeout("5")  # type: ignore[arg-type]
    with sockrpc.timeout(5):  # type: ignore[attr-defined]
        pass
    async with sockrpc.deadline(5):  # type: ignore[attr-defined]
        pass
