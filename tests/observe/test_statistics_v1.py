"""What a server counts of sockrpc.v1: ends by code and outcome, items both ways, and calls at its clients."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import json
import logging
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import sockrpc
from sockrpc import Code, Outcome, RPCError
from sockrpc.prometheus import ServerCollector
from tests.kit.looking import Looking, looked_at
from tests.kit.support import BINARY, Serving, frame, serving, until

V1 = ("sockrpc.v1",)
LARGE = 32 * 1024


def make_app() -> sockrpc.App:
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)

    @app.method("fail")
    def fail(call: sockrpc.Call) -> None:
        raise RPCError(int(call.text), "failed")

    @app.method("wait")
    async def wait(call: sockrpc.Call) -> None:
        await asyncio.get_running_loop().create_future()

    @app.method("complete", run_to_completion=True)
    async def complete(call: sockrpc.Call) -> None:
        await call.wait_reset()

    @app.method("bytes")
    async def generate(call: sockrpc.Call) -> AsyncIterator[bytes]:
        for size in range(int(call.text)):
            yield bytes(size)

    @app.method("large")
    async def large(call: sockrpc.Call) -> AsyncIterator[bytes]:
        while True:
            yield bytes(LARGE)

    @app.method("tracked")
    async def tracked(call: sockrpc.Call) -> AsyncIterator[sockrpc.Tracked]:
        yield sockrpc.Tracked(b"12345", b"cur")

    @app.method("take")
    async def take(call: sockrpc.Call) -> str:
        return str(sum([len(item) async for item in call.items()]))

    @app.method("ask")
    async def ask(call: sockrpc.Call) -> bytes:
        try:
            return await call.peer.call(call.text, timeout=60)
        except RPCError as error:
            # Passed on as it stands it would be a failure of the server.
            raise RPCError(error.code, error.message) from None

    return app


@contextlib.asynccontextmanager
async def connected(
    app: sockrpc.App | None = None, **limits: float
) -> AsyncIterator[tuple[Serving, sockrpc.Client]]:
    async with (
        serving(make_app(), **limits) as here,
        here.connect(protocols=V1, app=app) as client,
    ):
        yield here, client


async def fails(client: sockrpc.Client, method: str, payload: str = "") -> RPCError:
    with pytest.raises(RPCError) as told:
        await client.call(method, payload)
    return told.value


# Ends


async def test_ends_are_counted_by_code_and_by_outcome() -> None:
    async with connected() as (here, client):
        before = here.server.statistics()
        assert set(before.errors_by_code) == set(Code)
        assert set(before.errors_by_outcome) == {"partial", "not_started", "completed"}
        assert (
            json.loads(json.dumps(dataclasses.asdict(before)))["errors_by_outcome"]
            == before.errors_by_outcome
        )
        assert sum(before.errors_by_code.values()) == sum(before.errors_by_outcome.values()) == 0
        await client.call("echo")
        for code in (Code.NOT_FOUND, Code.NOT_FOUND, Code.UNAVAILABLE, 128, 255):
            assert (await fails(client, "fail", str(int(code)))).code == code
        await fails(client, "absent")
        for method, outcome in (("wait", Outcome.PARTIAL), ("complete", Outcome.COMPLETED)):
            handle = client.start(method)
            await until(lambda: here.server.statistics().calls_running == 1)
            assert await handle.cancel() is outcome
        now = here.server.statistics()
        found = {code: count for code, count in now.errors_by_code.items() if count}
        assert found == {
            Code.NOT_FOUND: 2,
            Code.UNAVAILABLE: 1,
            128: 1,
            255: 1,
            Code.UNIMPLEMENTED: 1,
            Code.CANCELLED: 2,
        }
        assert now.errors_by_outcome == {
            "partial": 6,
            "not_started": 1,
            "completed": 1,
        }


async def test_ends_are_in_the_log_with_their_codes_and_outcomes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "sockrpc.server")
    async with connected() as (_, client):
        await fails(client, "fail", "5")
        await fails(client, "fail", "200")
        await fails(client, "absent")
    ends = [record for record in caplog.records if " ended with " in record.getMessage()]
    ends = [record for record in ends if hasattr(record, "outcome")]
    told = [(each.method, each.code, each.outcome) for each in ends]  # type: ignore[attr-defined]
    assert told == [
        ("fail", "NOT_FOUND", "partial"),
        ("fail", "200", "partial"),
        ("absent", "UNIMPLEMENTED", "not_started"),
    ]
    assert {each.levelno for each in ends} == {logging.DEBUG}
    assert ends[0].getMessage().endswith(" ended with NOT_FOUND, partial: 'failed'")
    assert (
        ends[2]
        .getMessage()
        .endswith(" ended with UNIMPLEMENTED, not started: \"nobody serves 'absent' here\"")
    )


async def test_frames_of_a_later_version_are_counted() -> None:
    async with serving(make_app()) as here, await here.raw(Sec_WebSocket_Protocol="sockrpc.v1") as raw:
        hello = b"\x0a\x00" + struct.pack("!III", 64, 65536, 1 << 20)
        await raw.send(*(frame(BINARY, data) for data in (hello, b"\x0e", b"\xff any")))
        await until(lambda: here.server.statistics().frames_ignored == 2)


# Items


async def test_items_and_their_bytes_are_counted_in_both_directions() -> None:
    async with connected() as (here, client):
        assert [len(item) async for item in client.stream("bytes", "10")] == list(range(10))
        now = here.server.statistics()
        assert (now.items_sent, now.item_bytes_sent, now.items_received) == (10, 45, 0)
        assert await client.call("take", items=[bytes(size) for size in range(20)]) == b"190"
        now = here.server.statistics()
        assert (now.items_received, now.item_bytes_received, now.items_sent) == (20, 190, 10)
        # Cursors are bytes of items as well.
        stream = client.stream("tracked", tracked=True)
        assert (await anext(stream), stream.cursor) == (b"12345", b"cur")
        now = here.server.statistics()
        assert (now.items_sent, now.item_bytes_sent) == (11, 53)


async def test_items_of_calls_at_clients_are_counted_too_and_outlive_their_connections() -> None:
    app = sockrpc.App()

    @app.method("letters")
    async def letters(call: sockrpc.Call) -> AsyncIterator[str]:
        async for item in call.items():
            yield item.decode() * 2

    async with serving(make_app()) as here:
        async with here.connect(protocols=V1, app=app):
            await until(lambda: here.server.connections)
            async with here.only_socket().stream("letters", items=["a", "bc"]) as stream:
                assert [item async for item in stream] == [b"aa", b"bcbc"]
            expected = (2, 6, 2, 3)
            for _ in range(2):
                now = here.server.statistics()
                found = (now.items_received, now.item_bytes_received, now.items_sent, now.item_bytes_sent)
                assert found == expected
        await until(lambda: not here.server.connections and not here.server.statistics().calls_running)
        async with here.connect(protocols=V1):
            now = here.server.statistics()
            found = (now.items_received, now.item_bytes_received, now.items_sent, now.item_bytes_sent)
            assert found == expected
            assert (now.outgoing_calls_started, now.outgoing_calls_answered) == (1, 1)


async def test_senders_that_wait_for_credit_are_counted_while_they_wait() -> None:
    async with connected() as (here, client):

        def waiting() -> int:
            return here.server.statistics().items_waiting_for_credit

        streams = [client.stream("large") for _ in range(3)]
        for stream in streams:
            await anext(stream)
        await until(lambda: waiting() == 3)
        # It takes all that is held, so its sender gets credit, and waits again.
        for _ in range(16):
            await anext(streams[0])
        await until(lambda: waiting() == 3)
        await streams.pop().aclose()
        await until(lambda: waiting() == 2)
        streams.clear()
        del stream
        gc.collect()
        await until(lambda: waiting() == 0)
        assert here.server.statistics().items_sent > 3 * 8


async def test_a_connection_that_is_lost_leaves_nobody_waiting_for_credit() -> None:
    async with serving(make_app()) as here:
        async with here.connect(protocols=V1) as client:
            stream = client.stream("large")
            await anext(stream)
            await until(lambda: here.server.statistics().items_waiting_for_credit == 1)
        await until(lambda: here.server.statistics().calls_running == 0)
        assert here.server.statistics().items_waiting_for_credit == 0


# Calls at clients


async def test_calls_at_clients_are_counted_as_they_end() -> None:
    app = sockrpc.App()
    app.method("confirm")(lambda call: b"yes")

    @app.method("refuse")
    def refuse(call: sockrpc.Call) -> None:
        raise RPCError(Code.PERMISSION_DENIED, "no")

    @app.method("hang")
    async def hang(call: sockrpc.Call) -> None:
        await asyncio.get_running_loop().create_future()

    async with connected(app) as (here, client):

        def counts() -> tuple[int, int, int, int]:
            now = here.server.statistics()
            return (
                now.outgoing_calls_started,
                now.outgoing_calls_in_flight,
                now.outgoing_calls_answered,
                now.outgoing_calls_failed,
            )

        assert await client.call("ask", "confirm") == b"yes"
        assert counts() == (1, 0, 1, 0)
        await fails(client, "ask", "refuse")
        assert counts() == (2, 0, 1, 1)
        handle = client.start("ask", "hang")
        await until(lambda: counts() == (3, 1, 1, 1))
        await handle.cancel()
        await until(lambda: counts() == (3, 0, 1, 2))


async def test_calls_that_the_client_has_no_room_for_are_counted_as_waiting() -> None:
    app = sockrpc.App()
    may_end = asyncio.Event()

    @app.method("wait")
    async def wait(call: sockrpc.Call) -> None:
        await may_end.wait()

    async with (
        serving(make_app()) as here,
        here.connect(protocols=V1, app=app, max_calls=2),
    ):
        await until(lambda: here.server.connections)
        handles = [here.only_socket().start("wait") for _ in range(5)]

        def counts() -> tuple[int, int]:
            now = here.server.statistics()
            return now.outgoing_calls_in_flight, now.outgoing_calls_waiting

        await until(lambda: counts() == (5, 3))
        may_end.set()
        await asyncio.gather(*handles)
        assert counts() == (0, 0)


# Where they are told


async def test_prometheus_has_them() -> None:
    app = sockrpc.App()
    app.method("confirm")(lambda call: b"yes")
    async with connected(app) as (here, client):
        registry = CollectorRegistry()
        registry.register(ServerCollector(here.server))
        await fails(client, "fail", "5")
        await fails(client, "fail", "200")
        await fails(client, "absent")
        await client.call("ask", "confirm")
        await fails(client, "ask", "absent")
        assert len([item async for item in client.stream("bytes", "10")]) == 10
        await client.call("take", items=[b"123"])
        stream = client.stream("large")
        await anext(stream)
        await until(lambda: here.server.statistics().items_waiting_for_credit == 1)
        samples = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(generate_latest(registry).decode())
            for sample in family.samples
        }
        statistics = here.server.statistics()
    assert samples["sockrpc_call_errors_total", "NOT_FOUND"] == 1
    assert samples["sockrpc_call_errors_total", "200"] == 1
    # What did not happen is told as 0, so that a first time shows as a change.
    assert samples["sockrpc_call_errors_total", "DATA_LOSS"] == 0
    assert samples["sockrpc_call_error_outcomes_total", "partial"] == 3
    assert samples["sockrpc_call_error_outcomes_total", "not_started"] == 1
    assert samples["sockrpc_call_error_outcomes_total", "completed"] == 0
    assert samples["sockrpc_outgoing_calls_total", "answered"] == 1
    assert samples["sockrpc_outgoing_calls_total", "failed"] == 1
    assert samples["sockrpc_items_waiting_for_credit",] == 1
    assert samples["sockrpc_items_received_total",] == 1
    assert samples["sockrpc_items_received_bytes_total",] == 3
    assert samples["sockrpc_items_sent_total",] == statistics.items_sent > 10
    assert samples["sockrpc_items_sent_bytes_total",] == statistics.item_bytes_sent > LARGE


async def test_the_live_view_has_them(tmp_path: Path) -> None:
    path = tmp_path / "inspect.sock"
    async with looked_at(path, make_app()) as here, here.connect(protocols=V1) as client:
        await fails(client, "fail", "5")
        await fails(client, "absent")
        stream = client.stream("large")
        await anext(stream)
        await until(lambda: here.server.statistics().items_waiting_for_credit == 1)
        async with await Looking.at(path) as viewer:
            told = await viewer.told()
        assert told["errors_by_code"] == {"NOT_FOUND": 1, "UNIMPLEMENTED": 1}
        assert told["errors_by_outcome"] == {"partial": 1, "not_started": 1}
        assert told["items_waiting_for_credit"] == 1
        assert told["items_sent"] == here.server.statistics().items_sent
        (row,) = told["connections_in_flight"]
        assert (row["in_flight"], row["items_waiting_for_credit"]) == (1, 1)
