"""What the caller sees when the connection is lost: all calls fail at once, none is replayed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

import sockrpc
from tests.kit.inside import abort_connection, is_writable
from tests.kit.raw_server import Peer, RawServer, connected, response
from tests.kit.support import BINARY, CLOSE, PATIENCE, TEXT, V0, frame, serving, started, until
from tests.kit.work import Work

Loss = Callable[[Peer], Awaitable[None]]


async def close_frame(peer: Peer) -> None:
    await peer.close_politely(1001)


async def empty_close_frame(peer: Peer) -> None:
    await peer.send(frame(CLOSE, masked=False))


async def fin(peer: Peer) -> None:
    await peer.finish()


async def rst(peer: Peer) -> None:
    peer.reset_line()


@pytest.mark.row(14, 15)
@pytest.mark.parametrize(
    ("lose", "code"), [(close_frame, 1001), (empty_close_frame, 1005), (fin, 1006), (rst, 1006)]
)
async def test_all_calls_in_flight_fail_at_once(lose: Loss, code: int) -> None:
    """With an error of their own each, those that could not be written too; and row 14."""
    async with connected(output_high_bytes=65536, output_low_bytes=0) as (client, peer):
        waiting = [await started(client.call("slow", timeout=timeout)) for timeout in (None, PATIENCE)]
        assert [await peer.request(), await peer.request()] == [1, 2]
        waiting.append(await started(client.call("large", bytes(16 * 1024 * 1024))))
        await until(lambda: not is_writable(client))
        waiting.append(await started(client.call("unsent")))
        assert client.status().pending == [1, 2, 3, 4]
        notifying = await started(client.notify("waits"))
        began = asyncio.get_running_loop().time()
        await lose(peer)
        await asyncio.wait([*waiting, notifying])
        assert asyncio.get_running_loop().time() - began < PATIENCE / 2
        errors = [task.exception() for task in (*waiting, notifying)]
        assert {(type(error), getattr(error, "code", None)) for error in errors} == {
            (sockrpc.ConnectionLost, code)
        }
        assert len(set(map(id, errors))) == len(errors)
        assert client.status().pending == []
        with pytest.raises(sockrpc.ConnectionLost) as lost:
            await client.call("afterwards")
        assert lost.value.code == code


@pytest.mark.row(15)
@pytest.mark.parametrize("garbage", ["unknown opcode", "text message"])
async def test_calls_fail_with_what_the_server_did_wrong(garbage: str) -> None:
    """Where it is the peer's bytes that end the connection, the error says so."""
    async with connected() as (client, peer):
        waiting = [await started(client.call("slow")) for _ in range(3)]
        assert [await peer.request() for _ in range(3)] == [1, 2, 3]
        wrong = (
            frame(TEXT, b"x", masked=False)
            if garbage == "text message"
            else frame(BINARY, b"\x09", masked=False)
        )
        await peer.send(response(1, b"in time"), wrong, response(2, b"too late"))
        assert await waiting[0] == b"in time"
        for task in waiting[1:]:
            with pytest.raises(sockrpc.ProtocolError) as error:
                await task
            assert error.value.code == (1003 if garbage == "text message" else 1002)


@pytest.mark.row(14, 15)
async def test_calls_fail_when_the_server_stops_answering_pings() -> None:
    """Row 15, row 14: a half-open line is found by keepalive, on this side too."""
    async with connected(ping_interval=0.1, ping_timeout=0.1, close_timeout=30) as (client, peer):
        waiting = await started(client.call("slow"))
        assert await peer.request() == 1
        with pytest.raises(sockrpc.ConnectionLost) as lost:
            await asyncio.wait_for(waiting, PATIENCE)
        assert lost.value.code == 1006


@pytest.mark.both_protocols
@pytest.mark.row(15)
async def test_calls_fail_with_connection_closed_when_we_close() -> None:
    """Our own doing is not a loss."""
    work = Work()
    async with serving(work.app()) as here:
        client = await here.connect()
        waiting = [await started(client.call("work")) for _ in range(2)]
        await until(lambda: len(work.calls) == 2)
        await client.close(4000, "enough")
        for task in waiting:
            with pytest.raises(sockrpc.ConnectionClosed) as closed:
                await task
            assert (closed.value.code, closed.value.reason) == (4000, "enough")
        await until(lambda: work.ended == 2)
    assert work.reasons == ["lost", "lost"]


@pytest.mark.row(15, 21)
async def test_calls_fail_when_the_server_stops() -> None:
    """Row 15, row 21: the caller hears of it before the work has unwound."""
    work = Work()
    work.may_unwind.clear()
    async with (
        serving(work.app(), stop_grace=0.05, abort_grace=60) as here,
        here.connect(protocols=V0) as client,
    ):
        waiting = await started(client.call("work"))
        await until(lambda: work.calls)
        here.server.close()
        with pytest.raises(sockrpc.ConnectionLost) as lost:
            await waiting
        assert (lost.value.code, lost.value.reason) == (1001, "server stopping")
        assert work.ended == 0
        work.may_unwind.set()
    assert work.ended == 1


@pytest.mark.row(17)
@pytest.mark.parametrize("first", ["cancel", "loss"])
async def test_cancelled_error_is_not_replaced_by_the_loss_that_comes_with_it(first: str) -> None:
    """Whoever cancels the task gets a cancelled task, not a ConnectionLost."""
    async with connected() as (client, peer):
        waiting = await started(client.call("slow", timeout=PATIENCE))
        assert await peer.request() == 1
        if first == "cancel":
            waiting.cancel()
            abort_connection(client, "lost in the same iteration")
        else:
            abort_connection(client, "lost in the same iteration")
            waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()


@pytest.mark.row(2)
async def test_answers_before_the_loss_in_the_same_read_count() -> None:
    """What stood before the close frame has been received, what stands after it has not."""
    async with connected() as (client, peer):
        waiting = [await started(client.call("slow")) for _ in range(3)]
        assert [await peer.request() for _ in range(3)] == [1, 2, 3]
        await peer.send(response(2, b"2"), frame(CLOSE, b"\x03\xe9", masked=False), response(1, b"1"))
        await asyncio.wait(waiting)
        assert waiting[1].result() == b"2"
        for task in (waiting[0], waiting[2]):
            assert isinstance(task.exception(), sockrpc.ConnectionLost)


@pytest.mark.row(1, 17)
async def test_no_reset_follows_our_own_close_frame() -> None:
    """Row 1, row 17: the close has reset the call already; and the waiter is cancelled, as it was told."""
    async with connected() as (client, peer):
        waiting = await started(client.call("slow"))
        assert await peer.request() == 1
        closing = await started(client.close(4000, "enough"))
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert await peer.receive() == (CLOSE, b"\x0f\xa0enough")
        peer.writer.write_eof()
        await closing
        assert await peer.wait(peer.reader.read()) == b""


@pytest.mark.both_protocols
@pytest.mark.row(15)
async def test_calls_are_never_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is made again, the calls are not."""
    monkeypatch.setattr("sockrpc.dial.reconnecting.FIRST_DELAY", 0.01)
    lost: list[sockrpc.ConnectionLost] = []

    async def caller(uri: str) -> bytes:
        async for client in sockrpc.connect(uri):
            try:
                return await client.call("pay" if not lost else "ask")
            except sockrpc.ConnectionLost as error:
                lost.append(error)
        raise AssertionError

    async with RawServer() as server:
        calling = asyncio.ensure_future(caller(server.uri))
        first = await server.accept()
        assert (await first.message())[2] == b"\x03pay"
        first.reset_line()
        second = await server.accept()
        assert await second.message() == ("request", 1, b"\x03ask")
        await second.synchronize()
        await second.answer(1, b"not paid")
        assert await calling == b"not paid"
        assert (await second.receive())[0] == CLOSE
        await second.finish()
    assert [error.code for error in lost] == [1006]
