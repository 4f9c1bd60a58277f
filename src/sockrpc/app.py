"""Handlers by name, and the hooks of an application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar, overload

from sockrpc._frames import encode
from sockrpc.errors import UsageError
from sockrpc.limits import check_seconds
from sockrpc.listen.server_hooks import ServerHook, check_hook
from sockrpc.peer.around import AroundHook, surround
from sockrpc.peer.call import Call
from sockrpc.peer.handler import Handler, is_async_generator_function, is_coroutine_function
from sockrpc.peer.hooks import Hooks
from sockrpc.peer.names import NameTable
from sockrpc.peer.notification import Notification
from sockrpc.peer.signatures import STREAM, STREAM_IN_THREAD, check_function
from sockrpc.peer.tracked import Tracked
from sockrpc.sockets import Socket

__all__ = ["App", "MethodHandler", "NotificationHandler", "Payload"]

Payload = str | bytes | bytearray | memoryview

# Other awaitables do not do: only a coroutine can run in a task of the call's own, and so be aborted.
MethodHandler = Callable[
    [Call],
    Coroutine[Any, Any, Payload | None]
    | Payload
    | AsyncIterator[Payload | Tracked]
    | Iterator[Payload | Tracked]
    | None,
]
NotificationHandler = Callable[[Notification], Coroutine[Any, Any, object] | object]
SocketHook = Callable[[Socket], Awaitable[None] | None]

M = TypeVar("M", bound=MethodHandler)
N = TypeVar("N", bound=Callable[[Notification], Any])
A = TypeVar("A", bound=Callable[..., Coroutine[Any, Any, Any]])
H = TypeVar("H", bound=Callable[[Socket], Any])
S = TypeVar("S", bound=Callable[[], Any])


class App:
    """The procedures and hooks of a server.

    Several servers may serve one app at once. Handlers registered after a server has begun apply to
    servers that begin later.
    """

    def __init__(self) -> None:
        self._methods: dict[str, Handler] = {}
        self._events: dict[str, Handler] = {}
        self._around: list[AroundHook] = []
        self._on_connect: list[SocketHook] = []
        self._on_disconnect: list[SocketHook] = []
        self._on_start: list[ServerHook] = []
        self._on_stop: list[ServerHook] = []

    @overload
    def method(self, name: M, /) -> M: ...

    @overload
    def method(
        self,
        name: str | None = None,
        *,
        timeout: float | None = None,
        run_to_completion: bool = False,
        thread: bool = False,
        credit_timeout: float | None = None,
    ) -> Callable[[M], M]: ...

    def method(
        self,
        name: str | M | None = None,
        *,
        timeout: float | None = None,
        run_to_completion: bool = False,
        thread: bool = False,
        credit_timeout: float | None = None,
    ) -> M | Callable[[M], M]:
        """Register the decorated function as the handler of a method.

        A coroutine function runs in a task of its own, which a reset, the loss of the connection or a
        stopping server cancels at its next `await`. A plain function runs inline, for work that never
        waits; with `thread=True` it runs in a worker thread, which polls `call.is_reset` or
        `call.raise_if_reset()`. An async generator function is a stream towards the caller (v1), as is a
        plain generator function with `thread=True`: an abort is raised in it at `yield`, and the caller
        hears of the end when it is closed.

        Args:
            name: The method's name; the function's own by default.
            timeout: Seconds after which the work is aborted.
            run_to_completion: Resets and losses do not abort the work; its answer is dropped.
            thread: Run a plain function in a worker thread.
            credit_timeout: Seconds that the handler may wait for the caller to take items, instead of the
                server's own limit; then the call fails with RESOURCE_EXHAUSTED.

        Raises:
            UsageError: The name is taken or too long, the options do not fit the function, or it cannot
                take one argument or is a plain generator without a thread.
        """
        if callable(name):
            return self.method()(name)
        chosen = name

        def register(function: M) -> M:
            found = checked_name(function, chosen, "method", stream=STREAM_IN_THREAD if thread else STREAM)
            coroutine = is_coroutine_function(function) or is_async_generator_function(function)
            if thread and coroutine:
                raise UsageError("thread=True is for plain functions; a coroutine function runs on the loop")
            if timeout is not None:
                if not coroutine and not thread:
                    raise UsageError("a plain function runs inline and cannot be interrupted by a timeout")
                check_seconds("timeout", timeout)
            if credit_timeout is not None:
                check_seconds("credit_timeout", credit_timeout)
            handler = Handler(
                found,
                function,
                timeout=timeout or 0.0,
                run_to_completion=run_to_completion,
                thread=thread,
                credit_timeout=credit_timeout or 0.0,
            )
            add(self._methods, handler, "method")
            return function

        return register

    @overload
    def on(self, name: N, /) -> N: ...

    @overload
    def on(self, name: str | None = None) -> Callable[[N], N]: ...

    def on(self, name: str | N | None = None) -> N | Callable[[N], N]:
        """Register the decorated function, plain or coroutine, as the handler of an event.

        Losing the connection does not abort it: the client is not waiting. The end of the stop grace
        does.

        Args:
            name: The event's name; the function's own by default.

        Raises:
            UsageError: The name is taken or too long, or the function cannot take one argument or is a
                generator.
        """
        if callable(name):
            return self.on()(name)
        chosen = name

        def register(function: N) -> N:
            add(self._events, Handler(checked_name(function, chosen, "event"), function), "event")
            return function

        return register

    def around(self, function: A) -> A:
        """Register a coroutine function that runs around the handler of every call, for tracing and the like.

            @app.around
            async def trace(call, proceed):
                with span(call.method):
                    return await proceed()

        Hooks run outermost first, in order of registration, in the task of their call: an abort reaches
        them like the handler. What one returns is the answer, and what it raises is what the handler would
        have raised; one that does not await `proceed` keeps the handler from running. With a hook, plain
        functions run in a task too.

        Raises:
            UsageError: It is no coroutine function, or cannot take two arguments.
        """
        check_function(function, "the around hook", 2)
        if not is_coroutine_function(function):
            raise UsageError("an around hook is a coroutine function")
        self._around.append(function)
        return function

    def on_connect(self, function: H) -> H:
        """Register a hook that takes each new socket, before any handler of that socket starts.

        If it raises, the connection is closed with 1011 and `on_disconnect` is skipped. If the
        connection is lost meanwhile, it is cancelled and `on_disconnect` is skipped as well.

        Raises:
            UsageError: It cannot take one argument, or it is a generator.
        """
        check_function(function, "the on_connect hook")
        self._on_connect.append(function)
        return function

    def on_disconnect(self, function: H) -> H:
        """Register a hook that takes each socket whose connection has ended.

        It starts once, in the iteration in which the calls were cancelled and the rooms left; it does
        not wait for them to unwind.

        Raises:
            UsageError: It cannot take one argument, or it is a generator.
        """
        check_function(function, "the on_disconnect hook")
        self._on_disconnect.append(function)
        return function

    def on_start(self, function: S) -> S:
        """Register a hook, plain or coroutine, that takes nothing and runs before a server listens.

        Hooks run one after another, in order of registration, in the loop of the server, and in every worker
        if there are several. An exception in one fails the start, and no `on_stop` hook runs.
        Cancelling the start cancels the hook.

        Raises:
            UsageError: It cannot be called without arguments, or it is a generator.
        """
        check_hook(function, "the on_start hook")
        self._on_start.append(function)
        return function

    def on_stop(self, function: S) -> S:
        """Register a hook, plain or coroutine, that takes nothing and runs when a server has stopped.

        It runs once all work of the server has ended or was left behind, if every `on_start` hook has
        finished; the last registered runs first. All hooks together have `abort_grace` seconds and are then
        cancelled. An exception in one is logged and does not stop the next.

        Raises:
            UsageError: It cannot be called without arguments, or it is a generator.
        """
        check_hook(function, "the on_stop hook")
        self._on_stop.append(function)
        return function

    def _tables(self) -> tuple[NameTable, NameTable]:
        """Return handlers of methods and of events, by their names in UTF-8."""
        return (
            NameTable(
                {
                    name.encode(): surround(self._around, handler) if self._around else handler.copy()
                    for name, handler in self._methods.items()
                }
            ),
            NameTable({name.encode(): handler for name, handler in self._events.items()}),
        )

    def _hooks(self) -> Hooks:
        return Hooks(list(self._on_connect), list(self._on_disconnect))


def checked_name(function: Callable[..., Any], name: str | None, what: str, *, stream: int = 0) -> str:
    """Check a handler, and return its name: the given one, or the function's own."""
    if name is None:
        name = getattr(function, "__name__", None)
        if not isinstance(name, str):
            raise UsageError(f"{function!r} has no name; give one to the decorator")
    encode(name, b"")
    check_function(function, f"the handler of {what} {name!r}", stream=stream)
    # Convert members of a string enumeration to a plain str.
    return str.__str__(name)


def add(table: dict[str, Handler], handler: Handler, what: str) -> None:
    """Register a handler under a name that must be free."""
    if handler.name in table:
        raise UsageError(f"{what} {handler.name!r} is registered twice")
    table[handler.name] = handler
