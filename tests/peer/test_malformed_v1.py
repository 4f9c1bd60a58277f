"""Malformed input of `sockrpc.v1`, as servers and clients receive it: code, reason, and no other notices."""

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
    DELIVERIES,
    PATIENCE,
    TEXT,
    RawClient,
    deliver,
    frame,
    serving,
    started,
    until,
)

pytestmark = pytest.mark.newest

VECTORS = json.loads(Path(__file__).parents[1].joinpath("vectors.json").read_text("utf-8"))["v1"]
PROTOCOL = "sockrpc.v1"
MAX_MESSAGE_BYTES = 600
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
    Fault("a message over the limit", [bytes([14]) + bytes(MAX_MESSAGE_BYTES)], "600 bytes", 1009),
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


async def receive(raw: RawClient) -> Any:
    """The fields of the next message."""
    opcode, message = await raw.receive()
    assert opcode == BINARY, (opcode, message)
    return read(message, "client")


async def opened(here: Any) -> RawClient:
    raw: RawClient = await here.raw(Sec_WebSocket_Protocol=PROTOCOL)
    assert (await receive(raw))[0] == "hello"
    return raw


# A server


@pytest.mark.parametrize("how", DELIVERIES)
@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_a_fault_closes_its_connection_and_no_other(fault: Fault, how: str) -> None:
    there = There()
    async with (
        serving(there.app, max_message_bytes=MAX_MESSAGE_BYTES) as here,
        await opened(here) as raw,
        await opened(here) as other,
    ):
        calls = say(*HELLO) + say("request", RUNNING, "wait", b"") + say("request", STOPPING, "stubborn", b"")
        await raw.send(calls)
        await other.send(calls)
        await until(lambda: len(there.ran) == 4)
        behind = say("request", 3, "echo", b"after") + say("notify", "event", b"")
        await deliver(raw, say("request", 2, "echo", b"before") + fault.data() + behind, how)
        assert await receive(raw) == ("response", 2, b"before")
        code, reason = await raw.closing()
        assert (code, fault.reason in reason) == (fault.code, True), reason
        assert await raw.nothing_more()
        await until(lambda: len(there.aborted) == 2)
        await other.send(say("ping", b"still there"))
        assert await receive(other) == ("pong", b"still there")
        there.release.set()
        assert {(await receive(other))[:2] for _ in range(2)} == {
            ("response", RUNNING),
            ("response", STOPPING),
        }
    assert sorted(there.ran) == ["echo", "stubborn", "stubborn", "wait", "wait"]


@pytest.mark.parametrize("how", DELIVERIES)
@pytest.mark.parametrize("fault", FIRST, ids=str)
async def test_a_fault_in_the_first_frame(fault: Fault, how: str) -> None:
    there = There()
    async with serving(there.app) as here, await opened(here) as raw:
        await deliver(raw, fault.data() + say(*HELLO) + say("request", 3, "echo", b"after"), how)
        code, reason = await raw.closing()
        assert (code, fault.reason in reason) == (1002, True), reason
        assert await raw.nothing_more()
    assert there.ran == []


async def test_no_hello() -> None:
    async with serving(There().app, handshake_timeout=0.2) as here, await opened(here) as raw:
        assert await raw.closing() == (1002, "no hello")


def closing_of(peer: RawEnd) -> tuple[int, str]:
    """The code and the reason of the close frame that an end has got."""
    (payload,) = [payload for opcode, payload in peer.frames if opcode == CLOSE]
    return int.from_bytes(payload[:2], "big"), payload[2:].decode()


def speak(here: MemoryServer) -> tuple[RawEnd, Pair]:
    raw, pair = here.raw()
    pair.server.protocol.speak(PROTOCOL)
    return raw, pair


@pytest.mark.parametrize("fault", [*FAULTS, *FIRST], ids=str)
async def test_a_fault_is_the_same_wherever_a_read_cuts_it(fault: Fault) -> None:
    there = There()
    async with MemoryServer(there.app, max_message_bytes=20_000) as here:
        data = fault.data()
        if fault.code == 1009:
            return
        for cut in range(0, len(data), 1 + len(data) // 100):
            raw, pair = speak(here)
            if fault not in FIRST:
                raw.send(say(*HELLO))
                raw.send(say("request", RUNNING, "wait", b""), say("request", STOPPING, "stubborn", b""))
                await here.settle()
            raw.send(data[:cut])
            pair.deliver_all()
            raw.send(data[cut:])
            pair.deliver_all()
            code, reason = closing_of(raw)
            assert (code, fault.reason in reason) == (fault.code, True), reason
        there.release.set()


# Frames that are no faults


@pytest.mark.parametrize(
    "fields",
    [
        ("reset", 7),
        ("item", 7, None, b"x"),
        ("end", 7),
        ("credit", 7, 0),
        ("credit", RUNNING, 1),
        ("item", OF_SERVER, None, b"x"),
        ("credit", OF_SERVER, 1),
        ("response", OF_SERVER, b"nobody asked"),
        ("error", OF_SERVER, 99, 9, "nobody asked", b""),
        ("pong", b"nobody asked"),
        ("notify", "nobody", b""),
        ("reset", RUNNING),
    ],
    ids=str,
)
async def test_what_crosses_an_end_or_was_never_asked_for_changes_nothing(fields: Any) -> None:
    there = There()
    async with serving(there.app) as here, await opened(here) as raw:
        await raw.send(say(*HELLO), say("request", RUNNING, "wait", b""))
        await until(lambda: there.ran)
        await raw.send(say(*fields), say(*fields), say("request", 2, "echo", b"x"))
        expected = [("error", RUNNING, 1, 0, "", b"")] if fields == ("reset", RUNNING) else []
        expected.append(("response", 2, b"x"))
        found = [await receive(raw) for _ in expected]
        assert sorted(found) == sorted(expected)


async def test_opcodes_of_later_versions_are_ignored() -> None:
    there = There()
    async with serving(there.app) as here, await opened(here) as raw:
        await raw.send(say(*HELLO))
        await raw.send(*(frame(BINARY, bytes([opcode]) + b"\x00\x01\x02") for opcode in range(14, 256)))
        await raw.send(say("request", 2, "echo", b"x"))
        assert await receive(raw) == ("response", 2, b"x")


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
async def test_a_client_closes_for_a_fault_and_its_calls_say_so(fault: Fault) -> None:
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
