"""What a test knows of calls from the outside: what went over the wire, and what handlers saw.

`Work` is one request, `Line` one connection with an oracle at each of its four ears. The payload of a
request names its work, and so does the payload of its answer.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import sockrpc
from tests.kit.inside import has_ended
from tests.kit.pair import Pair, take_frames

NOTIFY, REQUEST, RESET, RESPONSE = 1, 2, 3, 4


class Work:
    """One request, as the test sees it."""

    def __init__(self, key: int, line: Line, method: str, program: str, size: int) -> None:
        self.key, self.line, self.method, self.program = key, line, method, program
        self.answer = struct.pack("!I", key) + bytes(size)
        self.payload = struct.pack("!I", key)
        self.call: sockrpc.Call | None = None
        self.id = -1
        self.heard = 0  # when the server heard its request, in the order of its line; 0: not yet
        self.reset_heard = False
        self.silent = False  # its reset was acted on before it was answered
        self.begun = False
        self.running = 0  # handlers
        self.tasks: list[Any] = []  # the handler's, then those that it spawned
        self.spawned: list[asyncio.Task[Any]] = []
        self.held = False  # the socket form keeps the call to answer it later
        self.used = False  # somebody else than the handler may answer
        self.responding = False
        self.responded = False
        self.value = False  # the handler returned an answer
        self.broken = False
        self.was_told = False  # of its abort, by abort_on_reset or wait_reset: its end is its own affair
        self.on_wire = 0
        self.cancels: list[int] = []
        self.hooks: list[int] = []
        self.undone: list[int] = []
        self.undoing = False

    def __repr__(self) -> str:
        return f"<{self.key} {self.method} {self.program!r} id {self.id} of line {self.line.number}>"

    @property
    def is_reset(self) -> bool:
        return self.call is not None and self.call.is_reset

    @property
    def answered(self) -> bool:
        return self.responded or (self.value and not self.is_reset)

    @property
    def is_over(self) -> bool:
        return self.answered or self.is_reset

    @property
    def is_alive(self) -> bool:
        if self.running or self.undoing or (self.held and not self.is_over):
            return True
        return any(not task.done() for task in self.spawned)

    @property
    def was_cancelled(self) -> bool:
        """True if nothing of it runs on without having been told to end."""
        return self.was_told or all(task.done() or task.cancelling() for task in self.tasks)

    @property
    def undo_is_due(self) -> bool:
        if self.call is None or not self.is_reset:
            return False
        return "completing" not in self.method or self.call.abort_reason in ("timeout", "stop")


class Line:
    """One connection of the world."""

    def __init__(self, world: Any, number: int, pair: Pair, client: Any, raw: Any) -> None:
        self.world, self.number, self.pair, self.client, self.raw = world, number, pair, client, raw
        self.connection = pair.server.protocol
        self.works: list[Work] = []
        self.by_id: dict[int, Work] = {}  # the latest request written with this id
        self.heard_by_id: dict[int, Work] = {}
        self.arrived = 0
        self.last_begun = 0
        self.last_id = 0
        self.waiters: dict[Work, asyncio.Task[bytes]] = {}
        self.events_written: list[bytes] = []
        self.notifiers: list[asyncio.Task[None]] = []
        self.listener = client.on("event") if client is not None else None
        self._down, self._up, self._heard, self._answers = bytearray(), bytearray(), bytearray(), bytearray()
        self.known_answers: set[int] = set()
        self.resets_written: set[int] = set()
        self.heard_resets: list[Work] = []
        pair.server.tap, pair.client.tap = self.server_wrote, self.client_wrote
        pair.server.heard, pair.client.heard = self.server_heard, self.client_heard

    def server_wrote(self, data: bytes) -> None:
        self._down += data
        for opcode, message in take_frames(self._down):
            if opcode == 2 and message[0] == RESPONSE:
                (id,) = struct.unpack("!I", message[1:5])
                key = int.from_bytes(message[5:9], "big")
                work = self.world.works[key] if key else self.answered_with_nothing(id)
                assert work.line is self, f"{work} was answered on line {self.number}"
                assert work.id == id, f"{work} was answered under id {id}"
                assert message[5:] == work.answer, f"{work} got another answer"
                assert work.answered or work.responding, f"{work} was answered, but not by its handler"
                assert not work.silent, f"{work} was answered after its reset"
                work.on_wire += 1
                assert work.on_wire == 1, f"{work} was answered twice"
            elif opcode == 2:
                assert message[0] == NOTIFY
                self.events_written.append(message[7:])

    def answered_with_nothing(self, id: int) -> Work:
        candidates = (work for work in self.works if work.id == id and work.answered)
        return next(work for work in candidates if not work.answer and not work.on_wire)

    def client_wrote(self, data: bytes) -> None:
        self._up += data
        for opcode, message in take_frames(self._up):
            if opcode != 2 or message[0] not in (REQUEST, RESET):
                continue
            (id,) = struct.unpack("!I", message[1:5])
            if message[0] == REQUEST:
                work = self.world.works[request_key(message)]
                work.id = id
                self.by_id[id] = work
            elif self.client is not None:
                work = self.by_id[id]
                assert work.key not in self.resets_written, f"{work} was reset twice"
                assert work.key not in self.known_answers, f"{work} was reset after its answer had come"
                self.resets_written.add(work.key)

    def server_heard(self, data: bytes) -> None:
        self._heard += data
        for opcode, message in take_frames(self._heard):
            if opcode != 2 or message[0] not in (REQUEST, RESET):
                continue
            (id,) = struct.unpack("!I", message[1:5])
            if message[0] == REQUEST:
                self.arrived += 1
                work = self.world.works[request_key(message)]
                work.heard = self.arrived
                self.heard_by_id[id] = work
            elif id in self.heard_by_id:
                work = self.heard_by_id[id]
                work.reset_heard = True
                self.heard_resets.append(work)

    def client_heard(self, data: bytes) -> None:
        self._answers += data
        for opcode, message in take_frames(self._answers):
            if opcode == 2 and message[0] == RESPONSE:
                (id,) = struct.unpack("!I", message[1:5])
                self.known_answers.add(self.by_id[id].key)

    def after_delivery(self) -> None:
        """The resets that the server has heard are acted on when its read is over, unless it has stalled."""
        if not self.pair.server.is_reading() or has_ended(self.connection):
            return
        for work in self.heard_resets:
            if work.begun and work.call is not None and not work.call.is_reset:
                is_over = work.answered or work.broken or work.value or not work.is_alive
                assert is_over, f"{work}: its reset was ignored"
            else:
                work.silent = True
        self.heard_resets.clear()

    def check_limits(self) -> None:
        active, waiting, notifying = self.connection.load
        limits = self.world.here.limits
        assert 0 <= active <= limits.max_in_flight
        assert 0 <= waiting <= limits.max_waiting_calls
        assert 0 <= notifying <= limits.max_notifications


def request_key(message: bytes) -> int:
    """The key in the payload of a Request."""
    start = 6 + message[5]
    return int.from_bytes(message[start : start + 4], "big")
