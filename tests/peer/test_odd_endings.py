"""Handlers and hooks that end in odd ways: that fails their call or connection, and nothing else notices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import sockrpc
from tests.kit.http_peer import ask
from tests.kit.support import V0, opening, request, serving, until


class Custom(BaseException):
    """An exception that `except Exception` does not catch."""


def proxy(error: type[BaseException]) -> Callable[[], object]:
    """Makes what raises when it is looked at, as werkzeug's LocalProxy does outside of a request."""

    class Proxy:
        @property
        def __class__(self) -> Any:
            raise error("working outside of request context")

    return Proxy


class OddBytes(bytes):
    def __bytes__(self) -> bytes:
        raise RuntimeError("no bytes")


def released() -> memoryview:
    view = memoryview(b"abc")
    view.release()
    return view


RESULTS: dict[str, Callable[[], Any]] = {
    "a proxy": proxy(RuntimeError),
    "an odd proxy": proxy(Custom),
    "a proxy that is cancelled": proxy(asyncio.CancelledError),
    "odd bytes": lambda: OddBytes(b"x"),
    "a released view": released,
    "a surrogate": lambda: "\udc80",
    "a future": lambda: asyncio.get_running_loop().create_future(),
    "a number": lambda: 5,
}
EXCEPTIONS: list[type[BaseException]] = [
    Custom,
    GeneratorExit,
    StopIteration,
    StopAsyncIteration,
    asyncio.CancelledError,
]
KINDS = ["plain", "coroutine", "suspending", "thread"]


def ending(end: Callable[[], Any], kind: str) -> Callable[[Any], Any]:
    def plain(_: Any) -> Any:
        return end()

    async def coroutine(_: Any) -> Any:
        return end()

    async def suspending(_: Any) -> Any:
        await asyncio.sleep(0)
        return end()

    return {"coroutine": coroutine, "suspending": suspending}.get(kind, plain)


def raising(error: type[BaseException]) -> Callable[[], Any]:
    def end() -> Any:
        raise error

    return end


ENDS = {**RESULTS, **{each.__name__: raising(each) for each in EXCEPTIONS}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ENDS)
async def test_a_handler_that_ends_oddly_fails_its_call_alone(
    how: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    if how == "a future" and kind == "thread":
        pytest.skip("a thread has no running loop to make one of")
    app = sockrpc.App()
    gate = asyncio.Event()
    app.method("odd", thread=kind == "thread")(ending(ENDS[how], kind))

    @app.method
    async def other(call: sockrpc.Call) -> str:
        await gate.wait()
        return "alive"

    async with serving(app) as here, await here.raw() as raw:
        await raw.send(request(1, "other"), request(2, "odd"))
        await until(lambda: here.server.statistics().calls_failed == 1)
        gate.set()
        assert await raw.answer() == (1, b"alive")
        statistics = here.server.statistics()
        assert (statistics.calls_in_flight, statistics.calls_running) == (0, 0)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "'odd'" in caplog.text


@pytest.mark.parametrize("kind", ["plain", "coroutine", "suspending"])
@pytest.mark.parametrize("error", [Custom, GeneratorExit])
async def test_a_handler_of_notifications_that_ends_oddly_is_counted(
    error: type[BaseException], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = sockrpc.App()
    app.on("odd")(ending(raising(error), kind))
    app.method("echo")(lambda call: call.payload)
    async with serving(app) as here, here.connect() as client:
        await client.notify("odd")
        await until(lambda: here.server.statistics().notifications_failed == 1)
        assert await client.call("echo", b"x") == b"x"
        assert here.server.statistics().notifications_running == 0


@pytest.mark.parametrize("kind", ["plain", "coroutine", "suspending"])
async def test_what_a_handler_of_notifications_returns_is_nothing_to_look_at(kind: str) -> None:
    app = sockrpc.App()
    app.on("odd")(ending(proxy(Custom), kind))
    app.method("echo")(lambda call: call.payload)
    async with serving(app) as here, here.connect() as client:
        await client.notify("odd")
        assert await client.call("echo", b"x") == b"x"
        await until(lambda: here.server.statistics().notifications_running == 0)
        assert here.server.statistics().notifications_failed == 0


@pytest.mark.parametrize("kind", ["plain", "coroutine", "suspending"])
@pytest.mark.parametrize("error", [RuntimeError, Custom, GeneratorExit, asyncio.CancelledError])
async def test_a_process_request_whose_answer_can_not_be_looked_at_has_failed(
    error: type[BaseException], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    hook = ending(proxy(error), kind)
    async with serving(sockrpc.App(), process_request=lambda socket, request: hook(socket)) as here:
        assert (await ask(here.port, opening())).status == 500
    assert [record.getMessage() for record in caplog.records] == ["process_request failed"]


@pytest.mark.parametrize("error", [RuntimeError, Custom, GeneratorExit, asyncio.CancelledError])
async def test_a_hook_whose_result_can_not_be_looked_at_closes_its_connection_with_1011(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    app = sockrpc.App()
    app.on_connect(ending(proxy(error), "plain"))
    async with serving(app) as here, await here.raw() as raw:
        assert await raw.closing() == (1011, "on_connect failed")
    assert "on_connect" in caplog.text


@pytest.mark.parametrize("kind", ["plain", "coroutine", "suspending"])
@pytest.mark.parametrize("error", [Custom, GeneratorExit, asyncio.CancelledError])
async def test_a_hook_that_ends_oddly_closes_its_connection_with_1011(
    error: type[BaseException], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = sockrpc.App()
    app.on_connect(ending(raising(error), kind))
    async with serving(app) as here, await here.raw() as raw:
        assert await raw.closing() == (1011, "on_connect failed")
    assert "on_connect" in caplog.text


@pytest.mark.parametrize("kind", ["plain", "coroutine", "suspending"])
@pytest.mark.parametrize("error", [Custom, GeneratorExit, asyncio.CancelledError])
async def test_a_hook_of_the_end_that_ends_oddly_is_logged(
    error: type[BaseException], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = sockrpc.App()
    app.on_disconnect(ending(raising(error), kind))
    async with serving(app) as here:
        async with here.connect():
            pass
        await until(lambda: "on_disconnect" in caplog.text)


@pytest.mark.parametrize("error", [Custom, GeneratorExit])
async def test_an_undo_hook_that_ends_oddly_does_not_stop_the_next(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    app = sockrpc.App()
    undone: list[str] = []

    @app.method
    async def work(call: sockrpc.Call) -> None:
        call.on_abort(undone.append, "first")
        call.on_abort(raising(error))
        await asyncio.Event().wait()

    async with serving(app) as here, here.connect() as client:
        with pytest.raises(TimeoutError):
            await client.call("work", timeout=0.01)
        await until(lambda: undone == ["first"])
        await until(lambda: here.server.statistics().calls_running == 0)
    assert "undo hook" in caplog.text


def some_have_failed() -> ExceptionGroup:
    return ExceptionGroup("some", [ValueError()])


@pytest.mark.parametrize("error", [Custom, GeneratorExit, some_have_failed])
async def test_a_coroutine_of_a_socket_that_ends_oddly_closes_it_with_1011(
    error: Callable[[], BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(socket: sockrpc.Socket) -> None:
        raise error()

    async with serving(handle) as here, await here.raw() as raw:
        assert await raw.closing() == (1011, "internal error")
    assert "the coroutine of" in caplog.text


async def test_none_after_abort_on_reset_is_an_empty_answer_as_after_any_other_await() -> None:
    app = sockrpc.App()

    @app.method
    async def work(call: sockrpc.Call) -> None:
        await call.abort_on_reset(asyncio.sleep(0))

    async with serving(app) as here, here.connect() as client:
        assert await client.call("work", timeout=5) == b""


@pytest.mark.parametrize("waits", ["abort_on_reset", "wait_reset"])
async def test_a_timeout_around_what_takes_the_abort_back_is_not_misled(waits: str) -> None:
    app = sockrpc.App()
    seen: list[Any] = []

    @app.method
    async def work(call: sockrpc.Call) -> None:
        task = asyncio.current_task()
        assert task is not None
        async with asyncio.timeout(60):
            if waits == "wait_reset":
                await call.wait_reset()
            else:
                seen.append(await call.abort_on_reset(asyncio.sleep(60)))
        seen.append((call.abort_reason, task.cancelling()))
        await asyncio.sleep(0)
        seen.append("went on")

    # In v1 the time-out would travel, and so be the reason of the abort.
    async with serving(app) as here, here.connect(protocols=V0) as client:
        with pytest.raises(TimeoutError):
            await client.call("work", timeout=0.01)
        await until(lambda: here.server.statistics().calls_running == 0)
    assert seen == [*([None] if waits == "abort_on_reset" else []), ("reset", 0), "went on"]
