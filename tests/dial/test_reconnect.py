"""`async for client in connect(uri)`: what is tried again, what is raised, what is never repeated."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import sockrpc
import sockrpc.dial.reconnecting
from tests.kit.loops import LOOPS
from tests.kit.processes import run_program
from tests.kit.raw_server import RawServer, response
from tests.kit.support import PATIENCE, V0, serving, until
from tests.kit.work import Work


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockrpc.dial.reconnecting, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(sockrpc.dial.reconnecting, "LONGEST_DELAY", 0.01)


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Each delay, when it begins."""
    begun: list[float] = []
    backoff = sockrpc.dial.reconnecting.backoff

    def recorded() -> Iterator[float]:
        for delay in backoff():
            begun.append(delay)
            yield delay

    monkeypatch.setattr(sockrpc.dial.reconnecting, "backoff", recorded)
    return begun


@contextlib.asynccontextmanager
async def reconnecting(uri: str, **options: Any) -> AsyncIterator[asyncio.Queue[Any]]:
    """A task that connects again and again; each of its clients, or what ended it, comes by the queue."""
    clients: asyncio.Queue[Any] = asyncio.Queue()

    async def connect() -> None:
        try:
            async for client in sockrpc.connect(uri, **options):
                clients.put_nowait(client)
                await client.wait_closed()
        except Exception as error:
            clients.put_nowait(error)

    task = asyncio.ensure_future(connect())
    try:
        async with asyncio.timeout(PATIENCE):
            yield clients
    finally:
        task.cancel()
        await asyncio.wait([task])


def refusal(status: int) -> bytes:
    return f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode()


async def test_a_refused_connection_is_tried_again_until_somebody_listens(delays: list[float]) -> None:
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        async with reconnecting(f"ws://127.0.0.1:{listening.getsockname()[1]}/") as clients:
            await until(lambda: len(delays) == 3)
            assert clients.empty()
            async with sockrpc.serve(app, sock=listening):
                client = await clients.get()
                assert await client.call("echo", b"x") == b"x"


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 599])
async def test_a_refusal_that_may_pass_is_tried_again(status: int) -> None:
    async with RawServer() as server, reconnecting(server.uri) as clients:
        for _ in range(3):
            peer = await server.peer()
            await peer.read_head()
            await peer.send(refusal(status))
        peer = await server.accept()
        client = await clients.get()
        assert isinstance(client, sockrpc.Client)
        await peer.finish()


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 426])
async def test_a_refusal_that_stays_is_raised(status: int) -> None:
    async with RawServer() as server, reconnecting(server.uri) as clients:
        peer = await server.peer()
        await peer.read_head()
        await peer.send(refusal(status))
        error = await clients.get()
        assert isinstance(error, sockrpc.HandshakeError)
        assert error.status == status
        assert server.accepted.empty()


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b"x" * 70_000]
)
async def test_an_answer_in_another_protocol_is_raised(answer: bytes) -> None:
    async with RawServer() as server, reconnecting(server.uri) as clients:
        peer = await server.peer()
        await peer.read_head()
        await peer.send(answer)
        error = await clients.get()
        assert isinstance(error, sockrpc.HandshakeError)
        assert error.status is None


async def test_another_subprotocol_is_raised() -> None:
    async with RawServer() as server, reconnecting(server.uri) as clients:
        await server.accept(headers={"Sec-WebSocket-Protocol": "chat"})
        assert isinstance(await clients.get(), sockrpc.HandshakeError)


async def test_lines_that_break_and_servers_that_do_not_answer_are_tried_again() -> None:
    async with RawServer() as server, reconnecting(server.uri, open_timeout=0.2) as clients:
        await (await server.peer()).finish()
        peer = await server.peer()
        await peer.read_head()
        await peer.send(b"HTTP/1.1 101 Sw")
        await peer.finish()
        peer = await server.peer()
        await peer.read_head()
        peer.reset_line()
        await server.peer()  # says nothing: the time-out ends it
        peer = await server.accept()
        assert isinstance(await clients.get(), sockrpc.Client)
        await peer.finish()


async def test_calls_in_flight_fail_at_once_and_are_never_replayed() -> None:
    async with RawServer() as server, reconnecting(server.uri) as clients:
        peer = await server.accept()
        client = await clients.get()
        calls = [asyncio.ensure_future(client.call("pay", str(n))) for n in range(3)]
        payloads = client.on("event")
        assert [await peer.request() for _ in calls] == [1, 2, 3]
        await peer.answer(2, b"paid")
        assert await calls[1] == b"paid"
        peer.reset_line()
        for call in (calls[0], calls[2]):
            with pytest.raises(sockrpc.ConnectionLost):
                await call
        with pytest.raises(sockrpc.ConnectionLost):
            await anext(payloads)

        peer = await server.accept()
        again = await clients.get()
        assert again.status() == ([], [])
        # The first thing that the new connection carries is the new call.
        call = asyncio.ensure_future(again.call("pay", "new"))
        kind, id, rest = await peer.message()
        assert (kind, rest[4:]) == ("request", b"new")
        await peer.send(response(id, b"paid"))
        assert await call == b"paid"
        await peer.finish()


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1013, 4000])
async def test_whatever_the_server_closes_with_it_is_connected_to_again(code: int) -> None:
    async with RawServer() as server, reconnecting(server.uri) as clients:
        peer = await server.accept()
        client = await clients.get()
        call = asyncio.ensure_future(client.call("work"))
        await peer.request()
        await peer.close_politely(code)
        with pytest.raises(sockrpc.ConnectionLost) as raised:
            await call
        assert raised.value.code == code
        assert await peer.closing() == (code, "")
        await peer.finish()
        await server.accept()
        assert await clients.get() is not client


async def test_a_server_that_is_restarted_on_the_same_port_is_found_again() -> None:
    there = Work()
    async with contextlib.AsyncExitStack() as stack:
        here = await sockrpc.serve(there.app(), "127.0.0.1", 0, stop_grace=0.0)
        port = here.sockets[0].getsockname()[1]
        clients = await stack.enter_async_context(reconnecting(f"ws://127.0.0.1:{port}/", protocols=V0))
        for _ in range(3):
            client = await clients.get()
            call = asyncio.ensure_future(client.call("work"))
            began = len(there.calls)
            await until(lambda began=began: len(there.calls) > began)
            here.close()
            with pytest.raises(sockrpc.ConnectionLost) as raised:
                await call
            assert raised.value.code == 1001
            await here.wait_closed()
            here = await sockrpc.serve(there.app(), "127.0.0.1", port, stop_grace=0.0)
        client = await clients.get()
        assert await client.call("echo", b"x") == b"x"
        here.close()
        await here.wait_closed()
    assert len(there.calls) == 3


async def test_the_body_catches_the_loss_and_continues() -> None:
    async with serving(Work().app()) as here, asyncio.timeout(PATIENCE):
        rounds = 0
        async for client in here.connect():
            rounds += 1
            if rounds == 3:
                break
            try:
                await here.only_socket().close(1013, "again")
                await client.call("echo")
            except sockrpc.ConnectionLost:
                continue
        assert rounds == 3
        await until(lambda: not here.server.connections)


async def test_what_the_body_raises_comes_out_and_the_connection_is_closed() -> None:
    async def body(connecting: sockrpc.connect) -> None:
        async for _ in connecting:
            raise ZeroDivisionError

    async with serving(Work().app()) as here, asyncio.timeout(PATIENCE):
        with pytest.raises(ZeroDivisionError):
            await body(here.connect())
        await until(lambda: not here.server.connections)


async def test_a_connection_that_the_body_leaves_open_is_closed_before_the_next() -> None:
    async with serving(Work().app()) as here, asyncio.timeout(PATIENCE):
        clients = []
        async for client in here.connect():
            clients.append(client)
            assert len(here.server.connections) == 1
            if len(clients) == 3:
                break
        for client in clients[:2]:
            with pytest.raises(sockrpc.ConnectionClosed):
                await client.call("echo")
        await until(lambda: not here.server.connections)


async def test_it_may_be_cancelled_while_it_waits_between_two_attempts(
    delays: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockrpc.dial.reconnecting, "FIRST_DELAY", 3600.0)
    async with RawServer() as server, reconnecting(server.uri):
        await (await server.peer()).finish()
        await until(lambda: delays)
        assert delays[0] >= 1800.0
        # Leaving the block cancels it.


@pytest.mark.parametrize(("good", "sequences"), [(0.0, 4), (3600.0, 1)])
async def test_the_delays_start_anew_after_a_good_connection_only(
    good: float, sequences: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockrpc.dial.reconnecting, "GOOD_CONNECTION_SECONDS", good)
    begun: list[int] = []
    backoff = sockrpc.dial.reconnecting.backoff

    def counted() -> Any:
        begun.append(1)
        return backoff()

    monkeypatch.setattr(sockrpc.dial.reconnecting, "backoff", counted)
    async with RawServer() as server, reconnecting(server.uri) as clients:
        for _ in range(3):
            peer = await server.accept()
            await clients.get()
            await peer.finish()
        await server.accept()
        await clients.get()
    assert len(begun) == sequences


# What is told


async def test_each_failure_is_logged_with_its_error_and_the_delay(
    delays: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sockrpc.client")
    async with RawServer() as server:
        uri = f"ws://me:secret@127.0.0.1:{server.port}/socket?token=secret"
        async with reconnecting(uri) as clients:
            peer = await server.peer()
            await peer.read_head()
            await peer.send(refusal(503))
            peer = await server.accept()
            await clients.get()
            await peer.close_politely(1001)
            await peer.closing()
            await peer.finish()
            peer = await server.accept()
            await clients.get()
            await peer.finish()
            await until(lambda: len(delays) == 3)
    told = [record.getMessage() for record in caplog.records if record.name == "sockrpc.client"]
    where = f"connection to ws://127.0.0.1:{server.port}/socket"
    fin = "1006: connection closed without a close frame"
    assert told == [
        f"{where} failed (HandshakeError: HTTP 503: No); connecting again in {delays[0]:.1f} s",
        f"{where} was lost (ConnectionLost: 1001); connecting again in {delays[1]:.1f} s",
        f"{where} was lost (ConnectionLost: {fin}); connecting again in {delays[2]:.1f} s",
    ]
    assert {record.levelname for record in caplog.records if record.name == "sockrpc.client"} == {"INFO"}


@pytest.mark.parametrize(
    ("code", "again"), [(4401, False), (4403, False), (4499, False), (4429, True), (4500, True)]
)
async def test_a_close_that_refuses_the_client_ends_reconnecting(code: int, again: bool) -> None:
    async with RawServer() as server, reconnecting(server.uri) as clients:
        peer = await server.accept()
        await clients.get()
        await peer.close_politely(code)
        await peer.closing()
        await peer.finish()
        if again:
            await (await server.accept()).finish()
            assert isinstance(await clients.get(), sockrpc.Client)
            return
        error = await clients.get()
        assert isinstance(error, sockrpc.ConnectionLost)
        assert error.code == code


async def test_a_server_that_breaks_the_protocol_ends_reconnecting() -> None:
    async with RawServer() as server, reconnecting(server.uri) as clients:
        peer = await server.accept()
        await clients.get()
        await peer.send(b"\xff\xff")
        await peer.finish()
        assert isinstance(await clients.get(), sockrpc.ProtocolError)


async def test_aclose_closes_what_is_open() -> None:
    async with serving(Work().app()) as here:
        async with contextlib.aclosing(aiter(here.connect())) as clients, asyncio.timeout(PATIENCE):
            client = await anext(clients)
            assert await client.call("echo", b"x") == b"x"
        with pytest.raises(sockrpc.ConnectionClosed):
            await client.call("echo")


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("where", ["waiting", "calling", "between"])
def test_the_end_of_a_loop_within_the_body_leaves_no_task(kind: str, where: str) -> None:
    program = f"""
        import asyncio
        import sockrpc
        from tests.kit.loops import new_event_loop

        async def body(uri, there):
            async for client in sockrpc.connect(uri):
                there.set()
                if "{where}" == "calling":
                    await client.call("wait")
                elif "{where}" == "waiting":
                    await client.wait_closed()
                else:
                    await asyncio.sleep(3600)

        async def main():
            app = sockrpc.App()
            @app.method("wait")
            async def wait(call):
                await asyncio.sleep(3600)
            server = await sockrpc.serve(app, "127.0.0.1", 0)
            there = asyncio.Event()
            asyncio.create_task(body(f"ws://127.0.0.1:{{server.sockets[0].getsockname()[1]}}/", there))
            await there.wait()
            server.close()

        with asyncio.Runner(loop_factory=lambda: new_event_loop("{kind}")) as runner:
            runner.run(main())
    """
    done = run_program(program, "-W", "always::ResourceWarning")
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
