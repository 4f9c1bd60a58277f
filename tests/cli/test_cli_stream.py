"""`sockrpc stream`: items as they come, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.kit.command import POSIX, Command, Served, failure, only_line, run_command, run_main

pytestmark = pytest.mark.newest

SERVER = r"""
import asyncio
import sockrpc
from sockrpc import Code, RPCError

app = sockrpc.App()
app.method("echo")(lambda call: call.payload)

@app.method("count")
async def count(call):
    for number in range(int(call.text)):
        yield str(number)

@app.method("feed")
async def feed(call):
    print("begins", flush=True)
    try:
        for number in range(3):
            yield str(number)
        await asyncio.sleep(600)
    finally:
        print("unwound", flush=True)

@app.method("stubborn")
async def stubborn(call):
    yield "item"
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            print("holds out", flush=True)

@app.method("run to completion", run_to_completion=True)
async def complete(call):
    await call.send("item")
    await call.wait_reset()

@app.method("breaks")
async def breaks(call):
    yield "one"
    yield b"\xff"
    raise RPCError(Code.DATA_LOSS, "the rest is lost")

@app.method("chat")
async def chat(call):
    async for item in call.items():
        await call.send(item.upper())
    return call.metadata.text("name", "bye")
"""


@pytest.fixture
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "served.py").write_text(SERVER, encoding="utf-8")
    with Served("serve", "served:app", "--stop-grace", "0", "--abort-grace", "0.1", cwd=folder) as server:
        yield server


def test_items_are_printed_one_a_line(served: Served) -> None:
    done = run_command("stream", served.uri, "count", "2000")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.splitlines() == [b"%d" % number for number in range(2000)]
    done = run_main("stream", served.uri, "count", "0")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    done = run_main("stream", served.uri, "echo", "dropped")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"result: dropped\n")


@POSIX
def test_they_are_printed_as_they_come_and_ctrl_c_tells_the_outcome(served: Served) -> None:
    with Command("stream", served.uri, "feed") as streaming:
        assert [streaming.line() for _ in range(3)] == ["0", "1", "2"]
        streaming.interrupt()
        assert (streaming.rest(), streaming.end()) == (b"", 130)
        # It is told when the handler has unwound.
        assert [served.line() for _ in range(2)] == ["begins", "unwound"]
        assert streaming.log == ["sockrpc: interrupted; the call was reset, outcome partial"]


@POSIX
def test_work_that_runs_to_completion_is_told_as_completed(served: Served) -> None:
    with Command("stream", served.uri, "run to completion") as streaming:
        assert streaming.line() == "item"
        streaming.interrupt()
        assert streaming.end() == 130
        assert streaming.log == ["sockrpc: interrupted; the call was reset, outcome completed"]


@POSIX
@pytest.mark.parametrize("times", [1, 2])
def test_work_that_does_not_unwind_holds_nobody_up(served: Served, times: int) -> None:
    """After some time it is told as unknown, and a second Ctrl-C does not wait that long."""
    with Command("stream", served.uri, "stubborn") as streaming:
        assert streaming.line() == "item"
        streaming.interrupt()
        assert served.line() == "holds out"
        if times == 2:
            streaming.interrupt()
        assert streaming.end() == 130
        unknown = "sockrpc: interrupted; the call was reset, outcome unknown"
        assert streaming.log == [unknown if times == 1 else "sockrpc: interrupted"]


def test_an_error_comes_behind_the_items_that_came_before_it(served: Served) -> None:
    done = run_main("stream", served.uri, "breaks", "--details")
    assert (done.returncode, done.stdout) == (3, b"one\n\xff\n")
    assert done.stderr == b"DATA_LOSS: the rest is lost\noutcome: partial\n"
    done = run_main("stream", served.uri, "breaks", "--json")
    one, other = map(json.loads, done.stdout.splitlines())
    assert (one, other) == (
        {"method": "breaks", "payload": "one"},
        {"method": "breaks", "payload_base64": "/w=="},
    )
    assert json.loads(only_line(done.stderr))["code"] == "DATA_LOSS"


def test_the_lines_of_standard_input_are_items_too(served: Served) -> None:
    done = run_command("stream", served.uri, "chat", "--items", given=b"one\ntwo")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"ONE\nTWO\n", b"result: bye\n")
    flags = ["--items", "--json", "--metadata", "name=\xff"]
    done = run_command("stream", served.uri, "chat", *flags, given=b"one\n")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"method": "chat", "payload": "ONE"},
        {"method": "chat", "result": "\xff"},
    ]
    # Without them its handler is told at once that there are none.
    done = run_main("stream", served.uri, "chat")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"result: bye\n")


@POSIX
def test_an_item_is_answered_before_the_next_is_typed(served: Served) -> None:
    reading, writing = os.pipe()
    try:
        with Command("stream", served.uri, "chat", "--items", given=reading) as streaming:
            os.close(reading)
            for text in (b"one", b"two"):
                os.write(writing, text + b"\n")
                assert streaming.line() == text.upper().decode()
            os.close(writing)
            writing = -1
            assert streaming.end() == 0
    finally:
        if writing >= 0:
            os.close(writing)


def test_a_whole_stream_may_have_a_time_limit(served: Served) -> None:
    done = run_main("stream", served.uri, "feed", "--timeout", "0.3")
    assert (done.returncode, done.stdout) == (124, b"0\n1\n2\n")
    # By either clock.
    assert only_line(done.stderr).startswith("DEADLINE_EXCEEDED: ")


@POSIX
def test_items_that_nobody_reads_end_it_quietly_and_reset_the_call(served: Served) -> None:
    with Command("stream", served.uri, "count", "1000000") as streaming:
        assert streaming.line() == "0"
        assert streaming.process.stdout is not None
        streaming.process.stdout.close()
        assert (streaming.end(), streaming.log) == (1, [])


def test_a_server_that_goes_away_is_told(served: Served) -> None:
    with Command("stream", served.uri, "feed") as streaming:
        assert streaming.line() == "0"
        served.process.kill()
        assert streaming.end() == 1
        assert streaming.log[0].startswith("sockrpc: ConnectionLost: 1006")


def test_the_old_protocol_has_no_streams(served: Served) -> None:
    done: subprocess.CompletedProcess[bytes]
    done = run_main("stream", served.uri, "count", "3", "--protocol", "websocket.io-rpc-v0.1")
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr.startswith(
        b"UNIMPLEMENTED: the peer speaks websocket.io-rpc-v0.1, which has no streams"
    )


def test_a_name_that_is_too_long_is_a_usage_error(served: Served) -> None:
    assert "255" in failure(run_main("stream", served.uri, "x" * 256), 2)
