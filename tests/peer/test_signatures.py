"""What can be registered: functions that take what they will be given, and no generators."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest

import sockrpc
import sockrpc.testing
from tests.kit.support import serving

Function = Callable[..., Any]


def lines(call: object) -> Iterator[bytes]:
    yield b"a"
    yield b"b"


async def tokens(call: object) -> AsyncIterator[bytes]:
    yield b"a"


def two_lines(first: object, call: object) -> Iterator[bytes]:
    yield b"a"


class Lines:
    def __call__(self, call: object) -> Iterator[bytes]:
        yield b"a"

    def method(self, call: object) -> Iterator[bytes]:
        yield b"a"


class Tokens:
    async def __call__(self, call: object) -> AsyncIterator[bytes]:
        yield b"a"


def logged(function: Function) -> Function:
    """A plain decorator, which passes on whatever it wraps returns."""

    @functools.wraps(function)
    def wrapper(*args: object) -> object:
        return function(*args)

    return wrapper


def again(function: Function) -> Function:
    @functools.wraps(function)
    def wrapper(call: object) -> Iterator[bytes]:
        yield from function(call)

    return wrapper


GENERATORS: dict[str, Function] = {
    "a generator": lines,
    "an asynchronous generator": tokens,
    "a lambda that yields": lambda call: (yield b"a"),
    "a partial": partial(two_lines, 1),
    "an object": Lines(),
    "an asynchronous object": Tokens(),
    "a partial of an object": partial(Lines()),
    "a method": Lines().method,
    "a wrapper": logged(lines),
    "a wrapper that yields": again(lines),
    "a wrapper of a wrapper": logged(logged(tokens)),
    "a wrapper of a partial": logged(partial(two_lines, 1)),
    "a partial of a wrapper": partial(logged(two_lines), 1),
    "a wrapper of an object": logged(Lines()),
    "a context manager": contextlib.contextmanager(lines),
    "a cache": functools.lru_cache(lines),
}


# Those that are iterated over as the handler of a method, on the loop and in a thread.
STREAMS = {"an asynchronous generator", "an asynchronous object"}
STREAMS_IN_THREADS = {
    "a generator",
    "a lambda that yields",
    "a partial",
    "an object",
    "a method",
    "a wrapper that yields",
}


@pytest.mark.parametrize("what", GENERATORS)
def test_a_generator_is_refused_where_nobody_would_iterate_over_it(what: str) -> None:
    app = sockrpc.App()
    function = GENERATORS[what]
    on_loop: list[Callable[[], object]] = [
        lambda: app.method("name")(function),
        lambda: app.method("name", timeout=1)(function),
    ]
    in_thread: list[Callable[[], object]] = [lambda: app.method("name", thread=True)(function)]
    elsewhere: list[Callable[[], object]] = [
        lambda: app.on("name")(function),
        lambda: app.on_connect(function),
        lambda: app.on_disconnect(function),
    ]
    refused = elsewhere
    refused += [] if what in STREAMS else on_loop
    refused += [] if what in STREAMS_IN_THREADS else in_thread
    for way in refused:
        with pytest.raises(sockrpc.UsageError, match="generator, or wraps one"):
            way()
    # The names are free.
    app.method("name")(function if what in STREAMS else lambda call: call.payload)
    app.method("name in a thread", thread=True)(
        function if what in STREAMS_IN_THREADS else lambda call: call.payload
    )
    app.on("name")(lambda notification: None)
    with pytest.raises(sockrpc.UsageError):
        sockrpc.serve(function, "127.0.0.1", 0)
    with pytest.raises(sockrpc.UsageError, match="process_request is a generator"):
        sockrpc.serve(app, "127.0.0.1", 0, process_request=function)


def test_the_refusal_names_the_handler_and_what_to_do() -> None:
    with pytest.raises(sockrpc.UsageError, match=r"method 'lines' is a generator.* with thread=True"):
        sockrpc.App().method(lines)


async def test_a_coroutine_function_that_works_through_a_generator_may_wrap_it() -> None:
    app = sockrpc.App()

    @app.method("joined")
    @functools.wraps(tokens)
    async def joined(call: sockrpc.Call) -> bytes:
        return b"".join([each async for each in tokens(call)])

    @app.method("plain")
    def plain(call: sockrpc.Call) -> bytes:
        return b"".join(lines(call))

    async with serving(app) as here, here.connect() as client:
        assert await client.call("joined") == b"a"
        assert await client.call("plain") == b"ab"


def test_a_wrapper_that_wraps_itself_is_believed() -> None:
    def strange(call: sockrpc.Call) -> bytes:
        return b""

    strange.__wrapped__ = strange  # type: ignore[attr-defined]
    sockrpc.App().method(strange)


def with_session(function: Callable[[sockrpc.Call, str], Awaitable[str]]) -> Function:
    """A decorator that gives more than it takes."""

    @functools.wraps(function)
    async def wrapper(call: sockrpc.Call) -> str:
        return await function(call, "session")

    return wrapper


async def test_a_wrapper_is_judged_by_the_arguments_that_it_takes_itself() -> None:
    app = sockrpc.App()

    @app.method
    @with_session
    async def show(call: sockrpc.Call, session: str) -> str:
        return f"{call.text} in {session}"

    @app.on_connect
    @with_session
    async def connected(socket: Any, session: str) -> str:
        socket.state.session = session
        return ""

    app.method("state")(lambda call: call.socket.state.session)
    async with serving(app) as here, here.connect() as client:
        assert await client.call("show", "this") == b"this in session"
        assert await client.call("state") == b"session"

    def inner(call: sockrpc.Call) -> bytes:
        return b""

    @functools.wraps(inner)
    def takes_two(call: sockrpc.Call, more: object) -> bytes:
        return inner(call)

    for wrong in (takes_two, functools.wraps(inner)(lambda: b"")):
        with pytest.raises(sockrpc.UsageError, match="has to take one argument"):
            app.method("wrong")(wrong)


async def test_hooks_that_can_not_take_the_socket_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    app = sockrpc.App()
    wrongs: list[Any] = [lambda: None, lambda socket, more: None]
    for wrong in wrongs:
        with pytest.raises(sockrpc.UsageError, match="on_connect hook has to take one argument"):
            app.on_connect(wrong)
        with pytest.raises(sockrpc.UsageError, match="on_disconnect hook has to take one argument"):
            app.on_disconnect(wrong)
    for register in (app.on_connect, app.on_disconnect):
        with pytest.raises(sockrpc.UsageError, match="not callable"):
            register("function")  # type: ignore[type-var]
    # None of them is run.
    async with sockrpc.testing.connect(app) as client:
        await client.notify("event")
        await client.settle()
    assert caplog.records == []


def test_serve_refuses_functions_that_can_not_take_what_they_will_be_given() -> None:
    async def two(socket: sockrpc.Socket, more: object) -> None: ...

    async def none() -> None: ...

    wrongs: list[Any] = [two, none]
    for wrong in wrongs:
        with pytest.raises(sockrpc.UsageError, match="the coroutine function has to take one argument"):
            sockrpc.serve(wrong, "127.0.0.1", 0)
    hooks: list[Any] = [lambda request: None, lambda socket, request, more: None]
    for hook in hooks:
        with pytest.raises(sockrpc.UsageError, match="process_request has to take two arguments"):
            sockrpc.serve(sockrpc.App(), "127.0.0.1", 0, process_request=hook)
    with pytest.raises(sockrpc.UsageError, match="process_request is not callable"):
        sockrpc.serve(sockrpc.App(), "127.0.0.1", 0, process_request="hook")  # type: ignore[arg-type]
