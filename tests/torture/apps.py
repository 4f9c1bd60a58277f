"""The applications that are tortured, an App and a function of one socket: they do what peers ask for."""

from __future__ import annotations

import asyncio
import http
import inspect
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Any

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

import sockrpc
from tests.torture.acts import VISITOR, Act, Custom, World

# Registered methods, with what their options are.
METHODS: dict[str, dict[str, Any]] = {
    "inline": {},
    "coroutine": {},
    "complete": {"run_to_completion": True},
    "timed": {"timeout": 0.01},
    "complete_timed": {"timeout": 0.01, "run_to_completion": True},
    "thread": {"thread": True},
    "thread_timed": {"thread": True, "timeout": 0.01},
    "thread_complete": {"thread": True, "run_to_completion": True},
}
PLAIN = {"inline", "thread", "thread_timed", "thread_complete"}
# What the end of its own time may take the answer from.
TIMED = {"timed", "complete_timed", "thread_timed"}


def wish(socket: sockrpc.Socket, name: str) -> str:
    """What the peer wants of the hook of that name, from the query of its path."""
    if socket.request is None:
        return ""
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(socket.request.path).query)
    return query.get(name, [""])[0]


def make_app(world: World, *, hooks: bool) -> sockrpc.App:
    app = sockrpc.App()

    def method(name: str, options: dict[str, Any]) -> None:
        def plain(call: sockrpc.Call) -> Any:
            return Act(world, call, call.payload).run()

        async def coroutine(call: sockrpc.Call) -> Any:
            return await Act(world, call, call.payload).run_async()

        app.method(name, **options)(plain if name in PLAIN else coroutine)

    for name, options in METHODS.items():
        method(name, options)

    @app.method
    def echo(call: sockrpc.Call) -> bytes:
        return call.payload

    @app.on
    def event(notification: sockrpc.Notification) -> object:
        return Act(world, notification, notification.payload).run()

    @app.on
    async def waiting_event(notification: sockrpc.Notification) -> object:
        return await Act(world, notification, notification.payload).run_async()

    if hooks:

        @app.on_connect
        async def connected(socket: sockrpc.Socket) -> None:
            socket.state.visitor = f"visitor of {id(socket)}"
            VISITOR.set(socket.state.visitor)
            await hook(world, socket, "oc")

        @app.on_connect
        def connected_too(socket: sockrpc.Socket) -> None:
            Act(world, socket, b"-hook2-- " + wish(socket, "oc2").encode()).run()

        @app.on_disconnect
        async def disconnected(socket: sockrpc.Socket) -> None:
            await hook(world, socket, "od")

    return app


async def hook(world: World, socket: sockrpc.Socket, name: str) -> None:
    act = Act(world, socket, b"-" + name.encode().ljust(7, b"-") + b" " + wish(socket, name).encode())
    for op, argument in act.program:
        await act.then(op, argument)


def process_request(
    world: World,
) -> Callable[[sockrpc.Socket, Request], Awaitable[Response | None] | Response | None]:
    """Refuses, waits, fails, and does odd things to a socket that is not open yet."""

    async def later(socket: sockrpc.Socket) -> Response | None:
        await hook(world, socket, "pr")
        return None

    def decide(socket: sockrpc.Socket, request: Request) -> Awaitable[Response | None] | Response | None:
        wanted = wish(socket, "pr")
        if wanted == "refuse":
            return Response(403, "Forbidden", Headers({"Content-Length": "0"}), b"")
        if wanted == "odd":
            return http.HTTPStatus.OK  # type: ignore[return-value]
        if wanted == "break" and not world.tame:
            raise Custom
        return later(socket) if wanted else None

    return decide


def make_form(world: World) -> Callable[[sockrpc.Socket], Awaitable[None]]:
    """The socket form; the path says how it takes: takers, slowness, when it returns or raises."""

    async def handle(socket: sockrpc.Socket) -> None:
        style = wish(socket, "form")
        act = Act(world, socket, b"--form-- " + wish(socket, "oc").encode())
        for op, argument in act.program:
            await act.then(op, argument)
        takers = 1 + style.count("t")
        if takers == 1:
            await take(socket, style)
        else:
            async with asyncio.TaskGroup() as group:
                for _ in range(takers):
                    group.create_task(take(socket, style))

    async def take(socket: sockrpc.Socket, style: str) -> None:
        left = 5 if "r" in style or "x" in style else -1
        while True:
            try:
                async with asyncio.timeout(0.002 if "c" in style else None):
                    procedure = await anext(socket)
            except TimeoutError:
                continue
            except StopAsyncIteration:
                return
            if "s" in style:
                await asyncio.sleep(0.001)
            await serve_one(world, procedure, style)
            left -= 1
            if left == 0:
                if "x" in style:
                    raise ValueError if world.tame else Custom
                return
            del procedure

    return handle


async def serve_one(world: World, procedure: Any, style: str) -> None:
    act = Act(world, procedure, procedure.payload)
    if isinstance(procedure, sockrpc.Notification):
        if procedure.event == "waiting_event" and "s" not in style:
            world.spawn(quietly(act.run_async()))
        else:
            await quietly(asyncio.sleep(0))
        return
    if procedure.method == "echo":
        await procedure.respond(procedure.payload)
    elif procedure.method == "inline":
        await answer(procedure, act.run)
    elif "d" in style and procedure.method == "timed":
        # Dropped without an answer.
        return
    else:
        try:
            procedure.spawn_and_abort_on_reset(answer(procedure, act.run_async))
        except sockrpc.UsageError:
            world.fault("a call that was just taken is over", procedure.payload)


async def quietly(coroutine: Awaitable[Any]) -> None:
    try:
        await coroutine
    except (Exception, Custom, GeneratorExit):
        return


async def answer(call: sockrpc.Call, work: Callable[[], Any]) -> None:
    value = work()
    if inspect.iscoroutine(value):
        value = await value
    try:
        await call.respond(b"" if value is None else value)
    except (sockrpc.UsageError, TypeError, ValueError, RuntimeError):
        return
