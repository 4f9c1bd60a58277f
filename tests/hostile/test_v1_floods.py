"""Many small things of `sockrpc.v1` at once: others are answered meanwhile, and nothing is left."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from tests.hostile.attack import ARENA, KIB, MIB, attack, rounds, target
from tests.hostile.peer import Peer, message
from tests.kit import v1_peer as v1

pytestmark = [
    pytest.mark.hostile,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]

MILLION = 1_000_000
PART = 10_000
# A name that nobody serves; the log has one line for many of them.
NOBODY = "nobody"


def synchronize(peer: Peer) -> None:
    """Wait until everything that was sent before has been acted on."""
    assert peer.call(0x7FFF_FFFE, "echo", b"over") == b"over"


FLOODS: dict[str, Callable[[int], bytes]] = {
    "items for nobody": v1.item,
    "ends for nobody": v1.end,
    "credit for nobody": lambda n: v1.credit(n, 1),
    "resets of nothing": v1.reset,
    "answers to nobody": lambda n: v1.response(v1.TOP | n),
    "errors to nobody": lambda n: v1.error(v1.TOP | n, 5),
    "pongs": lambda n: v1.pong(),
    "opcodes of later versions": lambda n: b"\x20",
    "goodbyes": lambda n: v1.goaway(grace=60_000),
}


@pytest.mark.parametrize("make", FLOODS.values(), ids=FLOODS)
def test_a_million_frames_that_mean_nothing(make: Callable[[int], bytes]) -> None:
    part = b"".join(message(make(n)) for n in range(1, PART + 1))
    with target() as there, there.peer(v1=True) as peer:
        with attack(there, within=6.0, grows=ARENA):
            for _ in rounds():
                peer.flood([part] * (MILLION // PART))
                synchronize(peer)
        assert there.lines() == []


def test_a_million_tiny_items_of_one_call() -> None:
    # As many as the window has room for, then as many as are granted: the server reads on, and the call ends.
    with target() as there, there.peer(v1=True) as peer:
        with attack(there, within=6.0, grows=2 * MIB):
            for n in rounds():
                peer.send(message(v1.opened(n + 1, "count", flags=v1.SENDS)))
                peer.flood([message(v1.item(n + 1)) * PART] * (MILLION // PART))
                synchronize(peer)
        assert there.statistics()["calls_running"] == 1
        assert there.lines() == []


@pytest.mark.parametrize("method", ["stream", "send"])
def test_credit_in_a_million_pieces(method: str) -> None:
    part = message(v1.credit(1, 1)) * PART
    with target() as there, there.peer(v1=True) as peer:
        with attack(there, within=8.0, grows=4 * MIB), peer.drained():
            peer.send(message(v1.opened(1, method, flags=v1.TAKES)))
            for _ in rounds():
                peer.flood([part] * (MILLION // PART))
            peer.send(message(v1.reset(1)))
        assert there.lines() == []


@pytest.mark.parametrize("method", ["stream", "send"])
def test_all_credit_there_is(method: str) -> None:
    with target() as there, there.peer(v1=True) as peer:
        with attack(there, within=8.0, grows=4 * MIB), peer.drained(), there.peer() as other:
            peer.send(message(v1.opened(1, method, flags=v1.TAKES)) + message(v1.credit(1, 2**31 - 65_537)))
            for _ in rounds(1.0):
                assert other.call(1, "echo", b"x") == b"x"
            peer.send(message(v1.reset(1)))
        assert there.lines() == []


def test_a_million_pings() -> None:
    part = message(v1.ping(b"ping")) * PART
    with target() as there, there.peer(v1=True) as peer:
        with attack(there, within=6.0, grows=2 * MIB), peer.drained():
            for _ in rounds():
                peer.flood([part] * (MILLION // PART))
        assert there.lines() == []


REFUSED: dict[str, Callable[[int], bytes]] = {
    "unknown names": lambda n: v1.opened(n, NOBODY, flags=v1.TAKES),
    "no time": lambda n: v1.opened(n, "echo", timeout=0),
    "streams that take nothing": lambda n: v1.request(n, "stream"),
    "errors of the handler": lambda n: v1.request(n, "refuse"),
    "one byte over the limit": lambda n: v1.opened(n, "echo", metadata=v1.entry(b"a", bytes(16 * KIB - 3))),
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_calls_that_are_refused(make: Callable[[int], bytes]) -> None:
    size = len(make(1))
    count = min(100_000, 32 * MIB // size)
    step = min(count, PART if size < KIB else 100)
    parts = [b"".join(message(make(n + k)) for k in range(step)) for n in range(1, count, step)]
    with (
        target() as there,
        there.peer(v1=True) as peer,
        attack(there, within=12.0, grows=4 * MIB),
        peer.drained(),
    ):
        for _ in rounds():
            peer.flood(parts)


@pytest.mark.parametrize("options", [{}, {"flags": v1.TAKES}, {"flags": v1.SENDS}, {"timeout": 60_000}])
def test_calls_that_are_opened_and_reset(options: dict[str, int]) -> None:
    # A stream sends what the window has room for before its reset is read: a thousand items each.
    streams = options.get("flags") == v1.TAKES
    method, count, step = ("stream", 1_000, 100) if streams else ("forever", 50_000, PART)
    parts = [
        b"".join(
            message(v1.opened(n + k, method, **options)) + message(v1.reset(n + k))  # type: ignore[arg-type]
            for k in range(step)
        )
        for n in range(1, count, step)
    ]
    with target() as there, there.peer(v1=True) as peer:
        with attack(there, within=20.0, grows=10 * MIB, leaves=4 * MIB, slowest=0.1), peer.drained():
            for _ in range(1) if streams else rounds():
                peer.flood(parts)
        counts = there.until(lambda counts: counts["calls_running"] == 1)
        assert counts["calls_in_flight"] == 1
        assert there.lines() == []
