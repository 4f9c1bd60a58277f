"""What one connection can make the server hold is the sum that docs/explanation/security.md states."""

from __future__ import annotations

import sys

import pytest

from tests.hostile.attack import MIB, attack, target
from tests.hostile.peer import message, request
from tests.kit import v1_peer as v1

pytestmark = [
    pytest.mark.hostile,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]

# The documented sum, with the defaults: payloads, unread output, and one answer. What is counted there for
# calls without a payload is small here, as there are few.
PAYLOADS, OUTPUT, ANSWER = 40 * MIB, 16 * MIB, MIB
# The memory that the transport gathers its output in, the receive buffer, and what the allocator rounds up.
AROUND = 7 * MIB


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_all_that_one_connection_can_hold_at_the_same_time(loop: str) -> None:
    with target(loop, close_timeout=0.5) as there, there.peer() as peer:
        with attack(there, within=10.0, grows=PAYLOADS + OUTPUT + ANSWER + AROUND, slowest=0.2) as measured:
            # Calls whose answers come when nothing can be held back any more ...
            peer.send(b"".join(request(n, "late", b"%d" % n) for n in range(100)))
            # ... payloads that run, up to the limit, and one that waits and passes it.
            for n, size in enumerate([16 * MIB - 100, 7 * MIB, 16 * MIB - 100]):
                peer.send(request(1000 + n, "forever", bytes(size)))
            there.until(lambda counts: counts["procedures_waiting"] == 1)
            with there.peer() as other:
                other.call(1, "relent")
            there.until(lambda counts: counts["slow_peers_closed"] == 1)
            there.until(lambda counts: counts["connections"] == 2)
        # It did hold most of that, or the bound would prove nothing.
        assert measured.grown > (PAYLOADS + OUTPUT) * 0.85
        assert there.statistics()["calls_running"] == 1


def test_a_peer_of_sockrpc_v1_that_never_reads() -> None:
    # A thousand nested calls run at a time, some KiB each. They start although the output is full, and each
    # end is output; nothing else may be left of one.
    limit = MIB // 2
    limits = {"output_low_bytes": 0, "output_high_bytes": limit // 8, "output_max_bytes": limit}
    with target(close_timeout=0.5, **limits) as there, there.peer(v1=True) as peer:
        with attack(there, within=30.0, grows=limit + 8 * MIB, leaves=4 * MIB, slowest=0.2):
            peer.send(message(v1.opened(1, "stream", flags=v1.TAKES)) + message(v1.credit(1, 2**31 - 65_537)))
            there.until(lambda counts: counts["calls_running"] == 2)
            ids = range(2, 10_002)
            flags = v1.TAKES | v1.NESTED
            peer.send_until_cut(
                b"".join(message(v1.opened(n, "stream", flags=flags)) + message(v1.reset(n)) for n in ids)
            )
            there.until(lambda counts: counts["slow_peers_closed"] == 1)
            there.until(lambda counts: counts["connections"] == 2)
        assert there.statistics()["calls_running"] == 1
