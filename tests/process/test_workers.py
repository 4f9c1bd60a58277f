"""`--workers N` and `run("module:app", workers=N)`: several processes that serve one app as one server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

import sockrpc
from tests.kit.command import PATIENCE, POSIX
from tests.kit.processes import eventually
from tests.kit.support import CLOSE, RawClient, frame, opening, request, started
from tests.kit.workers import ONCE, TWO, Workers, client_of_each, held_up, is_alive, path_with

pytestmark = POSIX


def test_all_workers_serve_one_port_with_the_flags_of_the_first_process(tmp_path: Path) -> None:
    with Workers(tmp_path, *TWO) as server:
        assert server.line_told.startswith("http://127.0.0.1:")
        assert server.line_told.endswith("/ (2 workers)")
        pids = server.pids(2)
        assert server.process.pid not in pids
        # As tests.kit.command starts it: python -P -W error.
        assert server.ask("flags") == "True ['error']"
        assert server.stop() == 0
        assert not any(map(is_alive, pids))
        assert (server.rest(), server.logged("ERROR")) == (b"", [])


def test_a_worker_that_dies_is_replaced_while_the_others_go_on(tmp_path: Path) -> None:
    with Workers(tmp_path, *TWO) as server:

        async def test() -> None:
            clients = await client_of_each(server, 2)
            (dying, lost), (living, client) = clients.items()
            os.kill(dying, signal.SIGKILL)
            await lost.wait_closed()
            assert int(await client.call("pid")) == living
            await asyncio.to_thread(server.wait_log, f"(process {dying}) was killed by SIGKILL")
            others = await asyncio.to_thread(server.pids, 2)
            assert living in others
            assert dying not in others
            assert int(await client.call("pid")) == living
            for each in clients.values():
                await each.close()

        asyncio.run(test())
        assert server.logged("another is started at once")
        assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", ["asyncio", pytest.param("uvloop", marks=ONCE)])
def test_a_stop_answers_the_calls_in_flight_on_every_worker(
    tmp_path: Path, kind: str, number: signal.Signals
) -> None:
    with Workers(tmp_path, *TWO, "--stop-grace", "600", "--loop", kind) as server:

        async def test() -> None:
            clients = await client_of_each(server, 2)
            calls = {pid: await started(client.call("slow")) for pid, client in clients.items()}
            for _ in calls:
                assert await asyncio.to_thread(server.line) == "waiting"
            # Ctrl-C reaches all of them; a service manager may tell all of them, too.
            for pid in (server.process.pid, *calls):
                os.kill(pid, number)
            (tmp_path / "go").touch()
            for pid, call in calls.items():
                assert int(await call) == pid
            for client in clients.values():
                await client.close()

        asyncio.run(test())
        assert server.end() == 0
        assert not server.logged("ERROR")
        assert not server.logged("Traceback")


@ONCE
def test_the_second_signal_stops_all_at_once(tmp_path: Path) -> None:
    with Workers(tmp_path, *TWO, "--stop-grace", "600", "--abort-grace", "600") as server:

        async def test() -> None:
            clients = await client_of_each(server, 2)
            calls = [await started(client.call("for_ever")) for client in clients.values()]
            for _ in calls:
                assert await asyncio.to_thread(server.line) == "waiting"
            server.process.terminate()
            idle = await asyncio.gather(*(ended(server) for _ in range(8)))
            assert all(idle)
            server.process.terminate()
            for call in calls:
                with pytest.raises(sockrpc.RPCError) as raised:
                    await call
                assert raised.value.code is sockrpc.Code.UNAVAILABLE
            for client in clients.values():
                await client.close()

        asyncio.run(test())
        assert server.end() == 0
        assert not server.logged("ERROR")


async def ended(server: Workers) -> bool:
    """True once nobody can connect any more."""
    while True:
        try:
            async with server.connect() as client:
                await client.wait_closed()
        except (OSError, sockrpc.SockRPCError):
            return True


def test_workers_whose_supervisor_is_killed_stop_gracefully(tmp_path: Path) -> None:
    with Workers(tmp_path, *TWO, "--stop-grace", "600") as server:

        async def test() -> set[int]:
            clients = await client_of_each(server, 2)
            calls = {pid: await started(client.call("slow")) for pid, client in clients.items()}
            for _ in calls:
                assert await asyncio.to_thread(server.line) == "waiting"
            server.process.kill()
            await asyncio.to_thread(server.process.wait)
            (tmp_path / "go").touch()
            for pid, call in calls.items():
                assert int(await call) == pid
            for client in clients.values():
                await client.wait_closed()
                with pytest.raises(sockrpc.ConnectionLost, match="1001"):
                    await client.call("pid")
            return set(clients)

        pids = asyncio.run(test())
        eventually(lambda: not any(map(is_alive, pids)))
        # The helper of multiprocessing has ended too: nobody holds the log open.
        assert server.end() == -signal.SIGKILL
        assert not server.logged("ERROR")


@ONCE
def test_sigterm_to_a_worker_replaces_it_and_loses_nothing(tmp_path: Path) -> None:
    with Workers(tmp_path, *TWO) as server:

        async def test() -> None:
            clients = await client_of_each(server, 2)
            (leaving, leaver), (_, other) = clients.items()
            call = await started(leaver.call("slow"))
            assert await asyncio.to_thread(server.line) == "waiting"
            os.kill(leaving, signal.SIGTERM)
            # It answers what is in flight, while another has taken its place.
            await asyncio.to_thread(eventually, lambda: leaving not in server.pids(2))
            assert not call.done()
            (tmp_path / "go").touch()
            assert int(await call) == leaving
            await leaver.wait_closed()
            assert await other.call("pid")
            await other.close()

        asyncio.run(test())
        assert server.stop() == 0
        assert not server.logged("ERROR")


def new_pids(server: Workers, old: set[int]) -> set[int]:
    """Who answers, once somebody else does than before and one of them no longer."""
    found: set[int] = set()

    def is_changed() -> bool:
        nonlocal found
        found = server.pids(2)
        return bool(found - old) and len(found) == 2 and not old <= found

    eventually(is_changed)
    return found


@ONCE
def test_sighup_replaces_all_one_after_the_other_and_refuses_nobody(tmp_path: Path) -> None:
    with Workers(tmp_path, *TWO) as server:
        old = server.pids(2)
        server.process.send_signal(signal.SIGHUP)
        # Each of these connects anew; one that was refused or reset would raise.
        eventually(lambda: not any(map(is_alive, old)) or not server.ask("pid"))
        assert not server.pids(2) & old
        assert server.stop() == 0
        assert not server.logged("ERROR")


@ONCE
def test_a_successor_that_can_not_start_changes_nothing(tmp_path: Path) -> None:
    with Workers(tmp_path, *TWO) as server:
        old = server.pids(2)
        (tmp_path / "served.py").write_text("raise LookupError('broken since')")
        server.process.send_signal(signal.SIGHUP)
        server.wait_log("before it served; worker 1 (process")
        assert server.logged("LookupError: broken since")
        assert server.pids(2) == old
        # And where there is nobody left, that is the end.
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        assert server.end() == 1
        assert server.logged("before it served")


@ONCE
def test_who_dies_again_and_again_is_waited_for(tmp_path: Path) -> None:
    with Workers(tmp_path, *TWO) as server:
        (first, second) = server.pids(2)
        os.kill(first, signal.SIGKILL)
        server.wait_log("another is started at once")
        (third,) = new_pids(server, {first, second}) - {second}
        os.kill(third, signal.SIGKILL)
        server.wait_log("another is started in 1 s")
        # Nobody waits in the queue of the one that is not there.
        assert {int(server.ask("pid")) for _ in range(20)} == {second}
        assert second in new_pids(server, {third, second})
        assert server.stop() == 0


@ONCE
@pytest.mark.skipif(sys.platform != "linux", reason="prlimit(2) is Linux's")
def test_a_worker_that_can_not_be_started_is_tried_again(tmp_path: Path) -> None:
    import resource

    with Workers(tmp_path, *TWO) as server:
        (first, second) = server.pids(2)
        before = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        # The supervisor gets no descriptor more; poll(2) takes as many as it watches.
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (8, before[1]))
        server.process.send_signal(signal.SIGHUP)
        server.wait_log("has no successor: ")
        os.kill(first, signal.SIGKILL)
        server.wait_log("can not be started: ")
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, before)
        assert second in new_pids(server, {first, second})
        assert server.stop() == 0


@ONCE
@pytest.mark.skipif(sys.platform != "linux", reason="only there each worker has a queue of its own")
def test_what_waits_for_a_worker_that_dies_is_served_by_its_successor(tmp_path: Path) -> None:
    with Workers(tmp_path, *TWO) as server:
        pids = server.pids(2)
        port = int(server.uri.rstrip("/").rpartition(":")[2])

        async def test() -> None:
            with held_up(pids):
                waiting = [RawClient(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(16)]
                for each in waiting:
                    await each.send(opening() + request(1, "pid"))
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
            answered = set()
            for each in waiting:
                await each.wait(each.reader.readuntil(b"\r\n\r\n"))
                answered.add(int((await each.answer())[1]))
                await each.close()
            assert len(answered) == 2
            assert not answered & pids

        asyncio.run(test())
        assert server.stop() == 0


@ONCE
@pytest.mark.parametrize("how", ["port", "uds"])
def test_who_has_connected_before_the_stop_is_let_in(tmp_path: Path, how: str) -> None:
    flags = TWO if how == "port" else ("--workers", "2", "--uds", "here")
    with Workers(tmp_path, *flags) as server:
        pids = server.pids(2)

        async def line() -> RawClient:
            if how == "uds":
                return RawClient(*await asyncio.open_unix_connection(str(tmp_path / "here")))
            port = int(server.uri.rstrip("/").rpartition(":")[2])
            return RawClient(*await asyncio.open_connection("127.0.0.1", port))

        async def test() -> None:
            with held_up(pids):
                waiting = [await line() for _ in range(8)]
                for each in waiting:
                    await each.send(opening())
                server.process.terminate()
                await asyncio.to_thread(server.wait_log, "told to stop")
            for each in waiting:
                await each.wait(each.reader.readuntil(b"\r\n\r\n"))
                assert await each.closing() == (1001, "server stopping")
                await each.send(frame(CLOSE))
                await each.close()

        asyncio.run(test())
        assert server.end() == 0
        assert not (tmp_path / "here").exists()


@ONCE
def test_a_descriptor_is_listened_on_by_all_and_goes_on(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = listening.fileno()
        for _ in range(2):
            with Workers(tmp_path, "--workers", "2", "--fd", str(number), pass_fds=(number,)) as server:
                assert server.line_told == f"http://127.0.0.1:{listening.getsockname()[1]}/ (2 workers)"
                assert server.ask("pid")
                assert server.stop() == 0


@ONCE
def test_workers_of_one_listener_as_where_ports_are_not_shared_out(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("""
from sockrpc.process.workers import run_workers

def tell(addresses):
    print("http://%s:%d/" % addresses[0], flush=True)

if __name__ == "__main__":
    run_workers("served:app", 2, port=0, on_listening=tell, own_listeners=False, max_connections=1)
""")
    # The folder of the program is where its modules are found: without -P.
    with Workers(tmp_path, program=program, PYTHONPATH=path_with(tmp_path)) as server:

        async def test() -> None:
            # Who is full answers 503, so that these two are of both.
            clients = await client_of_each_that_has_room(server)
            os.kill(clients[0][0], signal.SIGKILL)
            await clients[0][1].wait_closed()
            assert int(await clients[1][1].call("pid")) == clients[1][0]
            for _, client in clients:
                await client.close()

        asyncio.run(test())
        assert server.pids(2)
        assert server.stop() == 0


async def client_of_each_that_has_room(server: Workers) -> list[tuple[int, sockrpc.Client]]:
    clients: list[tuple[int, sockrpc.Client]] = []
    while len(clients) < 2:
        with contextlib.suppress(sockrpc.HandshakeError):
            client = await server.connect()
            clients.append((int(await client.call("pid")), client))
    return clients


@ONCE
def test_a_worker_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("""
import logging
import sockrpc.process.supervisor
import sockrpc.process.workers

sockrpc.process.workers.EXTRA_PATIENCE = 0.2

def tell(addresses):
    print("http://%s:%d/" % addresses[0], flush=True)

if __name__ == "__main__":
    logging.basicConfig()
    try:
        sockrpc.process.workers.run_workers(
            "served:app", 2, port=0, on_listening=tell, stop_grace=0.1, abort_grace=0.1, close_timeout=0.1
        )
    except sockrpc.SockRPCError as error:
        print(error)
""")
    with Workers(tmp_path, program=program, PYTHONPATH=path_with(tmp_path)) as server:
        blocked: list[int] = []

        async def test() -> None:
            async with server.connect() as client, asyncio.timeout(PATIENCE):
                blocked.append(int(await client.call("pid")))
                blocking = await started(client.call("block"))
                assert await asyncio.to_thread(server.line) == "blocking"
                server.process.terminate()
                with pytest.raises(sockrpc.ConnectionLost):
                    await blocking

        try:
            asyncio.run(test())
        finally:
            # One that was not killed outlives its supervisor, and would hold the pipes that are read below.
            for pid in filter(is_alive, blocked):
                os.kill(pid, signal.SIGKILL)
        assert server.rest() == b"a worker that did not stop was killed\n"
        assert server.end() == 0
        assert len(server.logged("has not stopped; it is killed")) == 1
