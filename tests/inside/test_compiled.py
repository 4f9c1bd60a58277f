"""What compiled classes are: closed, small, not to be broken from Python, and collected."""

from __future__ import annotations

import asyncio
import gc
import importlib
import pkgutil
import subprocess
import sys
import types
import weakref
from importlib.machinery import EXTENSION_SUFFIXES
from typing import Any

import pytest

import sockrpc
from sockrpc._settings import Settings
from sockrpc.limits import Limits
from sockrpc.peer.handler import Handler
from sockrpc.peer.names import NameTable
from sockrpc.peer.peer import Peer
from sockrpc.testing.wire import Table
from sockrpc.websocket.messages import MessageProtocol
from sockrpc.websocket.parser import Parser
from tests.kit.support import serving, started, until

# Flags of types: include/object.h of CPython.
TPFLAGS_MANAGED_DICT = 1 << 4
TPFLAGS_BASETYPE = 1 << 10


FOLDERS = [f"sockrpc.{name}." for name in ("websocket", "peer", "process", "testing")]


def compiled_modules() -> list[types.ModuleType]:
    modules = [
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages(sockrpc.__path__, "sockrpc.")
        if found.name.startswith((*FOLDERS, "sockrpc._")) and found.name != "sockrpc.__main__"
    ]
    return [each for each in modules if each.__file__ and each.__file__.endswith(tuple(EXTENSION_SUFFIXES))]


def compiled_classes() -> list[type]:
    """The compiled classes; not those that are tuples with names."""
    return [
        each
        for module in compiled_modules()
        for each in vars(module).values()
        if isinstance(each, type)
        and each.__module__ == module.__name__
        and not issubclass(each, tuple)
        and not issubclass(each, asyncio.BufferedProtocol)
    ]


# Open for subclasses, each with a reason; all others are final.
OPEN = {
    "Entry",  # of the request table: Call and OutgoingCall are entries
    "Procedure",
    "Member",  # of a loop: connections are
    "Output",
    "Input",
    "Connection",
    "Session",
    "Alarms",
    "Caller",
    "Replies",
    "Host",
    "Gate",
    "Arrivals",
    "PeerBase",  # joined with asyncio.BufferedProtocol in Peer
    "Work",
    "Spawning",
    "Streaming",
    "MessageConnection",
}


def test_there_are_compiled_classes() -> None:
    names = {each.__name__ for each in compiled_classes()}
    assert len(compiled_modules()) >= 11
    assert names >= {"Call", "Notification", "Parser", "RequestTable", "NameTable", "LoopContext"} | OPEN


@pytest.mark.parametrize("kind", [*compiled_classes(), Peer, MessageProtocol], ids=lambda c: c.__name__)
def test_instances_have_no_dict(kind: type) -> None:
    assert kind.__dictoffset__ == 0
    assert not kind.__flags__ & TPFLAGS_MANAGED_DICT


@pytest.mark.parametrize("kind", compiled_classes(), ids=lambda c: c.__name__)
def test_only_what_must_be_is_open_for_subclasses(kind: type) -> None:
    assert bool(kind.__flags__ & TPFLAGS_BASETYPE) == (kind.__name__ in OPEN)
    if kind.__name__ not in OPEN:
        with pytest.raises(TypeError, match="not an acceptable base type"):
            type("Subclass", (kind,), {})


def is_closed(instance: object) -> bool:
    if hasattr(instance, "__dict__"):
        return False
    try:
        instance.no_such_attribute = 1  # type: ignore[attr-defined]
    except AttributeError:
        return True
    return False


def test_instances_made_by_hand_take_no_attributes() -> None:
    table = Table()
    entry = table.new()
    for instance in (
        table,
        entry,
        NameTable(),
        Parser("server"),
        Settings(Limits()),
        Handler("name", lambda call: b""),
    ):
        assert is_closed(instance), instance


async def test_instances_at_work_take_no_attributes() -> None:
    app = sockrpc.App()
    seen: list[object] = []
    may_end = asyncio.Event()

    @app.method("call")
    async def call(call: sockrpc.Call) -> None:
        connection = call.socket._connection
        seen.extend([call, call.socket, connection, connection.service, connection.service.context])
        await may_end.wait()

    @app.on("event")
    def event(notification: sockrpc.Notification) -> None:
        seen.append(notification)

    async with serving(app) as here, here.connect() as client:
        await client.notify("event")
        waiting = await started(client.call("call"))
        await until(lambda: len(seen) == 6)
        pending = client._connection.request(b"call", b"")
        listener = client.on("event")
        seen.extend([client._connection, pending, listener._subscription])
        for instance in seen:
            assert is_closed(instance), instance
        client._connection.abandon(pending)
        may_end.set()
        await waiting
        seen.clear()
        del pending, listener


def test_a_call_is_small() -> None:
    # The garbage collector's header included. A connection may hold 16,384 that wait.
    assert sys.getsizeof(sockrpc.Call.__new__(sockrpc.Call)) <= 300
    assert sys.getsizeof(sockrpc.Notification.__new__(sockrpc.Notification)) <= 200


MISUSE = """
import asyncio, inspect, sys, warnings
import sockrpc

warnings.simplefilter("ignore")
kind = getattr(sockrpc, sys.argv[1])

async def nothing():
    pass

async def misuse(made, name):
    for arguments in ((), (b"",), (nothing(),), (print,)):
        print(name, arguments, flush=True)
        value = getattr(made, name)
        if not callable(value):
            return
        try:
            async with asyncio.timeout(1):
                result = value(*arguments)
                if inspect.isawaitable(result):
                    await result
        except BaseException as error:
            print(repr(error), flush=True)

for how in (lambda: kind(), lambda: kind.__new__(kind), lambda: object.__new__(kind)):
    try:
        made = how()
    except TypeError:
        continue
    for name in sorted(dir(kind)):
        if not name.startswith("_") or name in ("__repr__", "__del__"):
            try:
                asyncio.run(misuse(made, name))
            except Exception as error:
                print(repr(error), flush=True)
    del made
print("alive")
"""


@pytest.mark.parametrize("name", ["Call", "Notification"])
def test_a_public_class_that_is_made_by_hand_does_not_crash_the_interpreter(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MISUSE, name], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, f"exit code {done.returncode} after {done.stdout.splitlines()[-1:]}"
    assert done.stdout.splitlines()[-1] == "alive"


async def test_a_stopped_server_that_its_handler_refers_to_is_collected() -> None:
    async def life() -> weakref.ref[sockrpc.Server]:
        app = sockrpc.App()

        @app.method("connections")
        def connections(call: sockrpc.Call) -> str:
            return str(server.statistics().connections)

        async with serving(app) as here, here.connect() as client:
            server = here.server
            assert await client.call("connections") == b"1"
        return weakref.ref(server)

    reference = await life()
    for _ in range(3):
        await asyncio.sleep(0)
    gc.collect()
    assert reference() is None


async def test_a_call_in_a_reference_cycle_is_collected_with_its_entry(
    caplog: pytest.LogCaptureFixture,
) -> None:
    taken = asyncio.Event()

    async def handle_socket(socket: sockrpc.Socket) -> None:
        procedure: Any
        async for procedure in socket:
            cycle: list[Any] = [procedure]
            cycle.append(cycle)
            del procedure, cycle
            taken.set()

    async with serving(handle_socket) as here, here.connect() as client:
        waiting = await started(client.call("anything"))
        await taken.wait()
        assert here.server.statistics().calls_in_flight == 1
        gc.collect()
        statistics = here.server.statistics()
        assert (statistics.calls_in_flight, statistics.calls_failed) == (0, 1)
        waiting.cancel()
    assert "dropped without an answer" in caplog.text
