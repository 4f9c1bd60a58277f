"""What a server counts of each method, and how long calls and aborts take."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
import time
from typing import Any

import pytest

import sockrpc
from sockrpc.peer.tally import histogram_of
from tests.kit.http_peer import ask_to_open, line_to
from tests.kit.support import PATIENCE, RawClient, Serving, notify, opening, request, reset, serving, until
from tests.kit.tls import client_context, server_context
from tests.kit.work import Work

BOUNDS = histogram_of([]).bounds


def held_up(seconds: float) -> None:
    """Keep the loop for some time, as a handler does that works."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


# Histograms


def test_the_bounds_are_powers_of_two_from_a_microsecond() -> None:
    assert BOUNDS[0] == 1e-6
    assert all(after == 2 * before for before, after in itertools.pairwise(BOUNDS))
    assert BOUNDS[-1] == pytest.approx(67.1, abs=0.1)


def test_a_time_is_in_the_first_bucket_whose_bound_it_does_not_exceed() -> None:
    for i, bound in enumerate(BOUNDS):
        counts, seconds = histogram_of([bound, bound + 2e-9])
        expected = [0] * (len(BOUNDS) + 1)
        expected[i] += 1
        expected[i + 1] += 1
        assert list(counts) == expected
        assert seconds == pytest.approx(2 * bound, abs=1e-8)


def test_no_time_at_all_and_a_clock_that_went_back_are_in_the_first_bucket() -> None:
    counts, seconds = histogram_of([0.0, -1.0])
    assert (counts[0], sum(counts), seconds) == (2, 2, 0.0)


def test_a_very_long_time_is_in_the_last_bucket_and_in_the_sum() -> None:
    counts, seconds = histogram_of([1e6])
    assert (counts[-1], sum(counts)) == (1, 1)
    assert seconds == pytest.approx(1e6)


# Outcomes


async def test_calls_are_counted_by_method_and_outcome(caplog: pytest.LogCaptureFixture) -> None:
    work, slow = Work(), Work()
    app = work.app()
    app.method("slow", timeout=0.01)(slow)

    @app.method("fail")
    def fail(call: sockrpc.Call) -> None:
        raise LookupError

    async with serving(app, stop_grace=0.0) as here:
        server = here.server
        async with await here.raw() as raw:
            await raw.send(
                request(1, "echo"),
                request(2, "echo"),
                request(3, "fail"),
                request(4, "slow"),
                request(5, "work"),
            )
            await until(lambda: slow.ended and work.calls)
            await raw.send(request(6, "work"), request(7, "unheard of"))
            await until(lambda: len(work.calls) == 2)
            now = server.statistics()
            assert now.methods["work"].in_flight == now.calls_in_flight == 2
            await raw.send(reset(5))
            await until(lambda: work.ended == 1)
        await until(lambda: work.ended == 2)
        async with await here.raw() as raw:
            await raw.send(request(1, "work"))
            await until(lambda: len(work.calls) == 3)
            server.close()
            await until(lambda: work.ended == 3)
    methods = server.statistics().methods
    outcomes = {name: outcomes_of(method) for name, method in methods.items()}
    assert outcomes == {
        "echo": {"answered": 2},
        "fail": {"failed": 1},
        "slow": {"timed_out": 1},
        "work": {"reset": 1, "lost": 1, "stopped": 1},
    }
    assert outcomes_of(server.statistics().unregistered) == {"failed": 1}


def outcomes_of(method: sockrpc.MethodStatistics) -> dict[str, int]:
    """The counts that are not 0."""
    names = ("in_flight", "answered", "failed", "reset", "lost", "timed_out", "stopped")
    return {name: getattr(method, name) for name in names if getattr(method, name)}


async def test_names_that_peers_make_up_take_no_memory() -> None:
    async with serving(Work().app()) as here, await here.raw() as raw:
        await raw.send(*(request(id, f"name {id}") for id in range(100)))
        await raw.synchronize()
        statistics = here.server.statistics()
        assert set(statistics.methods) == {"work", "echo"}
        assert statistics.unregistered.failed == statistics.calls_failed == 100


async def test_in_the_socket_form_no_name_is_registered() -> None:
    async def handle(socket: sockrpc.Socket) -> None:
        async for procedure in socket:
            assert isinstance(procedure, sockrpc.Call)
            await procedure.respond(procedure.payload)

    async with serving(handle) as here, await here.raw() as raw:
        await raw.send(request(1, "echo"), request(2, "other"))
        await raw.answer()
        await raw.answer()
        statistics = here.server.statistics()
        assert statistics.methods == {}
        assert outcomes_of(statistics.unregistered) == {"answered": 2}


async def test_servers_of_one_app_count_for_themselves() -> None:
    app = Work().app()
    async with serving(app) as one, serving(app) as two:
        async with one.connect() as client:
            await client.call("echo")
        assert one.server.statistics().methods["echo"].answered == 1
        assert two.server.statistics().methods["echo"].answered == 0


# Times


async def test_the_time_to_an_answer_begins_with_the_read_and_ends_with_the_answer() -> None:
    work = Work()
    async with serving(work.app()) as here, await here.raw() as raw:
        before = time.monotonic()
        await raw.send(request(1, "work"))
        await until(lambda: work.calls)
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 0.01)
        work.may_answer.set()
        await raw.answer()
        answers = here.server.statistics().methods["work"].answers
        assert answers.total == 1
        assert 0.01 < answers.seconds < time.monotonic() - before
        (bucket,) = (i for i, count in enumerate(answers.counts) if count)
        assert BOUNDS[bucket - 1] < answers.seconds <= BOUNDS[bucket]


async def test_a_call_that_comes_behind_others_in_its_read_waited_for_them() -> None:
    """Also where the read was interrupted for the sake of other connections: each works for 3 ms of 5."""
    app = sockrpc.App()
    app.method("work")(lambda call: held_up(0.003))
    async with serving(app) as here, await here.raw() as raw:
        await raw.send(*(request(id, "work") for id in range(4)))
        for _ in range(4):
            await raw.answer()
        answers = here.server.statistics().methods["work"].answers
        assert answers.total == 4
        assert answers.seconds >= 0.003 * (1 + 2 + 3 + 4)


async def test_a_call_that_waits_for_its_turn_is_timed_from_its_read() -> None:
    work = Work()
    async with serving(work.app(), max_in_flight=1) as here, await here.raw() as raw:
        await raw.send(request(1, "work"), request(2, "echo"))
        await until(lambda: work.calls)
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 0.01)
        work.may_answer.set()
        assert [(await raw.answer())[0], (await raw.answer())[0]] == [1, 2]
        assert here.server.statistics().methods["echo"].answers.seconds > 0.01


async def test_only_answers_are_in_the_histogram_of_answers(caplog: pytest.LogCaptureFixture) -> None:
    work = Work()
    app = work.app()

    @app.method("fail")
    def fail(call: sockrpc.Call) -> None:
        raise LookupError

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "work"), request(2, "fail"))
        await until(lambda: work.calls)
        await raw.send(reset(1))
        await raw.synchronize()
        methods = here.server.statistics().methods
        assert (methods["work"].answers.total, methods["fail"].answers.total) == (0, 0)


async def test_unwinding_is_timed_from_the_reset_to_the_end_of_the_last_undo_hook() -> None:
    work = Work()
    work.may_unwind.clear()
    undoing, may_end = asyncio.Event(), asyncio.Event()

    async def undo() -> None:
        undoing.set()
        await may_end.wait()

    async with serving(work.app()) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await until(lambda: work.calls)
        work.calls[0].on_abort(undo)
        before = time.monotonic()
        await raw.send(reset(1))
        await until(lambda: work.cancels)
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 0.005)
        work.may_unwind.set()
        await undoing.wait()
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 0.005)
        assert here.server.statistics().methods["work"].unwinding.total == 0
        may_end.set()
        await until(lambda: here.server.statistics().calls_running == 0)
        unwinding = here.server.statistics().methods["work"].unwinding
        assert unwinding.total == 1
        assert 0.01 < unwinding.seconds < time.monotonic() - before


async def test_work_that_is_not_cancelled_has_nothing_to_unwind() -> None:
    """A call that waits has no work, and work that runs to completion is not told of a reset."""
    work = Work()
    async with serving(work.app(run_to_completion=True), max_in_flight=1) as here, await here.raw() as raw:
        await raw.send(request(1, "work"), request(2, "work"))
        await until(lambda: work.calls)
        await raw.send(reset(1), reset(2))
        await raw.synchronize()
        work.may_answer.set()
        await until(lambda: here.server.statistics().calls_running == 0)
        counted = here.server.statistics().methods["work"]
        assert (counted.reset, counted.unwinding.total) == (2, 0)


async def test_work_that_runs_to_completion_unwinds_from_what_cancelled_it() -> None:
    work = Work()
    server: sockrpc.Server
    async with serving(work.app(run_to_completion=True), stop_grace=0.0) as here, await here.raw() as raw:
        server = here.server
        await raw.send(request(1, "work"))
        await until(lambda: work.calls)
        await raw.send(reset(1))
        await raw.synchronize()
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 0.05)
        before = time.monotonic()
        server.close()
        await server.wait_closed()
        counted = server.statistics().methods["work"]
        assert (counted.reset, counted.unwinding.total) == (1, 1)
        assert counted.unwinding.seconds < time.monotonic() - before


# Connections


async def open_line(here: Serving, tls: bool) -> RawClient:
    """A raw client; with TLS it says and hears the same."""
    if not tls:
        return await here.raw()
    options: dict[str, Any] = {"ssl": client_context(), "server_hostname": "127.0.0.1"}
    raw = RawClient(*await asyncio.open_connection("127.0.0.1", here.port, **options))
    await raw.send(opening())
    raw.head = await raw.wait(raw.reader.readuntil(b"\r\n\r\n"))
    return raw


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_bytes_are_those_that_the_peer_has_sent_and_received(tls: bool) -> None:
    """With TLS too: not those of its records."""
    async with serving(Work().app(), ssl=server_context() if tls else None) as here:
        messages = request(1, "echo", bytes(70_000)) + request(2, "echo", b"short")
        async with await open_line(here, tls) as raw:
            await raw.send(messages)
            large, short = await raw.answer(), await raw.answer()
            assert (len(large[1]), short[1]) == (70_000, b"short")
            sent = len(opening()) + len(messages)
            received = len(raw.head) + (10 + 5 + 70_000) + (2 + 5 + 5)
            now = here.server.statistics()
            assert (now.bytes_received, now.bytes_sent, now.connections_accepted) == (sent, received, 1)
        # They are not forgotten with the connection.
        await until(lambda: not here.server.connections)
        await until(lambda: here.server.statistics().calls_running == 0)
        async with await open_line(here, tls):
            now = here.server.statistics()
            assert now.bytes_received == sent + len(opening())
            assert now.bytes_sent == received + len(raw.head)
            assert now.connections_accepted == 2


async def test_connections_that_are_refused_were_accepted() -> None:
    async with serving(Work().app(), path="/socket", max_connections=1) as here, await here.raw():
        accepted = here.server.statistics().connections_accepted
        assert accepted == 1
        for status, asked in ((503, opening()), (503, b""), (503, opening("/elsewhere"))):
            assert (await ask_to_open(here.port, asked)).status == status
            accepted += 1
            assert here.server.statistics().connections_accepted == accepted
    async with serving(Work().app(), path="/socket") as here:
        for asked in (opening("/elsewhere"), b"no request\r\n\r\n", opening(Origin="http://x.example")):
            await ask_to_open(here.port, asked)
        assert here.server.statistics().connections_accepted == 3


async def test_with_tls_a_connection_is_accepted_after_its_handshake() -> None:
    async with serving(Work().app(), ssl=server_context()) as here:
        # One that speaks no TLS, and one that does not trust the server.
        async with line_to(here.port) as (reader, writer), asyncio.timeout(PATIENCE):
            writer.write(opening())
            with contextlib.suppress(ConnectionError):
                await reader.read()
        with pytest.raises(ssl.SSLCertVerificationError):
            await sockrpc.connect(f"wss://127.0.0.1:{here.port}/", ssl=ssl.create_default_context())
        assert here.server.statistics().connections_accepted == 0
        async with await open_line(here, tls=True):
            assert here.server.statistics().connections_accepted == 1


@pytest.mark.parametrize("end", ["the client leaves", "on_connect fails"])
async def test_notifications_of_a_client_that_was_never_let_in_are_dropped_and_counted(
    end: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = sockrpc.App()
    handled: list[sockrpc.Notification] = []
    may_fail = asyncio.Event()
    app.on("event")(handled.append)

    @app.on_connect
    async def let_in(socket: sockrpc.Socket) -> None:
        await may_fail.wait()
        raise LookupError

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(notify("event"), notify("event"), notify("event"))
        await raw.synchronize()
        assert here.server.statistics().procedures_waiting == 3
        if end == "the client leaves":
            await raw.close()
        else:
            may_fail.set()
        await until(lambda: not here.server.connections)
        now = here.server.statistics()
        assert (now.notifications_dropped, now.notifications_started) == (3, 0)
    assert handled == []
