"""`sockrpc top` against real servers, on a terminal and into pipes."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest

from sockrpc.cli import top
from tests.kit.command import Command, Served, failure, run_command, run_main

pytestmark = [
    pytest.mark.newest,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows has no unix sockets here"),
]

SERVER = """
import asyncio
import sockrpc

app = sockrpc.App()

@app.method("wait")
async def wait(call):
    print("waiting", flush=True)
    await asyncio.get_running_loop().create_future()

@app.method("echo")
def echo(call):
    return call.payload
"""
ESCAPE = "bad\x1b[2Jname"


@pytest.fixture
def served(tmp_path: Path) -> Served:
    (tmp_path / "looked_at.py").write_text(SERVER, encoding="utf-8")
    return Served("serve", "looked_at:app", "--inspect-path", "top.sock", cwd=tmp_path)


def shown(terminal: int, text: bytes) -> bytes:
    """What the terminal has got, up to this text."""
    got = b""
    while text not in got:
        piece = os.read(terminal, 65536)
        assert piece
        got += piece
    return got


def test_once_it_prints_one_view(served: Served, tmp_path: Path) -> None:
    with served, Command("call", served.uri, "wait") as calling:
        assert served.line() == "waiting"
        assert run_main("call", served.uri, "echo", "x").stdout == b"x\n"
        for uri in ("top.sock", "unix:top.sock", f"unix://{tmp_path}/top.sock"):
            done = (run_command if uri == "top.sock" else run_main)("top", uri, "--once", cwd=tmp_path)
            assert (done.returncode, done.stderr) == (0, b"")
        assert b"\x1b" not in done.stdout
        text = done.stdout.decode()
        assert "answered 1, failed 0" in text
        assert "calls in flight" in text
        assert [line.split()[0] for line in text.splitlines() if line.startswith(("wait", "echo"))]
        calling.process.send_signal(signal.SIGINT)
        assert calling.end() == 130


def test_json_is_one_object_a_line_until_ctrl_c(served: Served, tmp_path: Path) -> None:
    with served:
        with Command("top", "top.sock", "--json", "--interval", "0.5", cwd=tmp_path) as viewing:
            first, second = json.loads(viewing.line()), json.loads(viewing.line())
            assert first["time"] < second["time"]
            assert [row["method"] for row in first["methods"]] == ["wait", "echo"]
            viewing.interrupt()
            assert viewing.end() == 0
            assert viewing.log == []
        done = run_main("top", "top.sock", "--json", "--once", cwd=tmp_path)
        assert json.loads(done.stdout)["pid"] == served.process.pid


def test_into_a_pipe_it_prints_one_view_after_the_other(served: Served, tmp_path: Path) -> None:
    with served, Command("top", "top.sock", "--interval", "0.5", cwd=tmp_path) as viewing:
        lines = [viewing.line() for _ in range(12)]
        assert sum(line.startswith("sockrpc ") for line in lines) >= 1
        assert not any("\x1b" in line for line in lines)
        viewing.interrupt()
        assert viewing.end() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_on_a_terminal_it_draws_a_screen_and_leaves_it_clean(
    number: signal.Signals, served: Served, tmp_path: Path
) -> None:
    master, slave = os.openpty()
    program = "import sys, os; os.dup2(2, 1); from sockrpc.cli import main; sys.exit(main())"
    try:
        with (
            served,
            Command(
                "top", "top.sock", "--interval", "0.5", program=("-c", program), cwd=tmp_path, terminal=slave
            ) as viewing,
        ):
            drawn = shown(master, b"echo")
            assert drawn.startswith(top.ENTER.encode() + top.HOME.encode())
            shown(master, top.HOME.encode())
            viewing.process.send_signal(number)
            assert shown(master, top.LEAVE.encode()).endswith(top.LEAVE.encode())
            assert viewing.end() == 0
    finally:
        os.close(master)
        os.close(slave)


def test_the_end_of_the_server_is_told(served: Served, tmp_path: Path) -> None:
    with served, Command("top", "top.sock", "--json", cwd=tmp_path) as viewing:
        viewing.line()
        served.interrupt()
        assert served.end() == 0
        assert viewing.end() == 1
        assert viewing.log == ["sockrpc: OSError: the server has gone"]


@pytest.mark.parametrize("uri", ["ws://127.0.0.1:3000/", "wss://example.org", "http://x", "WS://x"])
def test_another_uri_is_a_usage_error_that_says_what_to_do(uri: str) -> None:
    assert "--inspect-path" in failure(run_main("top", uri), 2)


@pytest.mark.parametrize("seconds", ["0.4", "3601"])
def test_an_interval_has_bounds(seconds: str) -> None:
    assert "0.5 to 3600" in failure(run_main("top", "x", "--interval", seconds), 2)


def test_workers_need_sockets_of_their_own() -> None:
    told = failure(run_command("serve", "any:app", "--workers", "2", "--inspect-path", "top.sock"), 2)
    assert "{pid}" in told


def test_where_nobody_listens_is_told(tmp_path: Path) -> None:
    told = failure(run_main("top", str(tmp_path / "none")), 4)
    assert told.startswith("sockrpc: FileNotFoundError: there is no ")
    assert "none; was the server started with --inspect-path?" in told


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n", b"{}\n", b"[1]\n", b"\xff\n", b'{"a": \n']
)
def test_what_is_no_server_of_ours_is_told(answer: bytes, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "other.sock"))
        listening.listen()

        def serve() -> None:
            line, _ = listening.accept()
            with line:
                line.recv(1024)
                line.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert "is not the --inspect-path" in failure(run_main("top", "other.sock", cwd=tmp_path), 1)
        thread.join()


# Views


def snapshot(methods: list[str], connections: int) -> top.Snapshot:
    totals = (
        "connections calls_in_flight calls_running procedures_waiting calls_answered calls_failed "
        "calls_reset calls_lost calls_timed_out calls_stopped bytes_received bytes_sent slow_peers_closed "
        "items_received item_bytes_received items_sent item_bytes_sent items_waiting_for_credit "
        "outgoing_calls_in_flight outgoing_calls_waiting outgoing_calls_started outgoing_calls_answered "
        "outgoing_calls_failed"
    )
    return {
        "pid": 1,
        "time": 100.0,
        "complete": True,
        **dict.fromkeys(totals.split(), 0),
        "errors_by_code": {},
        "errors_by_outcome": {},
        "methods": [{"method": name, "in_flight": 1, "oldest_seconds": 12.0} for name in methods],
        "connections_in_flight": [
            {
                "connection_id": i,
                "remote_address": "h:1",
                "in_flight": 1,
                "oldest_seconds": 0.5,
                "waiting": 0,
                "items_waiting_for_credit": 0,
            }
            for i in range(connections)
        ],
    }


@pytest.mark.parametrize("lines", [1, 2, 5, 8, 24, 200])
@pytest.mark.parametrize("columns", [1, 40, 200])
def test_a_view_fits_the_screen(columns: int, lines: int) -> None:
    rows = top.view(snapshot(["m" * 255] * 50, 50), None, columns, lines)
    assert len(rows) <= max(lines - 1, 1)
    assert all(len(row) <= columns for row in rows)


def test_a_few_connections_leave_their_room_to_methods() -> None:
    rows = top.view(snapshot([f"m{i}" for i in range(50)], 1), None, 100, 30)
    assert sum(row.startswith("m") for row in rows) == 21
    assert sum("h:1" in row for row in rows) == 1


def test_names_can_not_steer_the_terminal() -> None:
    text = "\n".join(top.view(snapshot([ESCAPE], 0), None, 100, 30))
    assert "\x1b" not in text
    assert "bad\\x1b[2Jname" in text


def test_the_rate_is_that_between_two_looks() -> None:
    before, now = snapshot([], 0), snapshot([], 0)
    now.update(time=102.0, calls_answered=1000)
    assert "answered 1,000 (500/s)" in top.view(now, before, 200, 30)[1]


def test_errors_streams_and_calls_at_clients_have_rows_once_there_are_some() -> None:
    assert len(top.view(snapshot([], 0), None, 200, 30)) == 7
    before, now = snapshot([], 1), snapshot([], 1)
    now.update(
        time=102.0,
        errors_by_code={"CANCELLED": 2, "NOT_FOUND": 1_000, "200": 3},
        errors_by_outcome={"partial": 1_003, "not_started": 2},
        items_received=5,
        item_bytes_received=50,
        items_sent=4_000,
        item_bytes_sent=128_000,
        items_waiting_for_credit=7,
        outgoing_calls_started=13,
        outgoing_calls_in_flight=6,
        outgoing_calls_waiting=2,
        outgoing_calls_answered=4,
        outgoing_calls_failed=3,
    )
    now["connections_in_flight"][0]["items_waiting_for_credit"] = 7
    rows = top.view(now, before, 200, 30)
    assert "errors NOT_FOUND 1,000, 200 3, CANCELLED 2 (partial 1,003, not started 2)" in rows
    assert (
        "5 items received (2/s), 50 bytes, 4,000 items sent (2,000/s), 128,000 bytes, 7 waiting for credit"
    ) in rows
    assert "calls made at clients: 6 in flight, 2 waiting, 4 answered, 3 failed" in rows
    assert rows[-1].split() == ["0", "h:1", "1", "0.500", "s", "0", "7"]
