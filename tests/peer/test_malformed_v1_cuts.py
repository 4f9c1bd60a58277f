"""Faulty frames of `sockrpc.v1`, cut by reads at every byte, in memory; most are in tests/vectors.json.

Wherever a read ends, the close code and the reason are the same, and nothing that stands behind the fault has
an effect. The rows of the engine, each with its whole reason, are in test_malformed_v1_rows.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import sockrpc
from sockrpc._settings import Settings
from sockrpc.limits import Limits
from sockrpc.peer.peer import Peer
from sockrpc.peer.service import Service
from sockrpc.remote import Remote
from sockrpc.testing.memory import Pair
from sockrpc.websocket.loop import context_of_running_loop
from tests.kit.pair import MemoryServer, RawEnd
from tests.kit.rpc_oracle_v1 import read, write
from tests.kit.support import (
    BINARY,
    CLOSE,
    PATIENCE,
    TEXT,
    frame,
    started,
)

pytestmark = pytest.mark.newest

VECTORS = json.loads(Path(__file__).parents[1].joinpath("vectors.json").read_text("utf-8"))["v1"]
PROTOCOL = "sockrpc.v1"
# Above the largest of the first frames.
MAX_MESSAGE_BYTES = 20_000
# Ids of calls that are in flight while the fault arrives: one that runs, one whose abort is swallowed, and
# one of the server's.
RUNNING, STOPPING, OF_SERVER = 1000, 1001, 1 << 31


def say(*fields: Any, masked: bool = True) -> bytes:
    """A WebSocket message that holds a frame."""
    return frame(BINARY, write(fields), masked=masked)


HELLO = ("hello", 0, 64, 1 << 16, 1 << 20, b"")


class Fault(NamedTuple):
    """What is wrong, the messages, and what they are to be closed with."""

    what: str
    messages: list[bytes]
    reason: str
    code: int = 1002
    opcode: int = BINARY

    def __str__(self) -> str:
        return self.what

    def data(self, *, masked: bool = True) -> bytes:
        return b"".join(frame(self.opcode, message, masked=masked) for message in self.messages)


def of_vectors(receiver: str) -> list[Fault]:
    return [
        Fault(each["meaning"], [bytes.fromhex(each["hex"])], each["reason"])
        for each in VECTORS["invalid"]
        # A hello is not the first frame here.
        if each["receiver"] == receiver and not each["hex"].startswith("0a")
    ]


FAULTS = [
    *of_vectors("server"),
    Fault("a second hello", [write(HELLO)], "second hello"),
    Fault("an id in use", [write(("request", RUNNING, "echo", b""))], "id in use"),
    Fault("an id in use, with options", [write(("open", RUNNING, 0, None, None, "echo", b""))], "id in use"),
    Fault("an id in use, by an unknown method", [write(("request", RUNNING, "nobody", b""))], "id in use"),
    Fault(
        "an id whose end was not sent",
        [write(("reset", STOPPING)), write(("request", STOPPING, "echo", b""))],
        "id in use",
    ),
    Fault("an item for a call without items", [write(("item", RUNNING, None, b"x"))], "without items"),
    Fault("the end of items for a call without items", [write(("end", RUNNING))], "without items"),
    Fault("a text message", [write(("reset", 1))], "text", 1003, TEXT),
    Fault("a message over the limit", [bytes([14]) + bytes(MAX_MESSAGE_BYTES)], "20000 bytes", 1009),
]
FIRST = [
    Fault(f"{fields[0]} before hello", [write(fields)], "not a hello")
    for fields in (
        ("notify", "event", b""),
        ("request", 1, "echo", b""),
        ("open", 1, 0, None, None, "echo", b""),
        ("reset", 1),
        ("item", 1, None, b""),
        ("credit", 1, 1),
        ("response", OF_SERVER, b""),
        ("goaway", 14, 0, ""),
        ("ping", b""),
        ("pong", b""),
    )
]
FIRST += [
    Fault("an opcode of a later version before hello", [b"\x0e"], "not a hello"),
    *(
        Fault(each["meaning"], [bytes.fromhex(each["hex"])], each["reason"])
        for each in VECTORS["invalid"]
        if each["receiver"] == "server" and each["hex"].startswith("0a")
    ),
    Fault(
        "hello with more than 16 KiB of metadata",
        [write((*HELLO[:5], b"\x01a" + (16_381).to_bytes(2, "big") + bytes(16_381)))],
        "metadata",
    ),
]


class There:
    """An app whose calls can be held."""

    def __init__(self) -> None:
        self.app = sockrpc.App()
        self.ran: list[str] = []
        self.aborted: list[str | None] = []
        self.release = asyncio.Event()
        self.app.method("wait")(self.wait)
        self.app.method("stubborn")(self.stubborn)
        self.app.method("echo")(self.echo)
        self.app.method("tokens")(self.tokens)
        self.app.on("event")(lambda notification: self.ran.append(notification.event))

    def echo(self, call: sockrpc.Call) -> bytes:
        self.ran.append(call.method)
        return call.payload

    async def wait(self, call: sockrpc.Call) -> str:
        self.ran.append(call.method)
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.aborted.append(call.abort_reason)
            raise
        return "done"

    async def stubborn(self, call: sockrpc.Call) -> None:
        self.ran.append(call.method)
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.aborted.append(call.abort_reason)

    async def tokens(self, call: sockrpc.Call) -> AsyncIterator[bytes]:
        yield b"token"


def closing_of(peer: RawEnd) -> tuple[int, str]:
    """The code and the reason of the close frame that an end has got."""
    (payload,) = [payload for opcode, payload in peer.frames if opcode == CLOSE]
    return int.from_bytes(payload[:2], "big"), payload[2:].decode()


def speak(here: MemoryServer) -> tuple[RawEnd, Pair]:
    raw, pair = here.raw()
    pair.server.protocol.speak(PROTOCOL)
    return raw, pair


async def send_cut(fault: Fault, cut: int, there: There, here: MemoryServer) -> None:
    """Send a fault in two reads, with good frames around it, and check what the server makes of them."""
    raw, pair = speak(here)
    ran: list[str] = []
    answers: list[Any] = []
    behind = say("request", 4, "echo", b"after") + say("notify", "event", b"")
    if fault in FIRST:
        behind = say(*HELLO) + behind
    else:
        raw.send(say(*HELLO))
        raw.send(say("request", RUNNING, "wait", b""), say("request", STOPPING, "stubborn", b""))
        raw.send(say("request", 2, "echo", b"before"))
        ran = ["wait", "stubborn", "echo"]
        answers = [("response", 2, b"before")]
        await here.settle()
    data = fault.data()
    raw.send(data[:cut])
    pair.deliver_all()
    # The header of a message over the limit is enough for a close.
    if raw.transport.can_write():
        raw.send(data[cut:] + behind)
    await here.settle()
    code, reason = closing_of(raw)
    assert (code, fault.reason in reason) == (fault.code, True), reason
    messages = [read(payload, "client") for opcode, payload in raw.frames if opcode == BINARY]
    assert messages.pop(0)[0] == "hello"
    assert messages == answers
    # The two calls in flight are aborted.
    assert (there.ran, len(there.aborted)) == (ran, 0 if fault in FIRST else 2)
    there.ran.clear()
    there.aborted.clear()
    pair.cut()


@pytest.mark.parametrize("fault", [*FAULTS, *FIRST], ids=str)
async def test_a_server_closes_for_a_fault_wherever_a_read_cuts_it(fault: Fault) -> None:
    there = There()
    async with MemoryServer(there.app, max_message_bytes=MAX_MESSAGE_BYTES) as here:
        size = len(fault.data())
        try:
            for cut in range(0, size, 1 + size // 100):
                await send_cut(fault, cut, there, here)
        finally:
            there.release.set()


# A client


class Client:
    """A client in memory, and the raw server that it is connected to."""

    def __init__(self) -> None:
        service = Service(Settings(Limits()), context_of_running_loop(), make_remote=Remote)
        self.connection = Peer("client", service)
        self.raw = RawEnd()
        self.pair = Pair(self.raw, self.connection)
        self.connection.open(b"", None)
        self.connection.speak(PROTOCOL)
        self.connection.begin()
        self.client = sockrpc.Client(self.connection)

    async def settle(self) -> None:
        async with asyncio.timeout(PATIENCE):
            for _ in range(10):
                while self.pair.deliver_all():
                    await asyncio.sleep(0)
                await asyncio.sleep(0)


CLIENT_FAULTS = [
    *of_vectors("client"),
    Fault("a second hello", [write(HELLO)], "second hello"),
    Fault("an item without its cursor", [write(("item", 2, None, b""))], "cursor"),
    Fault("an item cut in its cursor", [write(("item", 2, None, b"\x05curs"))], "cursor"),
    Fault("a text message", [write(("ping", b""))], "text", 1003, TEXT),
]


@pytest.mark.parametrize("fault", CLIENT_FAULTS, ids=str)
async def test_a_client_closes_for_a_fault_wherever_a_read_cuts_it(fault: Fault) -> None:
    data = fault.data(masked=False)
    for cut in range(0, len(data), 1 + len(data) // 20):
        here = Client()
        here.raw.send(say(*HELLO, masked=False))
        waiting = await started(here.client.call("wait"))
        stream = here.client.stream("feed", tracked=True)
        item = await started(stream.__anext__())
        await here.settle()
        assert [read(payload, "server")[:2] for kind, payload in here.raw.frames if kind == BINARY][1:] == [
            ("request", 1),
            ("open", 2),
        ]
        here.raw.send(data[:cut])
        here.pair.deliver_all()
        here.raw.send(data[cut:])
        await here.settle()
        code, reason = closing_of(here.raw)
        assert (code, fault.reason in reason) == (fault.code, True), reason
        for task in (waiting, item):
            error = task.exception()
            assert isinstance(error, sockrpc.ProtocolError)
            assert (error.code, error.reason) == (code, reason)
        here.pair.cut()
        await here.settle()
