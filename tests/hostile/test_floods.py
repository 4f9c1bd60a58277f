"""Many small things at once: none may cost more than the work it is, nor hold up anybody else."""

from __future__ import annotations

import struct
import sys

import pytest

from tests.hostile.attack import KIB, MIB, Target, attack, target
from tests.hostile.peer import Peer, head, message, request, reset

pytestmark = [
    pytest.mark.hostile,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]

MILLION = 1_000_000
# What goes out in one write.
PART = 10_000


def in_parts(make: object, count: int) -> list[bytes]:
    return [b"".join(make(id) for id in range(n, n + PART)) for n in range(1, count + 1, PART)]  # type: ignore[operator]


def synchronize(peer: Peer) -> None:
    """Wait until everything that was sent before has been acted on."""
    assert peer.call(0xFFFF_FFFE, "echo", b"over") == b"over"


def test_a_million_calls_that_are_reset_at_once() -> None:
    parts = in_parts(lambda n: request(n, "forever") + reset(n), MILLION)
    with target() as there, there.peer() as peer:
        # Not more than max_in_flight tasks at a time, some KiB each, and one receive buffer.
        with attack(there, within=40.0, grows=8 * MIB):
            peer.flood(parts)
            synchronize(peer)
        counts = there.until(lambda counts: counts["calls_running"] == 1)
        assert counts["calls_reset"] == MILLION
        assert counts["calls_in_flight"] == 1
        assert there.lines() == []


def test_a_million_resets_of_calls_that_never_were() -> None:
    parts = in_parts(reset, MILLION)
    with target() as there, there.peer() as peer:
        with attack(there, within=5.0, grows=2 * MIB):
            peer.flood(parts)
            synchronize(peer)
        assert there.statistics()["calls_reset"] == 0
        assert there.lines() == []


def test_a_million_pings() -> None:
    ping = head(9, 4) + b"ping"
    with target() as there, there.peer() as peer:
        # Their answers count as output: output_high_bytes, in our buffer and in the transport's.
        with attack(there, within=15.0, grows=4 * MIB), peer.drained():
            peer.flood([ping * PART] * (MILLION // PART))
        assert there.lines() == []


def test_pings_to_which_nobody_reads_the_answers() -> None:
    ping = head(9, 125) + bytes(125)
    with target(stall_timeout=2.0) as there, there.peer() as peer:
        with attack(there, within=10.0, grows=4 * MIB):
            peer.send_until_cut(ping * 1000)
        assert there.until(lambda counts: counts["connections"] == 1)


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_fragments_without_an_end(size: int) -> None:
    fragment = head(0, size, final=False) + bytes(size)
    limit = 1 * MIB
    with target(max_message_bytes=limit) as there, there.peer() as peer:
        # The message so far, in a buffer that doubles.
        with attack(there, within=10.0, grows=limit * 3):
            peer.send(head(2, 0, final=False))
            if size:
                peer.send_until_cut(fragment * 1000)
            else:
                for _ in range(1000):
                    peer.send(fragment * 1000)
                peer.send(head(0, 0))
                assert peer.close_code() == 1002, "an empty message is no frame of ours"
        assert there.until(lambda counts: counts["connections"] == 1)
        assert there.lines() == []


@pytest.mark.parametrize("size", [2**62, 2**63 - 1, 2**32, 16 * MIB + 1], ids=hex)
def test_a_length_that_nobody_has_is_refused_before_it_comes(size: int) -> None:
    with target() as there, there.peer() as peer:
        with attack(there, within=2.0, grows=1 * MIB):
            peer.send(head(2, size) + bytes(100))
            assert peer.close_code() == 1009
        assert there.lines() == []


def test_lengths_that_are_never_filled_reserve_no_memory() -> None:
    with target() as there:
        peers = [there.peer() for _ in range(100)]
        # One step of a direct read each (1 MiB), of which only what was received is touched.
        with attack(there, within=5.0, grows=16 * MIB):
            for peer in peers:
                peer.send(head(2, 16 * MIB) + bytes(64 * KIB))
            there.until(lambda counts: counts["connections"] == len(peers) + 2)
        for peer in peers:
            peer.cut()
        there.until(lambda counts: counts["connections"] == 1)


def in_flight_and_cut(there: Target, count: int) -> Peer:
    peer = there.peer()
    peer.flood(in_parts(lambda n: request(n, "forever"), count))
    there.until(lambda counts: counts["calls_in_flight"] == count + 1)
    return peer


def test_two_hundred_thousand_calls_in_flight_that_are_cut() -> None:
    count = 200_000
    with target(max_in_flight=2 * count) as there:
        # A call in flight is a task, its coroutine, an event and a future: below 3 KiB.
        peer = in_flight_and_cut(there, count)
        with attack(there, within=8.0, grows=count * KIB // 2, slowest=0.4):
            peer.cut()
            counts = there.until(lambda counts: counts["calls_running"] <= 2)
        assert counts["calls_lost"] == count
        assert there.memory("VmRSS") < 400 * MIB
        assert there.lines() == []


def test_garbage_after_the_handshake() -> None:
    import random

    chance = random.Random(8)
    with target() as there:
        with attack(there, within=10.0, grows=4 * MIB):
            for _ in range(500):
                with there.peer() as peer:
                    peer.send(chance.randbytes(200) + head(8, 2) + struct.pack("!H", 1000))
                    peer.line.shutdown(1)
                    peer.rest()
        there.until(lambda counts: counts["connections"] == 1)
        assert not [line for line in there.lines() if "ERROR" in line or "asyncio" in line]


def test_garbage_in_messages() -> None:
    import random

    chance = random.Random(9)
    with target() as there:
        with attack(there, within=10.0, grows=4 * MIB):
            for _ in range(500):
                with there.peer() as peer:
                    peer.send(b"".join(message(chance.randbytes(chance.randrange(12))) for _ in range(50)))
                    assert peer.close_code() == 1002
        there.until(lambda counts: counts["connections"] == 1)
        assert not [line for line in there.lines() if "ERROR" in line or "asyncio" in line]
