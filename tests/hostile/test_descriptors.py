"""File descriptors run out, for whatever reason: new connections are told so, others notice nothing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.hostile.attack import KIB, MIB, Target, attack, rounds, target
from tests.hostile.peer import Peer
from tests.kit.loops import LOOPS
from tests.kit.support import opening

pytestmark = [
    pytest.mark.hostile,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
    pytest.mark.parametrize("loop", LOOPS),
]

FILES = 256


@pytest.fixture(params=["plain", "tls"])
def exhausted(request: pytest.FixtureRequest, loop: str, tmp_path: Path) -> Iterator[tuple[Target, Peer]]:
    """A server whose handler has opened files until there were no descriptors, and who made it do so."""
    certificate = None
    if request.param == "tls":
        certificate = tmp_path / "certificate.pem"
        trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    with target(loop, files=FILES, tls=certificate, max_connections=FILES) as there, there.peer() as peer:
        yield there, peer


def ask(there: Target) -> bytes:
    with there.peer(opened=False) as peer:
        with contextlib.suppress(OSError):
            peer.send(opening())
        with contextlib.suppress(EOFError, ConnectionError):
            peer.until(b"\r\n\r\n")
            return peer.seen.partition(b"\r\n")[0]
        return b""


def test_no_descriptors_are_503_for_new_connections_and_nothing_for_others(
    exhausted: tuple[Target, Peer], loop: str
) -> None:
    there, peer = exhausted
    with attack(there, within=4.0, grows=2 * MIB):
        count, number = peer.call(1, "open_files").split()
        assert int(count) > FILES // 2
        assert number == b"24"
        answers = {ask(there) for _ in rounds()}
        assert answers == {b"HTTP/1.1 503 Service Unavailable"}
        assert peer.call(2, "echo", b"still") == b"still"
        lines = peer.report()["lines"]
        assert len(lines) == 1, lines
        assert lines[0][:2] == ["WARNING", "sockrpc.server"]
        assert "file descriptors" in lines[0][2]
        peer.call(3, "close_files")
        with there.peer() as other:
            assert other.call(1, "echo", b"again") == b"again"


def test_a_server_whose_reserve_is_used_up_does_not_spin_and_recovers(
    exhausted: tuple[Target, Peer], loop: str
) -> None:
    there, peer = exhausted
    peer.call(1, "open_files")
    # Connections that are refused and do not go away, more than the reserve can hold.
    waiting = [there.peer(opened=False, tls=False) for _ in range(40)]
    assert there.cpu_used_in(0.7) < 0.15, "it spins"
    lines = peer.report()["lines"]
    # Each reason once: hardly any is free, and then none.
    texts = [text for _, _, text in lines]
    assert 1 <= len(texts) == len(set(texts)) <= 2, lines
    for each in waiting:
        each.line.close()
    peer.call(2, "close_files")
    with there.peer() as other:
        assert other.call(1, "echo", b"again") == b"again"


def test_the_last_descriptors_are_not_for_connections(loop: str) -> None:
    with target(loop, files=FILES, max_connections=FILES) as there:
        peers = []
        with attack(there, within=3.0, grows=FILES * 12 * KIB, leaves=FILES * 8 * KIB):
            while True:
                peer = there.peer(opened=False)
                peer.send(opening())
                if peer.until(b"\r\n\r\n").startswith(b"HTTP/1.1 503 "):
                    break
                peers.append(peer)
            assert FILES // 2 < len(peers) < FILES - 16
            assert peers[0].call(1, "echo", b"still") == b"still"
            for each in peers[1:-1]:
                each.cut()
            # Who got in last could still ask, and sees the others go.
            while peers[-1].report()["statistics"]["connections"] > 3:
                pass
