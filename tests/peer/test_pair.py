"""The in-memory pair itself: it keeps asyncio's contract with protocols, and loses lines as networks do."""

from __future__ import annotations

import asyncio

import pytest

import sockrpc
from tests.kit.pair import MemoryServer, RawEnd, take_frames
from tests.kit.support import BINARY, CLOSE, PING, frame, request, reset, started


def echoing() -> sockrpc.App:
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)

    @app.method("wait")
    async def wait(call: sockrpc.Call) -> None:
        await asyncio.get_running_loop().create_future()

    return app


async def test_a_call_and_its_answer_cross_the_pair() -> None:
    async with MemoryServer(echoing()) as here:
        client, _ = here.connect()
        calling = await started(client.call("echo", "hello"))
        await here.settle()
        assert calling.result() == b"hello"


async def test_nothing_arrives_before_it_is_delivered() -> None:
    async with MemoryServer(echoing()) as here:
        raw, pair = here.raw()
        data = request(1, "echo", b"x")
        raw.send(data)
        for _ in range(5):
            await asyncio.sleep(0)
        assert bytes(pair.client.on_its_way) == data
        for _ in data[:-1]:
            assert pair.server.receive(1) == 1
        assert not pair.server.on_its_way
        pair.server.receive(1)
        assert pair.server.on_its_way == b"\x82\x06\x04\x00\x00\x00\x01x"
        assert raw.answers == []
        pair.client.receive(7)
        assert raw.answers == []
        pair.client.receive(7)
        assert raw.answers == [(1, b"x")]


async def test_a_peer_that_gets_nothing_delivered_is_a_slow_one() -> None:
    async with MemoryServer(echoing(), output_high_bytes=100, output_low_bytes=50) as here:
        raw, pair = here.raw(capacity=10)
        raw.send(request(1, "echo", bytes(103)))
        await deliver_requests(here)
        assert len(pair.server.on_its_way) == 10
        assert pair.server.get_write_buffer_size() == 110 - 10
        raw.send(request(2, "echo", b"waits"))
        await deliver_requests(here)
        (connection,) = here.service.connections
        assert not connection.is_writable()
        assert connection.load == (0, 1, 0)
        while pair.server.get_write_buffer_size() > 51:
            pair.client.receive(1)
            await asyncio.sleep(0)
            assert connection.load == (0, 1, 0)
        pair.client.receive(1)
        await asyncio.sleep(0)
        assert connection.is_writable()
        assert connection.load == (0, 0, 0)
        await here.settle()
        assert raw.answers == [(1, bytes(103)), (2, b"waits")]


async def deliver_requests(here: MemoryServer) -> None:
    """Deliver to the server, not to its client, all that is on its way."""
    (pair,) = here.pairs
    while pair.client.on_its_way or pair.client.get_write_buffer_size():
        pair.server.receive(1000)
        await asyncio.sleep(0)


async def test_a_paused_end_reads_nothing_and_notices_no_loss() -> None:
    async with MemoryServer(echoing(), max_in_flight=1, max_waiting_calls=1) as here:
        raw, pair = here.raw()
        raw.send(request(1, "wait"), request(2, "wait"), request(3, "wait"))
        await here.settle()
        assert not pair.server.is_reading()
        pair.client.die()
        await here.settle()
        (connection,) = here.service.connections
        assert connection.load == (1, 1, 0)
        assert not pair.server.expects()
        pair.server.abort()


async def test_bytes_that_were_written_before_a_close_arrive_before_the_end_of_file() -> None:
    async with MemoryServer(echoing()) as here:
        raw, pair = here.raw(capacity=16)
        raw.send(request(1, "echo", bytes(100)))
        await deliver_requests(here)
        (connection,) = here.service.connections
        connection.close(1000, "enough")
        assert not pair.server.expects()
        await here.settle()
        assert raw.frames == [(BINARY, b"\x04\x00\x00\x00\x01" + bytes(100)), (CLOSE, b"\x03\xe8enough")]
        assert raw.ended
        assert pair.server.lost


async def test_closing_over_unread_bytes_resets_the_line() -> None:
    lost: list[Exception | None] = []

    class Noting(RawEnd):
        def connection_lost(self, exc: Exception | None) -> None:
            lost.append(exc)

    async with MemoryServer(echoing()) as here:
        raw = Noting()
        pair = here.join(raw)
        raw.send(request(1, "echo"))
        pair.server.abort()
        await here.settle()
    assert [type(error) for error in lost] == [ConnectionResetError]


@pytest.mark.parametrize("how", ["fin", "die", "cut", "abort"])
async def test_every_loss_is_noticed_by_both_ends(how: str) -> None:
    async with MemoryServer(echoing()) as here:
        client, pair = here.connect()
        calling = await started(client.call("wait"))
        await here.settle()
        if how == "fin":
            pair.client.write_eof()
        elif how == "die":
            pair.client.die()
        elif how == "cut":
            pair.cut()
        else:
            pair.server.abort()
        await here.settle()
        with pytest.raises(sockrpc.ConnectionLost):
            await calling
        assert (pair.server.lost, pair.client.lost) == (True, True)
        assert here.server.statistics().calls_lost == 1
        assert here.server.connections == frozenset()


async def test_writing_to_a_line_that_was_cut_loses_it() -> None:
    async with MemoryServer(echoing()) as here:
        client, pair = here.connect()
        pair.cut()
        calling = await started(client.call("echo"))
        with pytest.raises(sockrpc.ConnectionLost):
            await calling
        assert pair.client.lost


async def test_a_stop_closes_with_a_close_frame_and_waits_for_what_runs() -> None:
    app = sockrpc.App()
    may_end = asyncio.Event()

    @app.method("work")
    async def work(call: sockrpc.Call) -> str:
        await may_end.wait()
        return "done"

    here = MemoryServer(app)
    client, _ = here.connect()
    calling = await started(client.call("work"))
    await here.settle()
    here.server.close()
    await here.settle()
    assert not here.has_stopped()
    may_end.set()
    await here.settle()
    assert calling.result() == b"done"
    await here.server.wait_closed()
    with pytest.raises(sockrpc.ConnectionLost, match="1001: server stopping"):
        await client.call("work")


async def test_the_frames_of_two_connections_do_not_mix() -> None:
    async with MemoryServer(echoing()) as here:
        ends = [here.raw() for _ in range(5)]
        for number, (raw, _) in enumerate(ends):
            raw.send(*(request(id, "echo", b"%d of %d" % (id, number)) for id in range(50)))
        # One byte of each in turn: the receive buffer is one for all of them.
        while any(pair.server.expects() for _, pair in ends):
            for _, pair in ends:
                pair.server.receive(1)
        await here.settle()
        for number, (raw, _) in enumerate(ends):
            assert raw.answers == [(id, b"%d of %d" % (id, number)) for id in range(50)]


async def test_the_oracle_takes_frames_apart_at_every_cut() -> None:
    whole = frame(PING, b"") + request(1, "echo", bytes(200)) + frame(BINARY, bytes(70000)) + reset(7)
    expected = take_frames(bytearray(whole))
    assert [(kind, len(data)) for kind, data in expected] == [
        (PING, 0),
        (BINARY, 210),
        (BINARY, 70000),
        (BINARY, 5),
    ]
    assert expected[3] == (BINARY, b"\x03\x00\x00\x00\x07")
    for cut in [*range(300), 70100, len(whole) - 1]:
        data = bytearray(whole[:cut])
        frames = take_frames(data)
        data += whole[cut:]
        assert frames + take_frames(data) == expected
        assert not data
