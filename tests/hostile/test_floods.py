"""Many small things at once: none may cost more than the work it is, nor hold up anybody else."""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable

import pytest

from tests.hostile.attack import ARENA, KIB, MIB, attack, rounds, target
from tests.hostile.peer import Peer, head, message, request, reset
from tests.kit.support import BINARY, TEXT

pytestmark = [
    pytest.mark.hostile,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]

MILLION = 1_000_000
# What goes out in one write.
PART = 10_000


def in_parts(make: Callable[[int], bytes], count: int) -> list[bytes]:
    return [b"".join(make(id) for id in range(n, n + PART)) for n in range(1, count + 1, PART)]


def synchronize(peer: Peer) -> None:
    """Wait until everything that was sent before has been acted on."""
    assert peer.call(0xFFFF_FFFE, "echo", b"over") == b"over"


def test_a_million_calls_that_are_reset_at_once() -> None:
    parts = in_parts(lambda n: request(n, "forever") + reset(n), MILLION)
    with target() as there, there.peer() as peer:
        # Not more than max_in_flight tasks at a time, some KiB each, and one receive buffer.
        # As many may start in one iteration and unwind in the next, which others wait for.
        with attack(there, within=4.0, grows=8 * MIB, leaves=4 * MIB, slowest=0.075):
            times = 0
            for _ in rounds():
                peer.flood(parts)
                synchronize(peer)
                times += 1
        counts = there.until(lambda counts: counts["calls_running"] == 1)
        assert counts["calls_reset"] == times * MILLION
        assert counts["calls_in_flight"] == 1
        assert there.lines() == []


def test_a_million_resets_of_calls_that_never_were() -> None:
    parts = in_parts(reset, MILLION)
    with target() as there, there.peer() as peer:
        with attack(there, within=3.0, grows=ARENA):
            for _ in rounds():
                peer.flood(parts)
                synchronize(peer)
        assert there.statistics()["calls_reset"] == 0
        assert there.lines() == []


def test_a_million_pings() -> None:
    ping = head(9, 4) + b"ping"
    with target() as there, there.peer() as peer:
        # Their answers count as output: output_high_bytes, in our buffer and in the transport's.
        with attack(there, within=4.0, grows=2 * MIB), peer.drained():
            for _ in rounds():
                peer.flood([ping * PART] * (MILLION // PART))
        assert there.lines() == []


def test_pings_to_which_nobody_reads_the_answers() -> None:
    ping = head(9, 125) + bytes(125)
    with target(stall_timeout=2.0) as there, there.peer() as peer:
        with attack(there, within=5.0, grows=4 * MIB):
            peer.send_until_cut(ping * 1000)
        assert there.until(lambda counts: counts["connections"] == 1)


@pytest.mark.parametrize("opcode", [BINARY, TEXT], ids=["binary", "text"])
@pytest.mark.parametrize("size", [1, 1000])
def test_fragments_without_an_end(size: int, opcode: int) -> None:
    # Text is looked at as it comes; a character may begin in one fragment and end in the next.
    fragment = head(0, size, final=False) + bytes(size)
    if opcode == TEXT and size > 1:
        fragment = (
            head(0, size, final=False) + bytes(size - 1) + b"\xe2" + head(0, 2, final=False) + b"\x82\xac"
        )
    limit = 1 * MIB
    with target(max_message_bytes=limit, close_timeout=1.0) as there, there.peer() as peer:
        # The message so far, in a buffer that doubles.
        with attack(there, within=4.0, grows=limit * 3):
            peer.send(head(opcode, 0, final=False))
            # It is told 1009 and sends on; nobody listens, and `close_timeout` ends it.
            peer.send_until_cut(fragment * 1000)
        assert there.until(lambda counts: counts["connections"] == 1)
        assert there.lines() == []


def test_a_million_fragments_of_nothing() -> None:
    fragments = head(0, 0, final=False) * PART
    with target() as there:
        with attack(there, within=3.0, grows=ARENA):
            for _ in rounds():
                with there.peer() as peer:
                    peer.send(head(2, 0, final=False))
                    peer.flood([fragments] * (MILLION // PART))
                    peer.send(head(0, 0))
                    assert peer.close_code() == 1002, "an empty message is no frame of ours"
        assert there.until(lambda counts: counts["connections"] == 1)
        assert there.lines() == []


def test_a_length_that_nobody_has_is_refused_before_it_comes() -> None:
    sizes = [2**62, 2**63 - 1, 2**32, 16 * MIB + 1]
    with target() as there:
        with attack(there, within=2.0, grows=ARENA):
            for n in rounds():
                size = sizes[n % len(sizes)]
                with there.peer() as peer:
                    peer.send(head(2, size) + bytes(100))
                    assert peer.close_code() == 1009
        assert there.lines() == []


def test_lengths_that_are_never_filled_reserve_no_memory() -> None:
    with target() as there:
        peers = [there.peer() for _ in range(100)]
        # What was sent, in a buffer that doubles; of the next step of a direct read nothing is touched.
        with attack(there, within=3.0, grows=3 * len(peers) * 64 * KIB):
            for peer in peers:
                peer.send(head(2, 16 * MIB) + bytes(64 * KIB))
            for _ in rounds(0.5):
                there.until(lambda counts: counts["connections"] == len(peers) + 2)
            for peer in peers:
                peer.cut()
            there.until(lambda counts: counts["connections"] == 2)


def test_two_hundred_thousand_calls_in_flight_that_are_cut() -> None:
    count = 200_000
    parts = in_parts(lambda n: request(n, "forever"), count)
    each = 3 * KIB  # a task, its coroutine, an event, a future, and what the allocators add
    with target(max_in_flight=count) as there, there.peer() as peer:
        # So many tasks are so much for the garbage collector, which stops everything while it looks at
        # all of them; the watching of the memory comes after the next attack.
        everything = sys.maxsize
        with attack(there, within=8.0, grows=count * each, leaves=everything, blocks=everything, slowest=1.5):
            peer.flood(parts)
            there.until(lambda counts: counts["calls_in_flight"] == count + 1)
        # Aborting takes memory only for what unwinds at a time. Then every block is free again; how much
        # of it goes back to the system depends on what else stands in the same arenas.
        # Measured: 3.7 to 5.0 s, by how fast the machine runs at the moment.
        with attack(there, within=10.0, grows=8 * MIB, leaves=-count * each // 6, blocks=0, slowest=0.2):
            peer.cut()
            # The asking connection has itself one call running.
            counts = there.until(lambda counts: counts["calls_running"] == 1)
        assert counts["calls_lost"] == count
        assert there.lines() == []


def test_garbage_after_the_handshake() -> None:
    chance = random.Random(8)
    with target() as there:
        with attack(there, within=4.0, grows=ARENA):
            for _ in rounds():
                with there.peer() as peer:
                    peer.send(chance.randbytes(200) + head(8, 2) + struct.pack("!H", 1000))
                    peer.line.shutdown(1)
                    peer.rest()
        there.until(lambda counts: counts["connections"] == 1)
        assert not [line for line in there.lines() if "ERROR" in line or "asyncio" in line]


def test_garbage_in_messages() -> None:
    chance = random.Random(9)
    with target() as there:
        with attack(there, within=4.0, grows=ARENA):
            for _ in rounds():
                with there.peer() as peer:
                    peer.send(b"".join(message(chance.randbytes(chance.randrange(12))) for _ in range(50)))
                    assert peer.close_code() == 1002
        there.until(lambda counts: counts["connections"] == 1)
        assert not [line for line in there.lines() if "ERROR" in line or "asyncio" in line]
