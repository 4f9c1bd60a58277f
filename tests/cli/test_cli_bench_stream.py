"""`sockrpc bench --stream`: items a second."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

import pytest

import sockrpc
from sockrpc.bench.load import Measured, put_load
from sockrpc.bench.stream_load import MeasuredItems, StreamLoad
from tests.kit.command import POSIX, Command, Served, failure, only_line, run_command, run_main
from tests.kit.support import Serving, serving, until

pytestmark = pytest.mark.newest

SERVER = r"""
import asyncio
import sockrpc

app = sockrpc.App()
app.method("echo")(lambda call: call.payload)

@app.method("count")
async def count(call):
    for number in range(10):
        yield call.payload

@app.method("endless")
async def endless(call):
    print("begins", flush=True)
    while True:
        yield call.payload

@app.method("never")
async def never(call):
    await asyncio.sleep(600)
    yield b""

@app.method("breaks")
async def breaks(call):
    yield b""
    raise sockrpc.RPCError(sockrpc.Code.DATA_LOSS, "lost")
"""
FIELDS = {"method", "connections", "in_flight", "payload_bytes", "seconds", "streams", "items", "item_bytes"}
FIELDS |= {"items_per_second", "bytes_per_second", "first_item", "interrupted", "error"}


@pytest.fixture
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "served.py").write_text(SERVER, encoding="utf-8")
    with Served("serve", "served:app", cwd=folder) as server:
        yield server


def bench(served: Served, *flags: str) -> dict[str, Any]:
    done = run_main("bench", served.uri, "--stream", "--json", *flags)
    assert (done.returncode, done.stderr) == (0, b"")
    told: dict[str, Any] = json.loads(only_line(done.stdout))
    assert set(told) == FIELDS
    return told


def test_it_tells_items_and_bytes_a_second_and_the_time_to_the_first(served: Served) -> None:
    flags = ["--method", "endless", "--seconds", "0.5", "--payload-bytes", "100", "--in-flight", "2"]
    done = run_command("bench", served.uri, "--stream", *flags)
    assert (done.returncode, done.stderr) == (0, b"")
    first, second, third = done.stdout.decode().splitlines()
    assert first.startswith("endless: 1 connection(s), 2 in flight on each, 100 bytes, 0.5 s")
    assert int(second.partition(" items, ")[0].replace(",", "")) > 10
    assert second.endswith(" MB a second; 0 streams read to their ends")
    assert third.startswith("first item: min ")


def test_json_has_the_same(served: Served) -> None:
    flags = ["--method", "count", "--seconds", "0.4", "--payload-bytes", "100", "--connections", "2"]
    told = bench(served, *flags)
    assert (told["connections"], told["in_flight"], told["payload_bytes"]) == (2, 16, 100)
    assert told["items"] >= 10 * told["streams"] > 0
    assert told["item_bytes"] == 100 * told["items"]
    assert told["items_per_second"] == pytest.approx(told["items"] / told["seconds"], rel=0.01)
    assert told["bytes_per_second"] == pytest.approx(told["item_bytes"] / told["seconds"], rel=0.01)
    times = list(told["first_item"].values())
    assert times == sorted(times)
    assert times[0] > 0
    assert (told["interrupted"], told["error"]) == (False, None)


def test_a_method_that_does_not_stream_has_streams_without_items(served: Served) -> None:
    told = bench(served, "--seconds", "0.2")
    assert told["streams"] > 0
    assert (told["items"], told["first_item"]["max"]) == (0, 0)


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (("--method", "absent"), 3, "UNIMPLEMENTED: nobody serves 'absent' here"),
        (
            ("--method", "count", "--protocol", "websocket.io-rpc-v0.1"),
            3,
            "UNIMPLEMENTED: the peer speaks websocket.io-rpc-v0.1, which has no streams",
        ),
        (
            ("--method", "never", "--timeout", "0.2"),
            124,
            "sockrpc: no answer within 0.2 s; is there a method",
        ),
    ],
    ids=["no such method", "the old protocol", "nothing comes"],
)
def test_the_first_stream_finds_out_whether_there_are_any(
    served: Served, flags: tuple[str, ...], code: int, text: str
) -> None:
    done = run_main("bench", served.uri, "--stream", "--seconds", "600", *flags)
    assert (done.returncode, done.stdout) == (code, b"")
    assert only_line(done.stderr).startswith(text)


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (("--method", "breaks"), 3, "DATA_LOSS: lost"),
        (("--method", "endless", "--timeout", "1"), 124, "sockrpc: a call was not answered within 1 s"),
    ],
    ids=["a stream fails", "a stream takes too long"],
)
def test_a_failure_ends_it_with_what_was_measured(
    served: Served, flags: tuple[str, ...], code: int, text: str
) -> None:
    done = run_main("bench", served.uri, "--stream", "--seconds", "600", *flags)
    assert done.returncode == code
    assert done.stdout.splitlines()[1].partition(b" ")[0] != b"0"
    assert only_line(done.stderr) == text


@POSIX
def test_ctrl_c_ends_it_with_what_was_measured(served: Served) -> None:
    flags = ["--method", "endless", "--in-flight", "1", "--seconds", "600", "--json"]
    with Command("bench", served.uri, "--stream", *flags) as command:
        # The first stream finds out whether there is such a method; the second one is measured.
        assert [served.line() for _ in range(2)] == ["begins"] * 2
        command.interrupt()
        told = json.loads(command.line())
        assert (command.end(), command.log) == (130, [])
    assert told["interrupted"]


def test_usage_is_that_of_calls() -> None:
    assert failure(run_main("bench", "ws://127.0.0.1:1/", "--stream", "--in-flight", "0"), 2)


async def test_what_is_open_at_the_end_is_reset_and_what_was_counted_was_sent() -> None:
    app = sockrpc.App()

    @app.method("endless")
    async def endless(call: sockrpc.Call) -> Any:
        while True:
            yield b"12345"

    def settings(here: Serving) -> StreamLoad:
        limits = {"connections": 2, "in_flight": 3, "seconds": 0.3, "timeout": None, "first_timeout": 10.0}
        connect = functools.partial(here.connect, protocols=("sockrpc.v1",))
        return StreamLoad(connect, "endless", b"", **limits)  # type: ignore[arg-type]

    seen: list[Measured] = []
    async with serving(app) as here:
        measured = await put_load(settings(here), seen.append)
        await until(lambda: here.server.statistics().calls_running == 0)
        statistics = here.server.statistics()
    assert isinstance(measured, MeasuredItems)
    # One stream came first.
    assert statistics.calls_reset == 1 + 2 * 3
    assert 0 < measured.items <= statistics.items_sent
    assert measured.item_bytes == 5 * measured.items
    assert measured.error is None
