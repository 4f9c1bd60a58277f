"""`@app.on_start` and `@app.on_stop`: when they run, what fails with them, and how long they may take."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sockrpc
import sockrpc.testing
from tests.kit.command import PATIENCE, POSIX, Command, run_command
from tests.kit.support import serving, started, until
from tests.kit.workers import ONCE


def logging_app(log: list[str]) -> sockrpc.App:
    app = sockrpc.App()

    @app.on_start
    def plain() -> None:
        log.append("plain start")

    @app.on_start
    async def coroutine() -> None:
        await asyncio.sleep(0)
        log.append("start")

    @app.on_stop
    def first() -> None:
        log.append("plain stop")

    @app.on_stop
    async def second() -> None:
        await asyncio.sleep(0)
        log.append("stop")

    return app


async def test_they_run_before_the_server_listens_and_after_its_last_call_has_ended() -> None:
    log: list[str] = []
    app = logging_app(log)
    may_end = asyncio.Event()

    @app.on_start
    def listening() -> None:
        log.append(f"listens: {bool(servers)}")

    @app.method
    async def work(call: sockrpc.Call) -> bytes:
        log.append("call begins")
        await may_end.wait()
        log.append("call ends")
        return b"done"

    servers: list[sockrpc.Server] = []
    async with serving(app, stop_grace=PATIENCE) as here:
        servers.append(here.server)
        client = await here.connect()
        call = await started(client.call("work"))
        await until(lambda: "call begins" in log)
        here.server.close()
        may_end.set()
        assert await call == b"done"
        await client.close()
    assert log == [
        *("plain start", "start", "listens: False"),
        *("call begins", "call ends"),
        *("stop", "plain stop"),
    ]


async def test_in_memory_they_run_as_well() -> None:
    log: list[str] = []
    async with sockrpc.testing.serve(logging_app(log)):
        assert log == ["plain start", "start"]
    assert log[2:] == ["stop", "plain stop"]


async def test_each_server_of_an_app_runs_them() -> None:
    log: list[str] = []
    app = logging_app(log)
    async with serving(app), serving(app):
        assert log == ["plain start", "start"] * 2
    assert log[4:] == ["stop", "plain stop"] * 2


async def test_handlers_may_be_registered_and_see_what_was_made_at_the_start() -> None:
    app = sockrpc.App()

    @app.on_start
    async def start() -> None:
        answer = "made at the start"
        app.method("late")(lambda call: answer)

    async with serving(app) as here, here.connect() as client:
        assert await client.call("late") == b"made at the start"


@pytest.mark.parametrize("error", [LookupError, OSError, asyncio.CancelledError, GeneratorExit])
async def test_one_that_fails_fails_the_start_and_nothing_stops(error: type[BaseException]) -> None:
    log: list[str] = []
    app = logging_app(log)

    @app.on_start
    async def broken() -> None:
        raise error("not today")

    @app.on_start
    def after() -> None:
        log.append("never")

    async def start() -> None:
        with pytest.raises(error, match="not today") as raised:
            await sockrpc.serve(app, "127.0.0.1", 0)
        (note,) = raised.value.__notes__
        assert note.startswith("raised by the on_start hook test_one_that_fails_")

    await start()
    assert log == ["plain start", "start"]


async def test_a_start_that_is_cancelled_unwinds_its_hook() -> None:
    app = sockrpc.App()
    log: list[str] = []

    @app.on_start
    async def slow() -> None:
        try:
            log.append("began")
            await asyncio.Event().wait()
        finally:
            log.append("unwound")

    async def start() -> None:
        async with sockrpc.serve(app, "127.0.0.1", 0):
            raise AssertionError("it has started")

    starting = await started(start())
    await until(lambda: log)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert log == ["began", "unwound"]


async def test_an_address_that_can_not_be_listened_on_stops_what_has_started() -> None:
    log: list[str] = []
    async with serving(sockrpc.App()) as taken:
        with pytest.raises(OSError, match="in use"):
            await sockrpc.serve(logging_app(log), "127.0.0.1", taken.port)
    assert log == ["plain start", "start", "stop", "plain stop"]


@pytest.mark.parametrize("error", [LookupError, SystemExit, asyncio.CancelledError, GeneratorExit])
@pytest.mark.parametrize("is_coroutine", [True, False])
async def test_whatever_a_stop_hook_raises_is_logged_and_the_others_run(
    error: type[BaseException], is_coroutine: bool, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []
    app = logging_app(log)

    if is_coroutine:

        @app.on_stop
        async def broken() -> None:
            raise error("not today")
    else:

        @app.on_stop
        def broken_too() -> None:
            raise error("not today")

    async with serving(app):
        pass
    assert log[2:] == ["stop", "plain stop"]
    (record,) = caplog.records
    assert record.exc_info
    assert record.exc_info[0] is error
    assert "broken" in record.getMessage()


async def slow_to_stop(app: sockrpc.App, log: list[str], ignores: bool = False) -> None:
    @app.on_stop
    async def slow() -> None:
        while True:
            try:
                log.append("waits")
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                log.append("cancelled")
                if not ignores or len(log) > 4:
                    raise


@pytest.mark.parametrize("ignores", [False, True])
async def test_what_takes_longer_than_it_may_is_cancelled_and_left_behind(
    ignores: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sockrpc.listen.server_hooks.UNWINDING", 0.1)
    log: list[str] = []
    app = logging_app(log)
    await slow_to_stop(app, log, ignores)
    began = asyncio.get_running_loop().time()
    async with serving(app, abort_grace=0.1):
        pass
    assert asyncio.get_running_loop().time() - began >= 0.1
    assert log[2:4] == ["waits", "cancelled"]
    assert "plain stop" not in log
    assert "the on_stop hooks have not ended in time" in caplog.text


async def test_hurry_before_them_leaves_them_their_time_and_while_they_run_ends_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log: list[str] = []
    app = logging_app(log)
    await slow_to_stop(app, log)
    async with serving(app, abort_grace=PATIENCE) as here:
        here.server.hurry()
        await until(lambda: log[2:] == ["waits"])
        for _ in range(10):
            await asyncio.sleep(0)
        assert log[2:] == ["waits"]
        here.server.hurry()
    assert log[2:] == ["waits", "cancelled"]
    assert "the on_stop hooks have not ended in time" in caplog.text


REFUSED: list[tuple[Callable[[sockrpc.App], Any], str]] = [
    (lambda app: app.on_start(lambda server: None), "on_start"),
    (lambda app: app.on_stop(lambda server: None), "on_stop"),
    (lambda app: app.on_start("connect"), "on_start"),
    (lambda app: app.on_start(generator), "on_start"),
    (lambda app: app.on_stop(async_generator), "on_stop"),
]


def generator() -> Any:
    yield


async def async_generator() -> Any:
    yield


@pytest.mark.parametrize(("register", "what"), REFUSED)
def test_what_can_not_be_a_hook_is_refused(register: Callable[[sockrpc.App], Any], what: str) -> None:
    with pytest.raises(sockrpc.UsageError, match=f"{what} hook"):
        register(sockrpc.App())


APP = """
import asyncio
import os
import sockrpc

app = sockrpc.App()

@app.on_start
async def start():
    await asyncio.sleep(0)
    print("start", flush=True)
    if "BROKEN" in os.environ:
        raise ConnectionRefusedError("no database")

@app.on_stop
async def stop():
    await asyncio.sleep(0)
    print("stop", flush=True)
"""


@POSIX
def test_the_command_runs_them(tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text(APP)
    with Command("serve", "served:app", "--port", "0", cwd=tmp_path) as server:
        assert server.line() == "start"
        assert server.line().startswith("http")
        server.process.send_signal(signal.SIGTERM)
        assert server.rest() == b"stop\n"
        assert server.end() == 0


@POSIX
def test_each_worker_runs_them(tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text(APP)
    with Command("serve", "served:app", "--workers", "2", "--port", "0", cwd=tmp_path) as server:
        assert [server.line(), server.line()] == ["start", "start"]
        assert server.line().startswith("http")
        server.process.send_signal(signal.SIGTERM)
        assert server.rest() == b"stop\n" * 2
        assert server.end() == 0


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=ONCE)])
def test_a_command_whose_start_fails_shows_where(
    tmp_path: Path, workers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "served.py").write_text(APP)
    monkeypatch.setenv("BROKEN", "1")
    done = run_command("serve", "served:app", "--port", "0", "--workers", workers, cwd=tmp_path)
    assert done.returncode == 1
    assert b"stop" not in done.stdout
    text = done.stderr.decode()
    assert "ConnectionRefusedError: no database" in text
    assert f'served.py", line 13, in start{os.linesep}' in text
    assert "raised by the on_start hook start" in text
    # Its own steps only; both workers may fail before either is heard of.
    files = re.findall(r'File "([^"]+)"', text)
    assert 1 <= len(files) <= int(workers)
    assert all(each.endswith("served.py") for each in files)
