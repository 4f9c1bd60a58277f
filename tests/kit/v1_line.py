"""A line that carries `sockrpc.v1`: what PROTOCOL.md lets each end write, and what is on its way.

The oracle takes the frames apart by itself. It knows of a call what both ends have written and heard, and
holds their books (sockrpc.testing.books) to the conservation of credit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from sockrpc.testing.books import flows, write_out
from tests.kit.pair import End, Pair, take_frames

REQUEST, RESET, RESPONSE, OPEN, ITEM, END, CREDIT, ERROR, HELLO, GOAWAY = range(2, 12)
TIMEOUT, METADATA, SENDS, TAKES, TRACKED, NESTED = 1, 2, 4, 8, 16, 32
ITEM_COST = 64
LEAST_WINDOW = 65_536


class Life:
    """One call, from its first frame until its end was heard by its caller."""

    def __init__(self, id: int, caller: int, flags: int, key: int) -> None:
        self.id, self.caller, self.flags, self.key = id, caller, flags, key
        self.was_heard = False
        self.is_reset = False  # its caller has written a Reset
        self.reset_acted_on = False  # its callee has worked through the read with that Reset
        self.no_more = False  # its caller has written End
        self.no_more_heard = False
        self.left = False  # its callee has granted 0
        self.left_heard = False
        self.ended = False  # its callee has written its end

    def __repr__(self) -> str:
        who = ("client", "server")[self.caller]
        return f"<call {self.key} id {self.id:#x} flags {self.flags:#x} by the {who}>"


class Frame:
    """A frame that is on its way."""

    def __init__(self, data: bytes, life: Life | None) -> None:
        self.opcode, self.life, self.data = data[0], life, data
        self.window = int.from_bytes(data[6:10]) if self.opcode == HELLO else 0
        self.credit = int.from_bytes(data[5:9]) if self.opcode == CREDIT else 0
        self.cost = ITEM_COST + len(data) - 5 if self.opcode == ITEM else 0

    @property
    def outcome(self) -> int:
        return self.data[6]

    @property
    def code(self) -> int:
        return self.data[5]


class Ear:
    """What one end writes and hears, cut into frames."""

    def __init__(self, end: End, line: V1Line, number: int) -> None:
        self.end, self.line, self.number = end, line, number
        self.peer = end.protocol
        self.on_its_way: deque[Frame] = deque()
        self.window = LEAST_WINDOW  # what its Hello has offered
        self.was_greeted = False  # it has heard the other's Hello
        self._written, self._heard = bytearray(), bytearray()
        end.tap, end.heard = self.wrote, self.hears

    def wrote(self, data: bytes) -> None:
        self._written += data
        for opcode, message in take_frames(self._written):
            if opcode == 2:
                self.line.write(self, message)

    def hears(self, data: bytes) -> None:
        # What was gathered before this read was sent before it.
        if not self.peer.has_ended:
            write_out(self.peer)
        self._heard += data
        for opcode, message in take_frames(self._heard):
            if opcode == 2:
                self.line.hear(self, message)


class V1Line:
    """One line. 0 is the client and 1 the server, as in the top bit of an id.

    Args:
        pair: The line.
        on_end: Called with a call and its end at the moment that this is written.
    """

    def __init__(self, pair: Pair, on_end: Callable[[Life, Frame], None]) -> None:
        self.pair, self.on_end = pair, on_end
        self.lives: dict[int, Life] = {}
        self.resets_heard: list[Life] = []
        self.is_cut = False  # the script has broken it, which its ends may learn later
        # Those whose ends stand in the latest reads, which an engine that is busy works through later.
        self.ended_in_read: tuple[dict[int, Life], dict[int, Life]] = ({}, {})
        self.ends: dict[int, int] = {}  # how many each call has got, by its key
        self.ears = (Ear(pair.client, self, 0), Ear(pair.server, self, 1))

    def write(self, ear: Ear, data: bytes) -> None:
        opcode = data[0]
        if opcode == HELLO:
            ear.window = max(int.from_bytes(data[6:10]), LEAST_WINDOW)
            ear.on_its_way.append(Frame(data, None))
            return
        if opcode == GOAWAY and not int.from_bytes(data[2:6]):
            self.check_leave(ear)
        if opcode > ERROR or opcode == 1:
            ear.on_its_way.append(Frame(data, None))
            return
        id = int.from_bytes(data[1:5])
        if opcode in (REQUEST, OPEN):
            assert id >> 31 == ear.number, f"{id:#x} opened by the wrong side"
            assert id not in self.lives, f"an id was used again before its end had come: {self.lives[id]}"
            self.ended_in_read[ear.number].pop(id, None)
            self.lives[id] = Life(id, ear.number, data[5] if opcode == OPEN else 0, key_of(data))
        life = self.lives.get(id) or self.ended_in_read[ear.number].get(id)
        assert life is not None, f"opcode {opcode} written for an id that is free, {id:#x}"
        frame = Frame(data, life)
        if frame.opcode == ITEM and life.flags & TRACKED and ear.number != life.caller:
            frame.cost -= 1  # the length of the cursor is free
        if ear.number == life.caller:
            self.caller_wrote(life, frame)
        else:
            self.callee_wrote(life, frame)
        ear.on_its_way.append(frame)

    def check_leave(self, ear: Ear) -> None:
        """The last Goaway says that each call that came here has its end, and that none is open from here."""
        for life in self.lives.values():
            if life.caller == ear.number:
                raise AssertionError(f"{life} was open when its caller left")
            assert life.ended or not life.was_heard, f"{life} had no end when its callee left"

    def caller_wrote(self, life: Life, frame: Frame) -> None:
        assert frame.opcode not in (RESPONSE, ERROR), f"{life} was ended by its caller"
        assert not life.is_reset, f"{life}: opcode {frame.opcode} behind its reset"
        if frame.opcode == RESET:
            life.is_reset = True
        elif frame.opcode in (ITEM, END):
            assert life.flags & SENDS, f"{life} has no items of its caller"
            assert not life.no_more, f"{life}: opcode {frame.opcode} behind the end of its items"
            assert not life.left_heard, (
                f"{life}: opcode {frame.opcode} behind the news that no more are taken"
            )
            life.no_more = frame.opcode == END
        elif frame.opcode == CREDIT:
            assert life.flags & TAKES, f"{life} takes no items"
            assert frame.credit, f"{life}: a caller has left its items without a reset"

    def callee_wrote(self, life: Life, frame: Frame) -> None:
        assert frame.opcode not in (RESET, END), f"{life}: opcode {frame.opcode} of its callee"
        assert life.was_heard, f"{life}: opcode {frame.opcode} before its callee had heard of it"
        assert not life.ended, f"{life}: opcode {frame.opcode} behind its end"
        if frame.opcode in (RESPONSE, ERROR):
            life.ended = True
            self.ends[life.key] = self.ends.get(life.key, 0) + 1
            self.on_end(life, frame)
            return
        assert not life.reset_acted_on, f"{life}: opcode {frame.opcode} after its reset"
        if frame.opcode == ITEM:
            assert life.flags & TAKES, f"{life} takes no items"
        elif frame.opcode == CREDIT:
            assert life.flags & SENDS, f"{life} has no items of its caller"
            life.left = life.left or not frame.credit

    def hear(self, ear: Ear, data: bytes) -> None:
        frame = self.ears[1 - ear.number].on_its_way.popleft()
        assert frame.data == data, "the oracle has lost its place"
        life = frame.life
        if frame.opcode == HELLO:
            ear.was_greeted = True
        if life is None:
            return
        if frame.opcode in (REQUEST, OPEN):
            life.was_heard = True
        elif frame.opcode == RESET:
            self.resets_heard.append(life)
        elif frame.opcode == END:
            life.no_more_heard = True
        elif frame.opcode in (RESPONSE, ERROR):
            assert self.lives.pop(life.id) is life
            self.ended_in_read[ear.number][life.id] = life
        elif frame.opcode == CREDIT and not frame.credit:
            life.left_heard = True

    # After each step

    @property
    def is_over(self) -> bool:
        return self.is_cut or any(ear.end.lost or ear.peer.has_ended for ear in self.ears)

    def after_step(self) -> None:
        """The frames that were delivered have been acted on, unless their end has put some of them off."""
        if self.is_over:
            return
        for ear in self.ears:
            if ear.end.is_reading():
                self.ended_in_read[ear.number].clear()
        if all(ear.end.is_reading() for ear in self.ears):
            for life in self.resets_heard:
                life.reset_acted_on = True
            self.resets_heard.clear()
            self.check_credit()

    def check_credit(self) -> None:
        """Balance + on the way + held + taken but not granted = window, for what is open at both ends."""
        for ear in self.ears:
            write_out(ear.peer)
        kept = [{(flow.id, flow.calls): flow for flow in flows(ear.peer)} for ear in self.ears]
        for life in self.lives.values():
            callee = 1 - life.caller
            ours, theirs = kept[life.caller].get((life.id, True)), kept[callee].get((life.id, False))
            if ours is None or life.ended or life.is_reset or (theirs is None and life.was_heard):
                continue
            if life.flags & SENDS and not life.left:
                window = self.ears[callee].window
                self.check_flow(life, life.caller, ours.balance, theirs, window)
            if life.flags & TAKES and theirs is not None:
                self.check_flow(life, callee, theirs.balance, ours, ours.window)

    def check_flow(self, life: Life, sender: int, balance: Any, receiver: Any, window: int) -> None:
        taker = self.ears[1 - sender]
        if receiver is not None and receiver.left:
            assert life.left or life.no_more_heard, f"{life}: its items were left, and its caller sends more"
            return
        held, taken = (0, 0) if receiver is None else (receiver.held, receiver.taken)
        items = sum(frame.cost for frame in self.ears[sender].on_its_way if frame.life is life)
        credits = sum(frame.credit for frame in taker.on_its_way if frame.life is life)
        if not self.ears[sender].was_greeted:
            credits += taker.window - LEAST_WINDOW
        assert balance + items + held + taken + credits == window, (
            f"{life}: credit is not conserved: balance {balance}, items on the way {items}, held {held}, "
            f"taken {taken}, credits on the way {credits}, window {window}"
        )
        assert held < 2 * window, f"{life}: more than two windows are held"
        if receiver is not None:
            assert receiver.allowed + held + taken == window, f"{life}: the receiver's own count is wrong"
            # Otherwise a sender whose balance is 0 or below would wait for a grant that does not come.
            assert 2 * taken < window or life.no_more, f"{life}: {taken} bytes were taken and not granted"


def key_of(data: bytes) -> int:
    """The number in front of the payload of a Request or an Open."""
    at, flags = (5, 0) if data[0] == REQUEST else (6, data[5])
    at += 4 if flags & TIMEOUT else 0
    if flags & METADATA:
        at += 2 + int.from_bytes(data[at : at + 2])
    at += 1 + data[at]
    return int.from_bytes(data[at : at + 4])
