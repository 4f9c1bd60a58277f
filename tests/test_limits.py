"""The limits of what comes in, each at its edge: messages, calls, notifications, threads."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import sockrpc
from tests.kit.narrow import LINE_BYTES, serving_narrowly
from tests.kit.raw_server import RawServer, notification
from tests.kit.support import (
    BINARY,
    CONTINUATION,
    PING,
    PONG,
    RawClient,
    frame,
    notify,
    request,
    reset,
    serving,
    started,
    until,
)
from tests.kit.tls import server_context
from tests.kit.work import Stubborn, Work

# Small, then of 16-bit length, then what is received directly into the parser, in one and several steps.
SIZES = [20, 126, 65_536, 300_000, 2_500_000]


@pytest.mark.parametrize("size", SIZES)
async def test_a_message_of_max_message_bytes_is_served_and_one_more_byte_is_1009(size: int) -> None:
    # A request for "echo" has ten bytes before its payload.
    payload = bytes(size - 10)
    async with serving(Work().app(), max_message_bytes=size) as here, await here.raw() as raw:
        await raw.send(request(1, "echo", payload))
        assert await raw.answer() == (1, payload)
        await raw.send(request(2, "echo", payload + b"x"))
        assert await raw.closing() == (1009, f"message over {size} bytes")


async def test_a_message_over_the_limit_is_refused_before_it_has_come() -> None:
    async with serving(Work().app(), max_message_bytes=1000) as here, await here.raw() as raw:
        await raw.send(frame(BINARY, bytes(1001))[:4])
        assert (await raw.closing())[0] == 1009


@pytest.mark.parametrize("parts", [[20], [10, 10], [0, 20, 0], [1] * 20, [19, 0, 0, 1]], ids=str)
async def test_fragments_count_together(parts: list[int]) -> None:
    message = b"\x02\x00\x00\x00\x01\x04echo0123456789"
    assert len(message) == 20
    async with serving(Work().app(), max_message_bytes=20) as here, await here.raw() as raw:
        await raw.send(*fragments(message, parts, final=True))
        for _ in parts:
            assert await raw.receive() == (PONG, b"between")
        assert await raw.answer() == (1, b"0123456789")
        await raw.send(*fragments(message, parts, final=False), frame(CONTINUATION, b"x"))
        for _ in parts:
            assert await raw.receive() == (PONG, b"between")
        assert (await raw.closing())[0] == 1009


def fragments(message: bytes, parts: list[int], *, final: bool) -> list[bytes]:
    """A message in fragments, a ping before each."""
    frames = []
    for n, size in enumerate(parts):
        part, message = message[:size], message[size:]
        last = final and n == len(parts) - 1
        frames += [frame(PING, b"between"), frame(CONTINUATION if n else BINARY, part, final=last)]
    return frames


@pytest.mark.parametrize("size", SIZES)
async def test_max_message_bytes_of_a_client(size: int) -> None:
    payload = bytes(size - len(b"\x01\x05event"))
    async with RawServer() as server:
        client, peer = await server.client(max_message_bytes=size)
        events = client.on("event")
        await peer.send(notification("event", payload))
        assert await peer.wait(anext(events)) == payload
        await peer.send(notification("event", payload + b"x"))
        with pytest.raises(sockrpc.ProtocolError) as raised:
            await peer.wait(anext(events))
        assert (raised.value.code, raised.value.reason) == (1009, f"message over {size} bytes")
        assert await peer.closing() == (1009, f"message over {size} bytes")
        await peer.finish()
        await peer.wait(client.wait_closed())


async def test_max_in_flight_calls_run_and_the_next_starts_when_one_ends() -> None:
    there = Work()
    async with (
        serving(there.app(), max_in_flight=3) as here,
        await here.raw() as raw,
        await here.raw() as other,
    ):
        await raw.send(*(request(n, "work") for n in range(1, 6)))
        await raw.synchronize()
        assert [call.id for call in there.calls] == [1, 2, 3]
        assert here.server.statistics().procedures_waiting == 2
        # Others have their own.
        await other.send(request(1, "work"))
        await other.synchronize()
        assert len(there.calls) == 4
        await raw.send(reset(2))
        await until(lambda: len(there.calls) == 5)
        assert there.calls[4].id == 4
        await raw.synchronize()
        assert here.server.statistics().procedures_waiting == 1
        there.may_answer.set()
        assert sorted([await raw.answer() for _ in range(4)]) == [(n, b"answer") for n in (1, 3, 4, 5)]
        assert here.server.statistics().procedures_waiting == 0


async def test_work_that_still_unwinds_after_its_reset_counts() -> None:
    there = Stubborn()
    async with serving(there.app(), max_in_flight=2) as here, await here.raw() as raw:
        await raw.send(request(1, "work"), request(2, "work"), request(3, "work"), request(4, "echo", b"x"))
        await until(lambda: len(there.calls) == 2)
        await raw.send(reset(1), reset(2))
        await until(lambda: len(there.cancels) == 2)
        await raw.synchronize()
        statistics = here.server.statistics()
        assert (statistics.calls_in_flight, statistics.calls_running) == (2, 2)
        assert statistics.procedures_waiting == 2
        there.may_unwind.set()
        assert sorted([await raw.answer(), await raw.answer()]) == [(3, b"too late"), (4, b"x")]


async def test_a_flood_of_requests_and_resets_runs_no_more_than_max_in_flight() -> None:
    there = Stubborn()
    async with serving(there.app(), max_in_flight=4) as here, await here.raw() as raw:
        for start in range(0, 1000, 100):
            await raw.send(*(request(n, "work") + reset(n) for n in range(start, start + 100)))
            await raw.synchronize()
            assert here.server.statistics().calls_running <= 4
            assert len(there.calls) <= 4
        statistics = here.server.statistics()
        assert (statistics.calls_in_flight, statistics.calls_reset) == (0, 1000)
        there.may_unwind.set()


async def test_work_in_a_thread_counts_until_the_thread_has_ended() -> None:
    may_end = threading.Event()
    app = sockrpc.App()

    @app.method("block", thread=True)
    def block(call: sockrpc.Call) -> bytes:
        may_end.wait()
        return b"ended"

    app.method("echo")(lambda call: call.payload)
    try:
        async with serving(app, max_in_flight=1) as here, await here.raw() as raw:
            await raw.send(request(1, "block"), reset(1), request(2, "echo", b"x"))
            await raw.synchronize()
            assert here.server.statistics().procedures_waiting == 1
            may_end.set()
            assert await raw.answer() == (2, b"x")
    finally:
        may_end.set()


async def test_max_threads_run_at_once_over_all_connections() -> None:
    may_end = threading.Event()
    running: list[bytes] = []
    app = sockrpc.App()

    @app.method("block", thread=True)
    def block(call: sockrpc.Call) -> bytes:
        running.append(call.payload)
        may_end.wait()
        return call.payload

    try:
        async with serving(app, max_threads=2) as here, here.connect() as one, here.connect() as two:
            calls = []
            for n, client in enumerate([one, two, one, two]):
                calls.append(await started(client.call("block", str(n))))
                await until(lambda n=n: here.server.statistics().calls_running == n + 1)
            await until(lambda: len(running) == 2)
            names = [thread.name for thread in threading.enumerate()]
            # Beside them there is only the one that watches the loop.
            assert sum(name.startswith("sockrpc-") and name != "sockrpc-watch" for name in names) == 2
            # One that waits for a thread leaves its place at once.
            calls[2].cancel()
            await until(lambda: here.server.statistics().calls_running == 3)
            may_end.set()
            assert [await calls[n] for n in (0, 1, 3)] == [b"0", b"1", b"3"]
            assert sorted(running) == [b"0", b"1", b"3"]
    finally:
        may_end.set()


async def test_max_notifications_run_and_the_next_waits_with_all_behind_it() -> None:
    app = sockrpc.App()
    log: list[bytes] = []
    gates: list[asyncio.Future[None]] = []

    @app.on("event")
    async def event(heard: sockrpc.Notification) -> None:
        log.append(heard.payload)
        gates.append(asyncio.get_running_loop().create_future())
        await gates[-1]

    # Coroutines all of them: where tasks do not start eagerly a plain function would overtake them.
    @app.on("short")
    async def short(heard: sockrpc.Notification) -> None:
        log.append(heard.payload)

    @app.method("call")
    async def call(call: sockrpc.Call) -> bytes:
        log.append(call.payload)
        return b"done"

    async with serving(app, max_notifications=2) as here, await here.raw() as raw:
        await raw.send(
            notify("event", b"1"),
            notify("event", b"2"),
            notify("event", b"3"),
            request(1, "call", b"4"),
            notify("short", b"5"),
            notify("event", b"6"),
        )
        await raw.synchronize()
        await until(lambda: len(gates) == 2)
        assert log == [b"1", b"2"]
        assert here.server.statistics().notifications_running == 2
        assert here.server.statistics().procedures_waiting == 4
        gates[1].set_result(None)
        # The third takes the place; what never waits then needs none, but the sixth does.
        await until(lambda: len(gates) == 3)
        assert log[:3] == [b"1", b"2", b"3"]
        gates[0].set_result(None)
        assert await raw.answer() == (1, b"done")
        await until(lambda: len(gates) == 4)
        assert log == [b"1", b"2", b"3", b"4", b"5", b"6"]
        for gate in gates[2:]:
            gate.set_result(None)
        await until(lambda: here.server.statistics().notifications_running == 0)


async def test_a_notification_that_waits_does_not_start_when_the_stop_grace_is_over() -> None:
    app = sockrpc.App()
    begun: list[bytes] = []

    @app.on("event")
    async def event(heard: sockrpc.Notification) -> None:
        begun.append(heard.payload)
        await asyncio.Event().wait()

    options: dict[str, Any] = {"max_notifications": 1, "stop_grace": 0.05, "abort_grace": 60.0}
    # Nobody answers its close.
    async with serving(app, close_timeout=0.05, **options) as here, await here.raw() as raw:
        await raw.send(notify("event", b"1"), notify("event", b"2"), notify("event", b"3"))
        await until(lambda: here.server.statistics().procedures_waiting == 2)
        here.server.close()
        try:
            await raw.wait(here.server.wait_closed())
        finally:
            here.server.hurry()
        assert here.server.statistics().notifications_dropped == 2
    assert begun == [b"1"]


# A full queue of waiting procedures: reading stops, and goes on


# Both are reached by five payloads of 8 KiB.
FULL: dict[str, dict[str, Any]] = {
    "calls": {"max_waiting_calls": 5},
    "bytes": {"max_held_bytes": 5 * 8 * 1024},
}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("limit", FULL)
async def test_a_full_queue_stops_reading_and_nothing_is_lost_or_reordered(limit: str, tls: bool) -> None:
    size = 8 * 1024
    options: dict[str, Any] = FULL[limit] | ({"ssl": server_context()} if tls else {})
    count = 2 * LINE_BYTES // size
    there = Work()
    async with (
        serving_narrowly(there.app(), max_in_flight=1, **options) as here,
        await here.narrow_raw() as raw,
        await here.narrow_raw() as other,
    ):
        await raw.send(request(0, "work"))
        await until(lambda: there.calls)
        sending = await started(
            send_all(raw, [request(n, "echo", payload(n, size)) for n in range(1, count)])
        )
        await until(lambda: here.server.statistics().procedures_waiting == 5)
        # A turn of another connection's line is more than enough for what still could be read.
        for _ in range(20):
            await other.synchronize()
        assert here.server.statistics().procedures_waiting == 5
        assert not sending.done()
        there.may_answer.set()
        assert await raw.answer() == (0, b"answer")
        for n in range(1, count):
            assert await raw.answer() == (n, payload(n, size))
        await sending


def payload(n: int, size: int) -> bytes:
    return n.to_bytes(4, "big") * (size // 4)


async def send_all(raw: RawClient, messages: list[bytes]) -> None:
    for message in messages:
        await raw.send(message)


@pytest.mark.parametrize("limit", FULL)
async def test_a_reset_behind_a_full_queue_waits_with_it(limit: str) -> None:
    size = 8 * 1024
    there = Work()
    async with serving_narrowly(there.app(), max_in_flight=1, **FULL[limit]) as here, await here.raw() as raw:
        await raw.send(request(0, "work"))
        await until(lambda: there.calls)
        await raw.send(*(request(n, "echo", payload(n, size)) for n in range(1, 7)), reset(0), reset(6))
        await until(lambda: here.server.statistics().procedures_waiting == 5)
        for _ in range(100):
            await asyncio.sleep(0)
        assert there.cancels == []
        there.may_answer.set()
        assert await raw.answer() == (0, b"answer")
        for n in range(1, 6):
            assert await raw.answer() == (n, payload(n, size))
        await until(lambda: here.server.statistics().procedures_waiting == 0)


async def test_a_waiting_call_that_is_aborted_makes_room() -> None:
    there = Work()
    async with serving(there.app(), max_in_flight=1, max_waiting_calls=3) as here, await here.raw() as raw:
        await raw.send(request(0, "work"), request(1, "echo", b"1"), request(2, "echo", b"2"), reset(1))
        await raw.send(request(3, "echo", b"3"), reset(3), request(4, "echo", b"4"), reset(2), frame(PING))
        assert await raw.receive() == (PONG, b"")
        assert here.server.statistics().procedures_waiting == 1
        there.may_answer.set()
        assert [await raw.answer() for _ in range(2)] == [(0, b"answer"), (4, b"4")]


async def test_a_single_payload_above_max_held_bytes_is_served_all_the_same() -> None:
    there = Work()
    big = bytes(200_000)
    async with serving(there.app(), max_in_flight=1, max_held_bytes=1000) as here, await here.raw() as raw:
        await raw.send(request(0, "work"))
        await until(lambda: there.calls)
        sending = await started(raw.send(*(request(n, "echo", big) for n in range(1, 4))))
        there.may_answer.set()
        assert await raw.answer() == (0, b"answer")
        for n in range(1, 4):
            assert await raw.answer() == (n, big)
        await sending


async def test_procedures_that_nobody_takes_from_a_socket_are_limited_too() -> None:
    taken: list[Any] = []
    may_take = asyncio.Event()

    async def handle(socket: sockrpc.Socket) -> None:
        await may_take.wait()
        async for procedure in socket:
            taken.append(procedure.payload)
            if isinstance(procedure, sockrpc.Call):
                await procedure.respond(procedure.payload)

    size = 8 * 1024
    count = 2 * LINE_BYTES // size
    async with serving_narrowly(handle, max_waiting_calls=5) as here, await here.narrow_raw() as raw:
        messages = [
            notify("x", payload(n, size)) if n % 2 else request(n, "x", payload(n, size))
            for n in range(count)
        ]
        sending = await started(send_all(raw, messages))
        await until(lambda: here.server.statistics().procedures_waiting == 5)
        for _ in range(200):
            await asyncio.sleep(0)
        assert here.server.statistics().procedures_waiting == 5
        assert not sending.done()
        may_take.set()
        for n in range(0, count, 2):
            assert await raw.answer() == (n, payload(n, size))
        await sending
        await until(lambda: len(taken) == count)
    assert taken == [payload(n, size) for n in range(count)]
