"""A call of `sockrpc.v1` gets one end, whatever its handler or its peer does, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
from typing import Any

import pytest

import sockrpc
from sockrpc import Code, RPCError
from tests.kit.support import serving, until
from tests.kit.v1_peer import SENDS, TAKES, V1, V1Peer, credit, end, hello, item, opened, request, reset

INTERNAL = 13


class Forgetful(RPCError):
    """An error of an application that forgets to call the constructor of its base."""

    def __init__(self) -> None:
        pass


class Odd(Exception):
    """An error whose text cannot be made."""

    def __str__(self) -> str:
        raise ValueError("no text")


def changed(name: str, value: object) -> RPCError:
    error = RPCError(Code.NOT_FOUND, "text")
    setattr(error, name, value)
    return error


ERRORS: dict[str, tuple[Any, int, str]] = {
    "a surrogate": (lambda: RPCError(Code.NOT_FOUND, "no file \udcff"), 5, r"no file \udcff"),
    "bytes-like details": (lambda: RPCError(Code.NOT_FOUND, "x", details=bytearray(b"d")), 5, "x"),
    "no constructor": (Forgetful, 2, ""),
    "a number as its message": (lambda: RPCError(Code.NOT_FOUND, 5), INTERNAL, "UsageError"),  # type: ignore[arg-type]
    "text as its details": (
        lambda: RPCError(Code.NOT_FOUND, "", details="d"),  # type: ignore[arg-type]
        INTERNAL,
        "UsageError",
    ),
    "a message changed to none": (lambda: changed("message", None), INTERNAL, "internal error"),
    "details changed to text": (lambda: changed("details", "text"), INTERNAL, "internal error"),
    "details changed to none": (lambda: changed("details", None), 5, "text"),
    "a code out of range": (lambda: changed("code", 300), INTERNAL, "internal error"),
    "no text": (Odd, INTERNAL, "Odd"),
}


@pytest.mark.parametrize(("make", "code", "text"), ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("form", ["at once", "later"])
async def test_a_call_ends_whatever_its_error_holds(
    form: str, make: Any, code: int, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = sockrpc.App()

    @app.method("at once")
    def at_once(call: sockrpc.Call) -> None:
        raise make()

    @app.method("later")
    async def later(call: sockrpc.Call) -> None:
        await asyncio.sleep(0)
        raise make()

    async with serving(app, debug=True) as there:
        peer = await V1Peer.meet(there.port)
        await peer.say(request(1, form))
        heard = await peer.hear()
        assert heard[:4] == (9, 1, code, 0)
        assert heard[4].startswith(text)
        await until(lambda: there.server.statistics().calls_running == 0)
        await peer.synchronize()
        await peer.close()


async def test_a_refusal_of_a_connection_says_what_it_can() -> None:
    app = sockrpc.App()

    @app.on_connect
    def refuse(socket: sockrpc.Socket) -> None:
        raise RPCError(Code.UNAUTHENTICATED, "who is \udcff? " + "x" * 500)

    async with serving(app) as there:
        with pytest.raises(RPCError, match="who is") as caught:
            await there.connect(protocols=V1)
        assert caught.value.code is Code.UNAUTHENTICATED
        peer = await V1Peer.meet(there.port, hello(size=100))
        assert (await peer.hear())[:3] == (11, 16, 0)
        assert (await peer.hear())[:2] == ("close", 1008)
        await peer.close()


async def test_an_answer_by_respond_is_no_larger_than_the_caller_takes() -> None:
    answered = []
    app = sockrpc.App()

    @app.method("large")
    async def large(call: sockrpc.Call) -> None:
        answered.append(await call.respond(bytes(2000)))

    async with serving(app) as there:
        peer = await V1Peer.meet(there.port, hello(size=1000))
        await peer.say(request(1, "large"))
        assert (await peer.hear())[:4] == (9, 1, Code.RESOURCE_EXHAUSTED, 2)
        assert answered == [False]
        await peer.close()


async def test_small_items_are_no_larger_than_the_caller_takes(caplog: pytest.LogCaptureFixture) -> None:
    app = sockrpc.App()

    @app.method("yields")
    async def yields(call: sockrpc.Call) -> Any:
        yield b"x" * 50
        yield b"x" * 200

    @app.method("sends")
    async def sends(call: sockrpc.Call) -> None:
        await call.send(b"x" * 50)
        await call.send(b"x" * 200)

    async with serving(app) as there:
        peer = await V1Peer.meet(there.port, hello(size=100))
        for id, method in enumerate(("yields", "sends"), 1):
            await peer.say(opened(id, method, flags=TAKES))
            assert await peer.hear() == (6, id, b"x" * 50)
            assert (await peer.hear())[:4] == (9, id, INTERNAL, 0)
        await peer.close()
    assert "at most 94 bytes here, this one 200" in caplog.text


BREACHES: dict[str, tuple[int, list[bytes], Code, str]] = {
    "after the end": (SENDS, [end(1), item(1)], Code.INVALID_ARGUMENT, "reset"),
    "without balance": (SENDS, [item(1, bytes(65_536)), item(1)], Code.RESOURCE_EXHAUSTED, "reset"),
    "larger than the window": (SENDS, [item(1, bytes(65_537))], Code.RESOURCE_EXHAUSTED, "reset"),
    "credit overflow": (TAKES, [credit(1, 2**31 - 1)], Code.INVALID_ARGUMENT, "reset"),
    "no credit": (TAKES, [], Code.RESOURCE_EXHAUSTED, "timeout"),
}


@pytest.mark.parametrize(("flags", "breach", "code", "reason"), BREACHES.values(), ids=BREACHES)
async def test_a_breach_aborts_its_call_like_a_reset(
    flags: int, breach: list[bytes], code: Code, reason: str
) -> None:
    seen: list[Any] = []
    begun = asyncio.Event()
    app = sockrpc.App()

    @app.method("work", credit_timeout=0.2)
    async def work(call: sockrpc.Call) -> None:
        call.on_abort(lambda: seen.append("undone"))
        begun.set()
        try:
            if reason == "timeout":
                while True:
                    await call.send(bytes(60_000))
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append(call.abort_reason)
            raise

    async with serving(app) as there:
        peer = await V1Peer.meet(there.port)
        await peer.say(opened(1, "work", flags=flags))
        # Before Python 3.12 a handler's first step comes after the read.
        await begun.wait()
        await peer.say(*breach)
        assert (await peer.hear_end())[:4] == (9, 1, code, 0)
        assert seen == [reason, "undone"]
        await peer.close()


async def test_a_breach_is_seen_in_the_socket_form() -> None:
    seen: list[Any] = []

    async def handle(socket: sockrpc.Socket) -> None:
        async for call in socket:
            assert isinstance(call, sockrpc.Call)
            await call.wait_reset()
            seen.append(call.is_reset)
            with pytest.raises(RPCError, match="aborted"):
                async for _ in call.items():
                    pass
            seen.append(await call.respond(b"late"))

    async with serving(handle) as there:
        peer = await V1Peer.meet(there.port)
        await peer.say(opened(1, "upload", flags=SENDS), item(1, bytes(65_536)), item(1, b"x"))
        assert (await peer.hear_end())[:4] == (9, 1, Code.RESOURCE_EXHAUSTED, 0)
        assert seen == [True, False]
        await peer.close()


@pytest.mark.parametrize("method", ["fails at once", "fails", "endless", "forever"])
async def test_a_call_that_has_ended_leaves_no_garbage(method: str) -> None:
    app = sockrpc.App()

    @app.method("fails at once")
    def fails_at_once(call: sockrpc.Call) -> None:
        raise RPCError(Code.ABORTED, "no")

    @app.method("fails")
    async def fails(call: sockrpc.Call) -> None:
        await asyncio.sleep(0)
        raise RPCError(Code.ABORTED, "no")

    @app.method("endless")
    async def endless(call: sockrpc.Call) -> Any:
        while True:
            yield b"x"

    @app.method("forever")
    async def forever(call: sockrpc.Call) -> None:
        await asyncio.Event().wait()

    async with serving(app) as there:
        peer = await V1Peer.meet(there.port)

        async def use(ids: range) -> None:
            for id in ids:
                await peer.say(opened(id, method, bytes(1000), flags=TAKES, timeout=60_000))
                if method in ("endless", "forever"):
                    await peer.say(reset(id))
                assert (await peer.hear_end())[:2] == (9, id)

        await use(range(1, 10))
        gc.collect()
        gc.disable()
        try:
            await use(range(10, 60))
            await until(lambda: there.server.statistics().calls_running == 0)
            # Some of the loop's own may be among them, but nothing of each call.
            assert gc.collect() < 50
        finally:
            gc.enable()
        await peer.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_what_a_forked_process_drops_sends_nothing() -> None:
    loop = asyncio.new_event_loop()

    async def begin() -> Any:
        app = sockrpc.App()
        heard: list[bytes] = []

        @app.method("endless")
        async def endless(call: sockrpc.Call) -> Any:
            call.on_abort(heard.append, b"aborted")
            while True:
                yield b"x"

        server = await sockrpc.serve(app, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = await sockrpc.connect(f"ws://127.0.0.1:{port}/", protocols=V1)
        stream = client.stream("endless")
        assert await anext(stream) == b"x"
        return server, client, stream, heard

    async def go_on(client: sockrpc.Client, stream: Any, server: sockrpc.Server, heard: list[bytes]) -> None:
        for _ in range(2000):
            await anext(stream)
        assert not heard
        await client.close()
        server.close()
        await server.wait_closed()

    server, client, stream, heard = loop.run_until_complete(begin())
    child = os.fork()
    if child == 0:
        # The loop does not run, so here it would be used directly.
        del stream
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    loop.run_until_complete(go_on(client, stream, server, heard))
    loop.close()
