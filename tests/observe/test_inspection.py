"""The socket that operators look through: what it shows, to whom, and that no viewer holds up the server."""

# ruff: noqa: ASYNC240

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import sys
import time
from pathlib import Path

import pytest

import sockrpc
from sockrpc.observe import inspector as inspection
from tests.kit.inside import viewers
from tests.kit.looking import Looking, looked_at
from tests.kit.support import notify, request, serving, until
from tests.kit.work import Work

pytestmark = [
    pytest.mark.outside,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no unix sockets here"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "inspect.sock"


async def test_it_shows_calls_by_method_and_by_connection_with_the_age_of_the_oldest(path: Path) -> None:
    work = Work()
    async with looked_at(path, work.app()) as here, await here.raw() as busy, await here.raw() as other:
        before = time.monotonic()
        await busy.send(request(1, "work"), request(2, "work"), request(3, "echo"), request(4, "unknown"))
        assert await busy.answer() == (3, b"")
        await other.send(request(1, "work"))
        await until(lambda: len(work.calls) == 3)
        began = time.monotonic()
        await until(lambda: time.monotonic() - began > 0.01)
        async with await Looking.at(path) as viewer:
            told = await viewer.told()
        assert (told["pid"], told["connections"], told["calls_in_flight"]) == (os.getpid(), 2, 3)
        assert told["complete"] is True
        first, second = told["methods"]
        assert (first["method"], first["in_flight"], second["method"]) == ("work", 3, "echo")
        assert (second["in_flight"], second["answered"], second["failed"], second["aborted"]) == (0, 1, 0, 0)
        assert 0.01 < first["oldest_seconds"] < time.monotonic() - before
        assert "oldest_seconds" not in second
        rows = told["connections_in_flight"]
        assert [row["in_flight"] for row in rows] == [2, 1]
        assert [row["remote_address"] for row in rows] == [
            "{}:{}".format(*raw.writer.get_extra_info("sockname")[:2]) for raw in (busy, other)
        ]
        work.may_answer.set()


async def test_it_is_told_again_and_again(path: Path) -> None:
    work = Work()
    async with looked_at(path, work.app()) as here, await here.raw() as raw:
        async with await Looking.at(path) as viewer:
            assert (await viewer.told())["calls_in_flight"] == 0
            await raw.send(request(1, "work"))
            await until(lambda: work.calls)
            assert (await viewer.told())["calls_in_flight"] == 1
        # Nobody looks any more, so nobody is told.
        await until(lambda: viewers(here.server) == 0)
        work.may_answer.set()


async def test_in_the_socket_form_methods_are_those_in_flight(path: Path) -> None:
    held: list[object] = []

    async def handle(socket: sockrpc.Socket) -> None:
        async for procedure in socket:
            held.append(procedure)  # noqa: PERF401 (each as it comes)
        held.clear()

    async with looked_at(path, handle) as here, await here.raw() as raw:
        await raw.send(*(request(id, f"m{id % 2}") for id in range(5)))
        await until(lambda: len(held) == 5)
        async with await Looking.at(path) as viewer:
            told = await viewer.told()
        assert [(row["method"], row["in_flight"]) for row in told["methods"]] == [("m0", 3), ("m1", 2)]
        assert all(row["oldest_seconds"] > 0 for row in told["methods"])


@pytest.mark.parametrize("limit", [9, 10])
async def test_a_snapshot_looks_at_so_many_calls_only(
    limit: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "MAX_CALLS", limit)
    work = Work()
    async with looked_at(path, work.app()) as here, await here.raw() as raw, await here.raw() as small:
        await raw.send(*(request(id, "work") for id in range(9)))
        await small.send(request(1, "work"))
        await until(lambda: len(work.calls) == 10)
        async with await Looking.at(path) as viewer:
            told = await viewer.told()
        assert told["complete"] is (limit == 10)
        # How many there are is known in any case.
        assert told["methods"][0]["in_flight"] == told["calls_in_flight"] == 10
        work.may_answer.set()


async def test_a_snapshot_has_so_many_rows_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "MAX_ROWS", 1)
    work = Work()
    async with looked_at(path, work.app()) as here, await here.raw() as one, await here.raw() as two:
        await one.send(request(1, "work"))
        await two.send(request(1, "work"), request(2, "work"))
        await until(lambda: len(work.calls) == 3)
        async with await Looking.at(path) as viewer:
            told = await viewer.told()
        assert [row["method"] for row in told["methods"]] == ["work"]
        assert [row["in_flight"] for row in told["connections_in_flight"]] == [2]
        work.may_answer.set()


# The socket


async def test_only_its_owner_may_use_it_and_it_is_gone_after_the_stop(path: Path) -> None:
    async with looked_at(path, Work().app()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_a_path_may_hold_the_number_of_the_process(tmp_path: Path) -> None:
    async with looked_at(tmp_path / "{pid}.sock", Work().app()):
        assert (tmp_path / f"{os.getpid()}.sock").is_socket()


async def test_what_a_dead_server_left_is_replaced_and_anything_else_is_not(path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    async with looked_at(path, Work().app()):
        with pytest.raises(OSError, match="a server listens"):
            async with looked_at(path, Work().app()):
                pass
        async with await Looking.at(path) as viewer:
            assert (await viewer.told())["connections"] == 0
    path.write_text("a file")
    with pytest.raises(FileExistsError):
        async with looked_at(path, Work().app()):
            pass
    assert path.read_text() == "a file"


async def test_a_server_that_can_not_listen_leaves_no_socket_for_viewers(path: Path) -> None:
    async with serving(Work().app()) as here:
        with pytest.raises(OSError, match="use"):
            await sockrpc.serve(Work().app(), "127.0.0.1", here.port, inspect_path=str(path))
    assert not path.exists()


async def test_the_stop_of_the_server_ends_the_view(path: Path) -> None:
    work = Work()
    async with (
        looked_at(path, work.app(), close_timeout=0.05) as here,
        await here.raw() as raw,
        await Looking.at(path) as viewer,
    ):
        await viewer.told()
        await raw.send(request(1, "work"))
        await until(lambda: work.calls)
        here.server.close()
        # What holds up a stop can be looked at.
        assert (await viewer.told())["calls_in_flight"] == 1
        work.may_answer.set()
        await here.server.wait_closed()
        assert await viewer.is_dropped()


# Viewers that are wrong, greedy or slow


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{}\n",
        b"[]\n",
        b"5\n",
        b'{"interval": "soon"}\n',
        b'{"interval": null}\n',
        b'{"interval": 1' + b"0" * 400 + b"}\n",
        b"[" * 1000 + b"\n",
        b"GET / HTTP/1.1\r\n",
        b"\xff\xfe\n",
    ],
)
async def test_a_line_that_asks_for_nothing_is_refused(line: bytes, path: Path) -> None:
    async with looked_at(path, Work().app()), await Looking.at(path, line) as viewer:
        assert set(await viewer.told()) == {"error"}
        assert await viewer.is_dropped()


async def test_a_line_in_pieces_is_put_together(path: Path) -> None:
    async with looked_at(path, Work().app()), await Looking.at(path, b'{"inter') as viewer:
        await viewer.writer.drain()
        for _ in range(3):
            await asyncio.sleep(0)
        viewer.writer.write(b'val": 1}\n')
        assert (await viewer.told())["connections"] == 0


async def test_who_says_nothing_is_dropped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "PATIENCE", 0.05)
    async with looked_at(path, Work().app()), await Looking.at(path, b"") as viewer:
        assert await viewer.is_dropped()


async def test_so_many_may_look_and_one_more_is_told_so(path: Path) -> None:
    async with looked_at(path, Work().app()), contextlib.AsyncExitStack() as stack:
        for _ in range(inspection.MAX_VIEWERS):
            viewer = await stack.enter_async_context(await Looking.at(path))
            await viewer.told()
        last = await stack.enter_async_context(await Looking.at(path))
        assert "viewers" in (await last.told())["error"]
        assert await last.is_dropped()


async def test_looking_changes_nothing(path: Path) -> None:
    work = Work()
    async with looked_at(path, work.app()) as here, await here.raw() as raw:
        await raw.send(request(1, "work"), notify("nobody"))
        await until(lambda: work.calls)
        before = here.server.statistics()
        async with await Looking.at(path) as viewer:
            await viewer.told()
            await viewer.told()
        assert here.server.statistics() == before
        work.may_answer.set()
        await raw.answer()
