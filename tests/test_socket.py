"""The server's end of a connection: what a handler can ask of it, tell it and do to it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import sockrpc
from tests.kit.command import POSIX
from tests.kit.support import BINARY, CLOSE, SUBPROTOCOL, frame, request, reset, serving, started, until
from tests.kit.work import Work

# Small, so that little has to be sent until output is blocked; the system's own buffers take some MiB.
OUTPUT: dict[str, Any] = {
    "output_high_bytes": 256 * 1024,
    "output_low_bytes": 64 * 1024,
    "output_max_bytes": 1024 * 1024,
}
PAYLOAD = bytes(64 * 1024)
MESSAGE = (BINARY, b"\x01\x01n" + PAYLOAD)


async def test_notify_sends_at_once_while_the_peer_reads() -> None:
    async with serving(sockrpc.App()) as here, await here.raw() as raw:
        socket = here.only_socket()
        await socket.notify("e", "text")
        await socket.notify("e", b"bytes")
        await socket.notify("e")
        assert socket.notify_nowait("e", bytearray(b"array")) is True
        for payload in (b"text", b"bytes", b"", b"array"):
            assert await raw.receive() == (BINARY, b"\x01\x01e" + payload)


async def test_notify_waits_while_the_peer_reads_too_slowly() -> None:
    async with serving(sockrpc.App(), **OUTPUT) as here, await here.raw() as raw:
        socket = here.only_socket()
        sent = 0
        while (sending := await started(socket.notify("n", PAYLOAD))).done():
            sent += 1
        more = await started(socket.notify("after"))
        withdrawn = await started(socket.notify("withdrawn"))
        withdrawn.cancel()
        for _ in range(sent + 1):
            assert await raw.receive() == MESSAGE
        assert await raw.receive() == (BINARY, b"\x01\x05after")
        await raw.synchronize()
        await asyncio.gather(sending, more)
        assert withdrawn.cancelled()


@pytest.mark.parametrize("end", ["lost", "closed"])
async def test_notify_that_waits_ends_with_the_connection(end: str) -> None:
    async with serving(sockrpc.App(), **OUTPUT, close_timeout=0.1) as here, await here.raw() as raw:
        socket = here.only_socket()
        while (sending := await started(socket.notify("n", PAYLOAD))).done():
            pass
        if end == "lost":
            raw.reset_line()
            with pytest.raises(sockrpc.ConnectionLost):
                await sending
        else:
            await socket.close(4000, "enough")
            with pytest.raises(sockrpc.ConnectionClosed, match="4000: enough"):
                await sending


async def test_notify_after_the_end_tells_whose_it_was() -> None:
    async with serving(sockrpc.App()) as here:
        async with await here.raw() as raw:
            socket = here.only_socket()
        await until(lambda: not here.server.connections)
        with pytest.raises(sockrpc.ConnectionLost):
            await socket.notify("event")
        assert socket.notify_nowait("event") is False
        async with await here.raw() as raw:
            socket = here.only_socket()
            closing = await started(socket.close(1001, "going"))
            with pytest.raises(sockrpc.ConnectionClosed, match="1001: going"):
                await socket.notify("event")
            assert socket.notify_nowait("event") is False
            assert await raw.closing() == (1001, "going")
        await closing


async def test_names_and_payloads_that_can_not_be_sent() -> None:
    async with serving(sockrpc.App()) as here, await here.raw() as raw:
        socket = here.only_socket()
        with pytest.raises(sockrpc.UsageError, match="255"):
            await socket.notify("x" * 256)
        with pytest.raises(sockrpc.UsageError, match="255"):
            socket.notify_nowait("é" * 128)
        with pytest.raises(TypeError):
            await socket.notify("event", 1)  # type: ignore[arg-type]
        await raw.synchronize()


async def test_close_sends_code_and_reason_aborts_calls_and_waits_for_the_peer() -> None:
    work = Work()
    async with serving(work.app()) as here:
        async with await here.raw() as raw:
            socket = here.only_socket()
            await raw.send(request(1, "work"))
            await until(lambda: work.calls)
            closing = await started(socket.close(3333, "because"))
            assert await raw.closing() == (3333, "because")
            await until(lambda: work.ended == 1)
            assert work.reasons == ["lost"]
            assert here.server.connections == frozenset()
            assert not closing.done()
        await closing
        await socket.close(4444)


async def test_close_waits_no_longer_than_close_timeout_and_is_not_taken_back() -> None:
    async with serving(sockrpc.App(), close_timeout=0.1) as here, await here.raw() as raw:
        socket = here.only_socket()
        closing = await started(socket.close())
        closing.cancel()
        await until(closing.done)
        assert await raw.closing() == (1000, "")
        await socket.close()
        assert await raw.nothing_more()


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65536, -1])
async def test_a_code_that_may_not_be_sent_is_a_usage_error_and_closes_nothing(code: int) -> None:
    async with serving(sockrpc.App()) as here, await here.raw() as raw:
        with pytest.raises(sockrpc.UsageError, match=str(code)):
            await here.only_socket().close(code)
        await raw.synchronize()


@pytest.mark.parametrize("code", [1000, 1003, 1007, 1014, 3000, 4999])
async def test_codes_that_may_be_sent(code: int) -> None:
    async with serving(sockrpc.App()) as here, await here.raw() as raw:
        closing = await started(here.only_socket().close(code, "x" * 124))
        assert await raw.closing() == (code, "x" * 123)
        await raw.close()
        await closing


async def test_a_long_reason_is_cut_at_a_character() -> None:
    async with serving(sockrpc.App()) as here, await here.raw() as raw:
        closing = await started(here.only_socket().close(1000, "x" + "é" * 62))
        assert await raw.closing() == (1000, "x" + "é" * 61)
        await raw.close()
        await closing


async def test_what_a_socket_knows_of_its_peer() -> None:
    async with serving(sockrpc.App()) as here:
        async with await here.raw(path="/socket?a=b", X_Extra="yes", Cookie="c=1") as raw:
            socket = here.only_socket()
            address = raw.writer.get_extra_info("sockname")
            assert socket.remote_address == address
            assert socket.request is not None
            assert socket.request.path == "/socket?a=b"
            assert socket.request.headers["X-Extra"] == "yes"
            assert socket.request.headers["Cookie"] == "c=1"
            assert socket.subprotocol == SUBPROTOCOL == sockrpc.SUBPROTOCOL
            assert repr(socket) == f"<Socket of {address!r}, 0 in flight>"
        await until(lambda: not here.server.connections)
        assert socket.remote_address == address


@pytest.mark.parametrize("end", ["close frame", "end of file", "reset of the line", "our close"])
async def test_an_address_that_nobody_has_asked_for_is_known_after_the_end(end: str) -> None:
    async with serving(sockrpc.App()) as here:
        raw = await here.raw()
        address = raw.writer.get_extra_info("sockname")
        socket = here.only_socket()
        if end == "close frame":
            await raw.send(frame(CLOSE))
        elif end == "end of file":
            raw.writer.write_eof()
        elif end == "reset of the line":
            raw.reset_line()
        else:
            closing = await started(socket.close())
            await raw.closing()
        await raw.close()
        await until(lambda: not here.server.connections)
        if end == "our close":
            await closing
        # For logs, and for whoever undoes what the connection had done.
        assert socket.remote_address == address


@POSIX
async def test_the_address_of_a_peer_on_a_unix_socket_is_a_string(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The path of a socket must be short.
    monkeypatch.chdir(tmp_path_factory.mktemp("uds"))
    async with (
        sockrpc.serve(sockrpc.App(), uds="here") as server,
        sockrpc.connect("ws://localhost/", uds="here"),
    ):
        (socket,) = server.connections
        assert socket.remote_address == ""
        assert repr(socket) == "<Socket of '', 0 in flight>"


async def test_state_is_the_socket_s_own() -> None:
    app = sockrpc.App()

    @app.method("count")
    def count(call: sockrpc.Call) -> str:
        state = call.socket.state
        state.count = getattr(state, "count", 0) + 1
        return str(state.count)

    async with serving(app) as here, here.connect() as one, here.connect() as two:
        assert [await one.call("count") for _ in range(3)] == [b"1", b"2", b"3"]
        assert await two.call("count") == b"1"
        assert sorted(socket.state.count for socket in here.server.connections) == [1, 3]


async def test_in_flight_counts_calls_from_their_request_to_their_answer_or_reset() -> None:
    work = Work()
    work.may_unwind.clear()
    async with serving(work.app(), max_in_flight=2) as here, await here.raw() as raw:
        socket = here.only_socket()
        await raw.send(*(request(id, "work") for id in range(4)))
        await raw.synchronize()
        # Two run, two wait.
        assert socket.in_flight == 4
        assert "4 in flight" in repr(socket)
        await raw.send(reset(0), reset(3))
        await raw.synchronize()
        # One of them still unwinds; that is no longer in flight.
        assert socket.in_flight == 2
        work.may_unwind.set()
        work.may_answer.set()
        assert sorted([await raw.answer(), await raw.answer()]) == [(1, b"answer"), (2, b"answer")]
        assert socket.in_flight == 0


async def test_a_call_and_a_notification_know_their_socket() -> None:
    app = sockrpc.App()
    seen: list[Any] = []

    @app.method("who")
    def who(call: sockrpc.Call) -> None:
        seen.append((call.socket, call.id, call.method, call.payload, call.text, repr(call)))

    @app.on("event")
    def event(notification: sockrpc.Notification) -> None:
        seen.append((notification.socket, notification.event, notification.text, repr(notification)))

    async with serving(app) as here, here.connect() as client:
        await client.call("who", "é")
        await client.notify("event", "x")
        await client.call("who", b"\x31")
        socket = here.only_socket()
        assert seen == [
            (socket, 1, "who", b"\xc3\xa9", "é", "<Call 1 of 'who', 2 bytes>"),
            (socket, "event", "x", "<Notification of 'event', 1 bytes>"),
            (socket, 2, "who", b"1", "1", "<Call 2 of 'who', 1 bytes>"),
        ]


async def test_answers_notifications_and_broadcasts_keep_their_order_whatever_their_size() -> None:
    app = sockrpc.App()
    room = sockrpc.Room()
    app.on_connect(room.join)
    sizes = [1, 100_000, 2, 16 * 1024, 70_000, 3, 16 * 1024 - 1]

    @app.method("mix")
    async def mix(call: sockrpc.Call) -> bytes:
        for size in sizes:
            await call.socket.notify("n", bytes(size))
            assert room.broadcast("b", bytes(size)) == 1
            assert call.socket.notify_nowait("w", bytes(size))
        return b"done"

    async with serving(app) as here, await here.raw() as raw:
        await until(lambda: len(room) == 1)
        await raw.send(request(1, "mix"))
        for size in sizes:
            for name in (b"n", b"b", b"w"):
                assert await raw.receive() == (BINARY, b"\x01\x01" + name + bytes(size))
        assert await raw.answer() == (1, b"done")


async def test_with_an_app_a_socket_is_not_iterated() -> None:
    async with serving(sockrpc.App()) as here, await here.raw():
        with pytest.raises(sockrpc.UsageError, match="handlers"):
            aiter(here.only_socket())
