"""`sockrpc demo`, and what `sockrpc call` and `sockrpc notify` say to it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

import sockrpc
from tests.kit.command import POSIX, Command, Served, failure, only_line, run_command, run_main
from tests.kit.raw_server import RawServer

pytestmark = pytest.mark.newest

T = TypeVar("T")


@pytest.fixture(scope="module")
def demo() -> Iterator[Served]:
    """One demo for all tests that leave nothing behind in it."""
    with Served("demo") as demo:
        yield demo


def with_client(demo: Served, use: Callable[[sockrpc.Client], Awaitable[T]]) -> T:
    async def connected() -> T:
        async with sockrpc.connect(demo.uri) as client:
            return await use(client)

    return asyncio.run(connected())


def test_the_first_line_is_where_it_is(demo: Served) -> None:
    """Read from a pipe while it runs, so it was flushed."""
    assert re.fullmatch(r"http://127\.0\.0\.1:[0-9]+/", demo.where)


def test_the_tutorial_s_calls(demo: Served) -> None:
    for method, payload, expected in [
        ("uppercase", "hello", b"HELLO\n"),
        ("uppercase", "grüße", "GRÜSSE\n".encode()),
        ("uppercase", "", b"\n"),
    ]:
        done = run_main("call", demo.uri, method, payload)
        assert (done.returncode, done.stdout, done.stderr) == (0, expected, b"")
    done = run_command("call", demo.uri, "myip")
    assert re.fullmatch(r"127\.0\.0\.1:[0-9]+", only_line(done.stdout))


def test_the_long_task_answers_under_both_spellings(demo: Served) -> None:
    async def use(client: sockrpc.Client) -> list[bytes]:
        names = ("long_runing_task", "long_running_task")
        return await asyncio.gather(*(client.call(name) for name in names))

    assert with_client(demo, use) == [b"done!", b"done!"]


def test_ping_is_answered_by_pong_and_broadcast_by_message_to_everybody(demo: Served) -> None:
    async def use(one: sockrpc.Client) -> None:
        async with sockrpc.connect(demo.uri) as two:
            pongs, others = one.on("pong"), two.on("pong")
            heard = [client.on("message") for client in (one, two)]
            await one.notify("ping", b"\x00payload")
            assert await anext(pongs) == b"\x00payload"
            # A round trip, which a pong would have preceded.
            await two.call("myip")
            await others.aclose()
            assert [each async for each in others] == []
            done = await asyncio.to_thread(run_command, "notify", demo.uri, "broadcast", "hello")
            assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
            assert [await anext(listener) for listener in heard] == [b"hello", b"hello"]

    with_client(demo, use)


def test_the_page_and_what_it_needs(demo: Served) -> None:
    for path, kind, part in [
        ("/", "text/html", b"<html"),
        ("/demo.css", "text/css", b"{"),
        ("/demo.js", "text/javascript", b"/sockrpc.js"),
        ("/sockrpc.js", "text/javascript", b"class SocketIo"),
        ("/health", "text/plain", b"ok\n"),
    ]:
        status, headers, body = demo.fetch(path)
        assert (status, headers["Content-Type"]) == (200, f"{kind}; charset=utf-8"), path
        assert part in body, path
    status, _, body = demo.fetch("/nothing")
    assert (status, body) == (404, b"There is nothing here.\n")
    page = demo.fetch("/")[2].decode()
    for name in re.findall(r'(?:src|href)="(/[^"]*)"', page):
        assert demo.fetch(name)[0] == 200, name


def test_the_endpoint_is_socket_only(demo: Served) -> None:
    told = failure(run_main("call", f"ws://127.0.0.1:{demo.port}/", "myip"), 4)
    assert told == "sockrpc: HandshakeError: HTTP 404: There is nothing here."


def test_the_payload_may_be_standard_input(demo: Served) -> None:
    text = "line one\nline two\n" * 10_000
    done = run_command("call", demo.uri, "uppercase", "-", given=text.encode())
    assert (done.returncode, done.stdout.decode()) == (0, text.upper() + "\n")


def test_json(demo: Served) -> None:
    done = run_main("call", demo.uri, "uppercase", 'quo"ted', "--json")
    assert json.loads(only_line(done.stdout)) == {"method": "uppercase", "payload": 'QUO"TED'}
    done = run_main("notify", demo.uri, "ping", "-", "--json", given=b"\xff")
    assert json.loads(only_line(done.stdout)) == {"event": "ping", "payload_base64": "/w=="}


def test_a_name_that_is_too_long_is_a_usage_error(demo: Served) -> None:
    for name in ("call", "notify", "listen"):
        assert "255" in failure(run_main(name, demo.uri, "x" * 256), 2)


def test_an_answer_that_is_no_text_is_printed_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text(
        "import sockrpc\napp = sockrpc.App()\napp.method('echo')(lambda call: call.payload)\n"
    )
    every_byte = bytes(range(256))
    with Served("serve", "served:app", cwd=tmp_path) as server:
        done = run_command("call", server.uri, "echo", "-", given=every_byte)
        assert (done.returncode, done.stdout) == (0, every_byte + b"\n")
        done = run_main("call", server.uri, "echo", "-", "--json", given=every_byte)
        told = json.loads(only_line(done.stdout))
        assert list(told) == ["method", "payload_base64"]
        assert base64.b64decode(told["payload_base64"]) == every_byte


@POSIX
def test_an_argument_of_the_command_line_that_is_no_text_is_sent_as_it_is(demo: Served) -> None:
    async def use(client: sockrpc.Client) -> bytes:
        heard = client.on("message")
        argument = os.fsdecode(b"\xff\xfe")
        await asyncio.to_thread(run_command, "notify", demo.uri, "broadcast", argument)
        return await anext(heard)

    assert with_client(demo, use) == b"\xff\xfe"


@POSIX
def test_ctrl_c_of_a_call_aborts_the_server_s_task() -> None:
    with Served("demo") as demo:
        with Command("call", demo.uri, "long_runing_task") as calling:
            demo.wait_log("call 1: the 3 s task of 127.0.0.1:")
            calling.interrupt()
            assert (calling.rest(), calling.end()) == (b"", 130)
            assert calling.log == ["sockrpc: interrupted; the call was reset, outcome partial"]
        demo.wait_log("the task is aborted")
        demo.process.terminate()
        assert demo.end() == 0
    (aborted,) = demo.logged("the task is aborted")
    assert aborted.endswith("call 1: the task is aborted (reset)")
    assert not demo.logged("the task is done")


def test_a_time_out_aborts_the_server_s_task() -> None:
    with Served("demo") as demo:
        # Enough for the task to begin, and less than it takes.
        done = run_main("call", demo.uri, "long_running_task", "--timeout", "1")
        assert (done.returncode, done.stdout) == (124, b"")
        # By either clock.
        assert only_line(done.stderr).startswith("DEADLINE_EXCEEDED: ")
        demo.wait_log("call 1: the task is aborted (")
        assert len(demo.logged("the task is aborted")) == 1


@POSIX
@pytest.mark.parametrize("end", ["Ctrl-C", "time-out"])
def test_one_reset_and_a_close_are_all_that_is_sent_at_the_end_of_a_call(end: str) -> None:
    async def watch() -> None:
        async with RawServer() as server:
            flags = ["--timeout", "0.5"] if end == "time-out" else []
            with Command("call", server.uri, "method", *flags) as calling:
                peer = await server.accept()
                assert await peer.request() == 1
                if end == "Ctrl-C":
                    calling.interrupt()
                assert await peer.reset() == 1
                assert await peer.receive() == (8, (1000).to_bytes(2, "big"))
                await peer.finish()
                code = await asyncio.to_thread(calling.end)
                assert code == (130 if end == "Ctrl-C" else 124)

    asyncio.run(watch())


def test_a_connection_that_is_lost_is_told_in_one_line() -> None:
    async def watch() -> None:
        async with RawServer() as server:
            with Command("call", server.uri, "method") as calling:
                peer = await server.accept()
                assert await peer.request() == 1
                await peer.close_politely(1013)
                await peer.finish()
                assert await asyncio.to_thread(calling.end) == 1
                assert calling.log == ["sockrpc: ConnectionLost: 1013"]

    asyncio.run(watch())


@POSIX
def test_an_answer_that_nobody_reads_ends_quietly() -> None:
    """As in `sockrpc call ... | true`."""

    async def watch() -> None:
        async with RawServer() as server:
            with Command("call", server.uri, "method") as calling:
                peer = await server.accept()
                await peer.request()
                assert calling.process.stdout is not None
                calling.process.stdout.close()
                await peer.answer(1)
                await peer.receive()
                await peer.finish()
                assert await asyncio.to_thread(calling.end) == 1
                assert calling.log == []

    asyncio.run(watch())
