"""`sockrpc bench`: the load, what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import time
from pathlib import Path

import pytest

import sockrpc
from sockrpc.bench.load import BITS, PERCENTILES, Histogram, Load, Measured, measure, put_load
from tests.kit.command import POSIX, Command, Served, failure, only_line, run_command, run_main
from tests.kit.support import Serving, serving, until

pytestmark = pytest.mark.newest

SERVER = """
import asyncio
import sockrpc

app = sockrpc.App()

@app.method("echo")
def echo(call):
    return call.payload

@app.method("never")
async def never(call):
    await asyncio.get_running_loop().create_future()

@app.method("hang up")
async def hang_up(call):
    asyncio.get_running_loop().call_later(0.2, asyncio.ensure_future, call.socket.close(1001, "gone"))
    return b""
"""
SERVER += """
@app.method("slow")
async def slow(call):
    await asyncio.sleep(2.5)
"""
STOPPING = """
import logging, os, signal
import sockrpc

app = sockrpc.App()
answered = 0

@app.method("later")
def later(call):
    global answered
    answered += 1
    # The first finds out whether there is such a method.
    if answered == 12:
        stop(call)
    return b""

@app.method("stop")
def stop(call):
    logging.getLogger("served").info("it stops")
    os.kill(os.getpid(), signal.SIGSTOP)
"""
FIELDS = {"method", "connections", "in_flight", "payload_bytes", "seconds", "calls", "calls_per_second"}
FIELDS |= {"latency", "interrupted", "error"}


@pytest.fixture
def served(tmp_path: Path) -> Served:
    (tmp_path / "served.py").write_text(SERVER, encoding="utf-8")
    return Served("serve", "served:app", cwd=tmp_path)


def test_it_tells_rate_and_percentiles(served: Served) -> None:
    with served:
        done = run_command(
            "bench", served.uri, "--seconds", "0.5", "--connections", "2", "--payload-bytes", "7"
        )
    assert (done.returncode, done.stderr) == (0, b"")
    first, second, third = done.stdout.decode().splitlines()
    assert first.startswith("echo: 2 connection(s), 16 in flight on each, 7 bytes, 0.5 s")
    calls = int(second.partition(" calls")[0].replace(",", ""))
    assert calls > 32
    assert [each.split()[0] for each in third.removeprefix("latency: ").split("  ")] == [
        "min",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "max",
    ]


def test_json_has_the_same_in_seconds(served: Served) -> None:
    with served:
        done = run_main("bench", served.uri, "--seconds", "0.3", "--in-flight", "4", "--json")
    told = json.loads(only_line(done.stdout))
    assert set(told) == FIELDS
    assert (told["method"], told["connections"], told["in_flight"], told["payload_bytes"]) == (
        "echo",
        1,
        4,
        32,
    )
    # A timer may be early by the resolution of its clock.
    assert 0.29 <= told["seconds"] < 10
    assert told["calls_per_second"] == pytest.approx(told["calls"] / told["seconds"], rel=0.01)
    latency = list(told["latency"].values())
    assert latency == sorted(latency)
    assert latency[0] > 0
    assert (told["interrupted"], told["error"]) == (False, None)


@POSIX
def test_the_progress_is_shown_on_a_terminal(served: Served) -> None:
    import pty

    leader, follower = pty.openpty()
    with served, open(leader, "rb", buffering=0) as screen:
        with Command("bench", served.uri, "--seconds", "1.2", terminal=follower) as command:
            assert command.line().startswith("echo: ")
            assert command.end() == 0
        os.close(follower)
        shown = screen.read(65536).decode()
    lines = shown.split("\r\x1b[K")
    assert len(lines) >= 3, shown
    assert " calls  " in lines[1]
    assert "p99" in lines[1]
    # It leaves a clean line behind.
    assert lines[-1] == ""


@POSIX
def test_ctrl_c_ends_it_with_what_was_measured(tmp_path: Path) -> None:
    counting = SERVER.replace(
        "    return call.payload", "    print('called', flush=True)\n    return call.payload"
    )
    (tmp_path / "served.py").write_text(counting, encoding="utf-8")
    with (
        Served("serve", "served:app", cwd=tmp_path) as served,
        Command("bench", served.uri, "--seconds", "600", "--json", "--in-flight", "1") as command,
    ):
        # The first call finds out whether there is such a method; with the third it measures.
        assert [served.line() for _ in range(3)] == ["called"] * 3
        command.interrupt()
        told = json.loads(command.line())
        assert command.end() == 130
        assert command.log == []
    assert told["interrupted"]
    assert told["calls"] >= 1
    assert told["seconds"] < 600


def test_a_method_that_never_answers_is_a_time_out(served: Served) -> None:
    with served:
        done = run_main("bench", served.uri, "--method", "never", "--timeout", "0.2")
    told = "no answer within 0.2 s; is there a method 'never'? --method names another"
    assert failure(done, 124) == f"sockrpc: {told}, and --timeout waits longer"


def test_a_method_that_is_not_there_is_told_at_once(served: Served) -> None:
    began = time.monotonic()
    with served:
        done = run_main("bench", served.uri, "--method", "absent", "--seconds", "600")
        old = run_main("bench", served.uri, "--method", "absent", "--protocol", "websocket.io-rpc-v0.1")
    assert (done.returncode, done.stdout) == (3, b"")
    assert only_line(done.stderr) == "UNIMPLEMENTED: nobody serves 'absent' here"
    told = "sockrpc: no answer within 2 s; is there a method 'absent'? --method names another"
    assert failure(old, 124).startswith(told)
    assert time.monotonic() - began < 20


def test_a_slow_method_has_the_time_that_it_is_given(served: Served) -> None:
    flags = ["--method", "slow", "--timeout", "20", "--in-flight", "1", "--seconds", "0.1", "--json"]
    with served:
        done = run_main("bench", served.uri, *flags)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(only_line(done.stdout))["error"] is None


@POSIX
@pytest.mark.parametrize("end", ["the end of --seconds", "Ctrl-C", "Ctrl-C at the first call", "--timeout"])
def test_a_server_that_does_nothing_any_more_holds_nobody_up(tmp_path: Path, end: str) -> None:
    """It neither reads nor answers nor closes, and its machine still acknowledges what comes."""
    (tmp_path / "served.py").write_text(STOPPING, encoding="utf-8")
    flags = ["--in-flight", "4", "--payload-bytes", "100000", "--json"]
    flags += ["--seconds", "1" if end == "the end of --seconds" else "600"]
    flags += ["--timeout", "0.5" if end == "--timeout" else "600"]
    flags += ["--method", "stop" if end == "Ctrl-C at the first call" else "later"]
    with Served("serve", "served:app", cwd=tmp_path) as served:
        with Command("bench", served.uri, *flags) as command:
            served.wait_log("it stops")
            began = time.monotonic()
            if end.startswith("Ctrl-C"):
                command.interrupt()
            code = command.end()
            took = time.monotonic() - began
            if end == "Ctrl-C at the first call":
                assert (code, command.rest(), command.log) == (130, b"", ["sockrpc: interrupted"])
            else:
                told = json.loads(command.line())
                # Some of the answers may not have left it.
                assert 1 <= told["calls"] <= 10
                assert told["interrupted"] == (end == "Ctrl-C")
                assert (told["error"] is not None) == (end == "--timeout")
                assert code == {"the end of --seconds": 0, "Ctrl-C": 130, "--timeout": 124}[end]
                last = ["sockrpc: a call was not answered within 0.5 s"] if end == "--timeout" else []
                assert command.log == last
        served.process.send_signal(signal.SIGCONT)
    # Half a second for the close, and what a loaded machine takes; `close_timeout` is 5 s.
    assert took < 4.5


def test_a_connection_that_is_lost_ends_it_with_what_was_measured(served: Served) -> None:
    flags = ["--method", "hang up", "--seconds", "600", "--protocol", "websocket.io-rpc-v0.1", "--json"]
    with served:
        done = run_main("bench", served.uri, *flags)
    assert done.returncode == 1
    told = json.loads(only_line(done.stdout))
    assert told["calls"] >= 1
    assert "ConnectionLost" in told["error"]
    assert only_line(done.stderr).startswith("sockrpc: ConnectionLost: ")


def test_a_server_that_takes_its_leave_ends_it_with_what_was_measured(served: Served) -> None:
    """In sockrpc.v1 it says goodbye; whether the next call or the end comes first is chance."""
    with served:
        done = run_main("bench", served.uri, "--method", "hang up", "--seconds", "600")
    assert int(done.stdout.splitlines()[1].partition(b" ")[0].replace(b",", b"")) >= 1
    told = only_line(done.stderr)
    expected = {3: "UNAVAILABLE: the peer takes no more calls", 1: "sockrpc: ConnectionLost: 1001"}
    assert told.startswith(expected[done.returncode])


def test_no_server_is_a_failure() -> None:
    assert "ConnectionRefusedError" in failure(run_main("bench", "ws://127.0.0.1:1/"), 4)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--connections", "0"],
        ["--in-flight", "0"],
        ["--payload-bytes", "-1"],
        ["--seconds", "0"],
        ["--seconds", "nan"],
        ["--seconds", "inf"],
        ["--timeout", "0"],
    ],
    ids=" ".join,
)
def test_what_can_not_be_is_a_usage_error(arguments: list[str]) -> None:
    assert failure(run_main("bench", "ws://127.0.0.1:1/", *arguments), 2)


def load(here: Serving, **changes: object) -> Load:
    settings = {"connections": 1, "in_flight": 1, "seconds": 60.0, "timeout": 10.0} | changes
    settings["first_timeout"] = settings["timeout"]
    return Load(here.connect, "echo", b"x", **settings)  # type: ignore[arg-type]


def make_app() -> sockrpc.App:
    app = sockrpc.App()

    @app.method("echo")
    def echo(call: sockrpc.Call) -> bytes:
        return call.payload

    return app


async def test_all_connections_and_calls_in_flight_are_used() -> None:
    seen: list[tuple[int, int]] = []

    async with serving(make_app()) as here:

        def look(measured: Measured) -> None:
            seen.append((len(here.server.connections), measured.latencies.count))

        measured = await put_load(load(here, connections=3, in_flight=5, seconds=0.7), look)
        await until(lambda: not here.server.connections)
        statistics = here.server.statistics()
    ((connections, count), *_) = seen
    assert connections == 3
    assert 0 < count <= measured.latencies.count
    # One call came first; at most those in flight at the end were not answered to anybody.
    assert 1 + measured.latencies.count <= statistics.calls_started <= 1 + measured.latencies.count + 15
    assert measured.error is None


async def test_what_is_in_flight_at_the_end_is_reset() -> None:
    app = make_app()
    waiting = 0

    @app.method("once")
    async def once(call: sockrpc.Call) -> bytes:
        nonlocal waiting
        waiting += 1
        if waiting > 2:
            await call.wait_reset()
        return b""

    async with serving(app) as here, here.connect() as client:
        settings = Load(
            here.connect,
            "once",
            b"",
            connections=1,
            in_flight=4,
            seconds=0.1,
            timeout=10.0,
            first_timeout=10.0,
        )
        measured = await measure(settings, [client], lambda measured: None)
        await until(lambda: here.server.statistics().calls_reset == 4)
        assert measured.latencies.count == 2


def test_percentiles_are_at_most_one_per_cent_too_high() -> None:
    generator = random.Random(7)
    values = sorted(generator.lognormvariate(-8, 2) for _ in range(5000))
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    for percent in PERCENTILES:
        exact = values[max(0, -(-len(values) * int(percent * 10) // 1000) - 1)]
        assert exact * 0.9999 <= histogram.percentile(percent) <= exact * (1 + 2**-BITS) + 1e-9
    assert histogram.percentile(100) == histogram.maximum == values[-1]
    assert (histogram.minimum, histogram.count) == (values[0], 5000)


def test_a_histogram_does_not_grow_with_what_it_counts() -> None:
    histogram = Histogram()
    for number in range(100_000):
        histogram.add(1e-4 + number * 1e-9)
    assert len(pickle.dumps(histogram)) < 2_000


def test_an_empty_histogram_has_no_times() -> None:
    assert [Histogram().percentile(percent) for percent in PERCENTILES] == [0.0] * 4
