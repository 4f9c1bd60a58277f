"""What the log says about whom: the fields of each record, and records as JSON."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import sockrpc
from sockrpc.logs import JSONFormatter
from tests.kit.command import POSIX, Served, run_command
from tests.kit.support import RawClient, cut, notify, opening, request, reset, serving, until
from tests.kit.work import Stubborn, Work

SOURCE = Path(__file__).parents[1] / "src" / "sockrpc"


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What a record carries beside its text."""
    written = json.loads(JSONFormatter().format(record))
    names = ("connection_id", "remote_address", "request_id", "method", "event")
    return {name: written[name] for name in names if name in written}


def only(caplog: pytest.LogCaptureFixture, text: str) -> logging.LogRecord:
    (record,) = (each for each in caplog.records if text in each.getMessage())
    return record


def address(raw: RawClient) -> str:
    host, port = raw.writer.get_extra_info("sockname")[:2]
    return f"{host}:{port}"


# Records of calls


async def test_a_call_that_fails_is_told_with_its_connection_its_id_and_its_method(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = sockrpc.App()

    @app.method("fail")
    def fail(call: sockrpc.Call) -> None:
        raise LookupError("why")

    async with serving(app) as here, await here.raw() as one, await here.raw() as two:
        await one.send(request(7, "fail"))
        await one.synchronize()
        await two.send(request(8, "fail"))
        await two.synchronize()
        first, second = (fields(record) for record in caplog.records)
        assert first == {
            "connection_id": first["connection_id"],
            "remote_address": address(one),
            "request_id": 7,
            "method": "fail",
        }
        assert second["remote_address"] == address(two)
        assert second["connection_id"] > first["connection_id"] > 0


async def test_a_call_of_an_unknown_method(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Work().app()) as here, await here.raw() as raw:
        await raw.send(request(2, "unknown"))
        await raw.synchronize()
        told = fields(only(caplog, "nobody registered"))
        assert (told["request_id"], told["method"], told["remote_address"]) == (2, "unknown", address(raw))


async def test_a_value_after_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    app = sockrpc.App()

    @app.method("twice")
    async def twice(call: sockrpc.Call) -> str:
        await call.respond("one")
        return "two"

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(3, "twice"))
        await raw.answer()
        await until(lambda: caplog.records)
        told = fields(only(caplog, "the value is dropped"))
        assert (told["request_id"], told["method"], told["remote_address"]) == (3, "twice", address(raw))


async def test_an_exception_after_the_end_of_the_call(caplog: pytest.LogCaptureFixture) -> None:
    app = sockrpc.App()

    @app.method("late")
    async def late(call: sockrpc.Call) -> None:
        await call.respond("answer")
        raise LookupError

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(4, "late"))
        await raw.answer()
        await until(lambda: caplog.records)
        told = fields(only(caplog, "raised after"))
        assert (told["request_id"], told["method"]) == (4, "late")


async def test_an_undo_hook_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    work = Work()
    async with serving(work.app()) as here, await here.raw() as raw:
        await raw.send(request(5, "work"))
        await until(lambda: work.calls)
        work.calls[0].on_abort(lambda: 1 / 0)
        await raw.send(reset(5))
        await until(lambda: caplog.records)
        told = fields(only(caplog, "an undo hook"))
        assert (told["request_id"], told["method"]) == (5, "work")


async def test_work_that_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    work = Stubborn()
    async with serving(work.app(), stop_grace=0.0, abort_grace=0.0) as here:
        raw = await here.raw()
        await raw.send(request(6, "work"))
        await until(lambda: work.calls)
        here.server.close()
        await here.server.wait_closed()
        told = fields(only(caplog, "left behind"))
        assert (told["request_id"], told["method"], told["remote_address"]) == (6, "work", address(raw))
        work.may_unwind.set()
        await until(lambda: work.ended)
        await raw.close()


# Records of notifications, connections and openings


async def test_a_notification_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    app = sockrpc.App()

    @app.on("bad")
    def bad(notification: sockrpc.Notification) -> None:
        raise LookupError

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(notify("bad"))
        await raw.synchronize()
        told = fields(only(caplog, "the handler of event"))
        assert (told["event"], told["remote_address"]) == ("bad", address(raw))
        assert told["connection_id"] > 0
        assert "request_id" not in told


async def test_hooks_of_a_connection_that_fail(caplog: pytest.LogCaptureFixture) -> None:
    app = sockrpc.App()

    @app.on_disconnect
    def failing(socket: sockrpc.Socket) -> None:
        raise LookupError

    async with serving(app) as here:
        raw = await here.raw()
        where = address(raw)
        await raw.close()
        await until(lambda: caplog.records)
        first = fields(only(caplog, "on_disconnect"))
        assert first["remote_address"] == where
        app.on_connect(failing)
    async with serving(app) as here, await here.raw() as raw:
        await until(lambda: len(caplog.records) == 2)
        second = fields(only(caplog, "on_connect"))
        assert second["remote_address"] == address(raw)
        assert second["connection_id"] > first["connection_id"]


async def test_a_coroutine_of_a_socket_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    async def handle(socket: sockrpc.Socket) -> None:
        raise LookupError

    async with serving(handle) as here, await here.raw() as raw:
        await until(lambda: caplog.records)
        assert fields(only(caplog, "the coroutine of"))["remote_address"] == address(raw)


@pytest.mark.parametrize("why", ["process_request failed", "refused"])
async def test_an_opening_that_is_refused(why: str, caplog: pytest.LogCaptureFixture) -> None:
    def failing(socket: sockrpc.Socket, request: object) -> None:
        raise LookupError

    process_request: Any = failing if why == "process_request failed" else None
    async with serving(Work().app(), process_request=process_request) as here:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        host, port = writer.get_extra_info("sockname")
        writer.write(opening(Origin="http://elsewhere.example"))
        await reader.read()
        told = fields(only(caplog, why))
        assert told == {"connection_id": told["connection_id"], "remote_address": f"{host}:{port}"}
        writer.close()


async def test_a_handler_that_blocks_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    app = sockrpc.App()

    @app.method("block")
    def block(call: sockrpc.Call) -> None:
        # The other thread tells of it while it lasts.
        while not caplog.records:
            pass

    async with serving(app, blocked_warning=0.01) as here, await here.raw() as raw:
        await raw.send(request(9, "block"))
        await raw.answer()
        told = fields(next(each for each in caplog.records if "the event loop" in each.getMessage()))
        assert (told["request_id"], told["method"], told["remote_address"]) == (9, "block", address(raw))


async def test_a_connection_that_was_cut_is_still_told_by_its_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = sockrpc.App()

    @app.method("fail")
    async def fail(call: sockrpc.Call) -> None:
        call.on_abort(lambda: 1 / 0)
        await call.wait_reset()

    async with serving(app) as here:
        raw = await here.raw()
        where = address(raw)
        await raw.send(request(1, "fail"))
        await until(lambda: here.server.statistics().calls_running)
        cut(raw.writer)
        await until(lambda: here.server.statistics().calls_running == 0)
        assert fields(only(caplog, "an undo hook"))["remote_address"] == where
        await raw.close()


# Records that no connection stands behind, by what they say.
OF_THE_PROCESS = {
    "nobody watches for what blocks the event loop: %s",
    "refusing connections: %s%s",
    "%s: %d more of %r since its last line",
    "%s: more than %d within a minute; %d further ones were not named so far",
    "listening on %s",
    "the server at %s takes leave; connecting again",
    "stopping: %d calls and %d notifications have %g s to end; a second signal aborts them",
    "metrics are at %s",
    "NOTIFY_SOCKET %r could not be told %s: %s",
    "no filter for %r: %s",
    "%s has not ended after it was cancelled; it is left behind",
    "the on_stop hooks have not ended in time; they are cancelled",
    "the on_stop hook %s failed",
    "%d functions that run in threads of the event loop are left behind: %s",
    "this worker has not stopped, and its supervisor is gone; it kills itself",
    "connection to %s %s (%s: %s); connecting again in %.1f s",
}


def log_calls() -> Iterable[tuple[str, ast.Call]]:
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("debug", "info", "warning", "error", "exception", "critical")
                and "log" in ast.unparse(node.func.value).lower()
            ):
                yield f"{path.relative_to(SOURCE).as_posix()}:{node.lineno}", node


def test_every_record_says_whose_it_is() -> None:
    found = list(log_calls())
    assert len(found) >= 10
    for where, node in found:
        # The demo tells of itself, and a supervisor has no connections.
        if where.startswith(("demo/", "process/supervisor.py")):
            continue
        text = node.args[0]
        if isinstance(text, ast.Constant) and text.value in OF_THE_PROCESS:
            continue
        assert any(keyword.arg == "extra" for keyword in node.keywords), where


# JSON


def formatted(record: logging.LogRecord) -> dict[str, Any]:
    line = JSONFormatter().format(record)
    assert line.isascii()
    assert line.isprintable()
    written: dict[str, Any] = json.loads(line)
    return written


def record_of(message: str, *args: object, **extra: object) -> logging.LogRecord:
    logger = logging.getLogger("sockrpc.server")
    return logger.makeRecord("sockrpc.server", logging.ERROR, "file.py", 1, message, args, None, None, extra)


def test_a_record_is_one_object_of_one_line() -> None:
    written = formatted(record_of("call %d", 7, request_id=7, method="m"))
    assert list(written)[:5] == ["time", "level", "logger", "process", "message"]
    assert written["time"].endswith("+00:00")
    assert (written["level"], written["logger"], written["message"]) == ("ERROR", "sockrpc.server", "call 7")
    assert (written["request_id"], written["method"]) == (7, "m")


@pytest.mark.parametrize("name", ["a\nb", "a\r\nb", '"}', "\x1b[31m", "\u2028", "\ud800", "\0", "ü"])
def test_nothing_that_a_peer_sends_ends_the_line_or_the_object(name: str) -> None:
    written = formatted(record_of("method %s", name, method=name))
    assert written["method"] == name
    assert written["message"] == f"method {name}"


def test_an_exception_is_in_the_same_line() -> None:
    try:
        raise LookupError("first\nsecond")
    except LookupError:
        record = logging.getLogger("sockrpc").makeRecord("sockrpc", 40, "f", 1, "x", (), sys.exc_info())
    written = formatted(record)
    assert written["exception"].startswith("Traceback")
    assert "LookupError: first\nsecond" in written["exception"]


def test_what_json_does_not_know_is_told_as_text() -> None:
    circle: list[object] = []
    circle.append(circle)
    assert formatted(record_of("x", place=Path("a")))["place"] == "a"
    assert formatted(record_of("x", number=float("nan")))["number"] == "nan"
    assert formatted(record_of("x", table={(1, 2): 3}))["table"] == "{(1, 2): 3}"
    assert formatted(record_of("x", circle=circle))["circle"] == "[[...]]"


def test_extra_fields_do_not_replace_the_own_ones() -> None:
    assert formatted(record_of("text", level="low", time="never"))["level"] == "ERROR"


APP = """
import sockrpc

app = sockrpc.App()

@app.method("fail")
def fail(call):
    raise LookupError("first\\nsecond")
"""


@POSIX
def test_serve_logs_json_when_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "failing_app.py").write_text(APP)
    with Served("serve", "failing_app:app", "--log-format", "json", cwd=tmp_path) as served:
        done = run_command("call", served.uri, "fail", "--timeout", "0.2")
        assert done.returncode == 3
        run_command("call", served.uri, 'a\n{"level": "forged"}', "--timeout", "0.2")
        served.wait_log("nobody registered")
        served.interrupt()
        assert served.end() == 0
    records = [json.loads(line) for line in served.log]
    (failed,) = (each for each in records if "exception" in each)
    assert (failed["method"], failed["level"]) == ("fail", "ERROR")
    assert failed["connection_id"] > 0
    (unknown,) = (each for each in records if "nobody registered" in each["message"])
    assert unknown["method"] == 'a\n{"level": "forged"}'
    assert {each["level"] for each in records} == {"INFO", "WARNING", "ERROR"}
    assert any(each["message"].startswith("listening on") for each in records)


@POSIX
def test_serve_logs_text_otherwise() -> None:
    with Served("demo") as served:
        served.wait_log("INFO sockrpc.server: listening on")
