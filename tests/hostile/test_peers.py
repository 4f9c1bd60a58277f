"""Peers that come and go, that wait, that do not read, that speak something else."""

from __future__ import annotations

import contextlib
import random
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trustme

from tests.hostile.attack import ARENA, KIB, MIB, attack, rounds, target
from tests.hostile.peer import head, request
from tests.kit.loops import LOOPS
from tests.kit.processes import ROOT
from tests.kit.support import opening

pytestmark = [
    pytest.mark.hostile,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]


# What a TLS handshake under way takes: OpenSSL's buffers; asyncio has one of 256 KiB to receive into.
TLS_BYTES = {"uvloop": 64 * KIB, "asyncio": 320 * KIB}


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "certificate.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


def test_handshakes_that_drip_are_ended_in_time() -> None:
    with target(handshake_timeout=1.0, max_connections=450) as there:
        # A connection with its handshake, and less than 1 KiB of header.
        with attack(there, within=2.5, grows=400 * 16 * KIB, leaves=400 * 8 * KIB):
            begun = time.monotonic()
            peers = [there.peer(opened=False) for _ in range(400)]
            for peer in peers:
                peer.send(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Drip: ")
            left = {peer.line for peer in peers}
            while left:
                # It lasts until the server ends it: a byte every hundredth of a second.
                ended, _, _ = select.select(left, [], [], 0.01)
                left.difference_update(ended)
                for line in left:
                    with contextlib.suppress(ConnectionError):
                        line.sendall(b"x")
            # A quarter late at most, twice, as a sweep finds it and the next one acts.
            assert 1.0 <= time.monotonic() - begun <= 2.0
        assert there.lines() == []
        assert there.statistics()["connections"] == 1


def test_tls_handshakes_that_never_come_are_ended_in_time(certificate: Path) -> None:
    with target(handshake_timeout=1.0, tls=certificate) as there:
        with attack(there, within=2.5, grows=200 * TLS_BYTES["uvloop"], leaves=4 * MIB):
            peers = [there.peer(opened=False, tls=False) for _ in range(200)]
            for peer in peers:
                assert peer.rest() == b""
        assert there.lines() == []


@pytest.mark.parametrize("loop", LOOPS)
def test_no_more_tls_handshakes_than_connections_are_under_way(certificate: Path, loop: str) -> None:
    limit = 100
    with target(loop, handshake_timeout=1.5, tls=certificate, max_connections=limit) as there:
        with attack(there, within=3.0, grows=limit * TLS_BYTES[loop], leaves=2 * MIB):
            peers = [there.peer(opened=False, tls=False) for _ in range(limit + 100)]
            begun = time.monotonic()
            for peer in peers[limit:]:
                assert peer.rest() == b""
            assert time.monotonic() - begun < 0.75, "they were not refused, but ended in time"
            waiting, _, _ = select.select([peer.line for peer in peers[:limit]], [], [], 0)
            assert waiting == []
            for peer in peers[:limit]:
                assert peer.rest() == b""
        assert there.lines() == [
            f"WARNING sockrpc.server: refusing connections: {limit} TLS handshakes are under way"
        ]


# Answers pings on all of its connections, and says so, until it is stopped.
ANSWERING = """
import selectors, sys
from tests.hostile.peer import *
peers, selector = [], selectors.DefaultSelector()
for _ in range(int(sys.argv[2])):
    peer = Peer(int(sys.argv[1]))
    peer.send(request(1, "forever"))
    selector.register(peer.line, selectors.EVENT_READ, peer)
    peers.append(peer)
while True:
    for key, _ in selector.select():
        opcode, payload = key.data.receive()
        assert opcode == 9 and not key.data.buffer
        key.data.send(head(10, len(payload)) + payload)
    print("answered", flush=True)
"""


def test_clients_that_were_stopped_are_found_by_keepalive() -> None:
    count, interval, patience = 100, 0.3, 0.4
    with target(ping_interval=interval, ping_timeout=patience) as there:
        command = [sys.executable, "-c", ANSWERING, str(there.port), str(count)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                begun = time.monotonic()
                # They live as long as they answer.
                while time.monotonic() < begun + 2 * (interval + patience):
                    assert process.stdout.readline() == "answered\n"
                assert there.statistics()["calls_in_flight"] == count + 1
                assert there.statistics()["calls_lost"] == 0
                with attack(there, within=1.5, grows=ARENA) as measured:
                    process.send_signal(signal.SIGSTOP)
                    there.until(lambda counts: counts["calls_lost"] == count and counts["calls_running"] == 1)
                # Not before a ping's time was over, of which some may have passed.
                assert measured.seconds >= patience / 2
            finally:
                process.kill()


def test_a_client_that_reads_but_does_not_answer_pings_is_found_by_keepalive() -> None:
    with target(ping_interval=0.3, ping_timeout=0.4) as there, there.peer() as peer:
        begun = time.monotonic()
        peer.send(request(1, "forever"))
        with attack(there, within=1.5, grows=ARENA):
            # In full, each; then the end.
            assert peer.rest() == b"\x89\x07sockrpc"
            assert time.monotonic() - begun >= 0.3 + 0.4
        assert there.statistics()["calls_lost"] == 1


def test_a_client_that_asks_for_megabytes_and_does_not_read() -> None:
    with target(stall_timeout=1.0) as there:
        # output_high_bytes and the answer that goes beyond it, for each; further calls do not start.
        with attack(there, within=4.0, grows=4 * 3 * MIB, leaves=3 * MIB):
            peers = [there.peer() for _ in range(4)]
            for peer in peers:
                peer.send(b"".join(request(id, "megabytes", b"2") for id in range(1, 1001)))
            counts = there.until(lambda counts: counts["connections"] == 2)
        assert counts["calls_lost"] >= 4 * 900


def test_ten_thousand_connections_that_come_and_go() -> None:
    text = opening()
    with target() as there:
        with attack(there, within=12.0, grows=2 * MIB):
            for n in range(10_000):
                with socket.create_connection(("127.0.0.1", there.port)) as line:
                    if n % 4 == 0:
                        # Never said anything.
                        continue
                    line.sendall(text)
                    if n % 4 == 1:
                        # Did not wait for the answer, which finds nobody.
                        continue
                    assert line.recv(4096).startswith(b"HTTP/1.1 101 ")
                    line.sendall(request(1, "forever"))
                    if n % 4 == 2:
                        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            counts = there.until(lambda counts: counts["connections"] == 2 and counts["calls_running"] == 1)
            # A TCP reset may overtake the request.
            assert 2500 <= counts["calls_lost"] <= 5000
        assert there.lines() == []


def test_garbage_instead_of_a_handshake() -> None:
    chance = random.Random(7)
    with target() as there:
        with attack(there, within=3.0, grows=ARENA):
            for _ in rounds():
                with there.peer(opened=False) as peer, contextlib.suppress(OSError):
                    peer.send(chance.randbytes(chance.randrange(1, 2000)) + b"\r\n\r\n")
                    assert not peer.rest().startswith(b"HTTP/1.1 101")
        assert there.statistics()["connections"] == 1
        assert not [line for line in there.lines() if "ERROR" in line or "asyncio" in line]


def test_tls_on_the_plain_port() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with target() as there:
        with attack(there, within=2.0, grows=ARENA):
            for _ in rounds(0.5):
                line = socket.create_connection(("127.0.0.1", there.port), 5.0)
                # At once, with a 400 that a client of TLS reports as no TLS.
                with (
                    line,
                    pytest.raises(ssl.SSLError, match=r"(?i)wrong.version.number|record.layer.failure"),
                ):
                    context.wrap_socket(line)
        assert there.lines() == []


@pytest.mark.parametrize("what", ["http", "garbage"])
def test_what_is_not_tls_on_the_tls_port(what: str, certificate: Path) -> None:
    data = opening() if what == "http" else head(2, 100) + bytes(range(256)) * 4
    with target(tls=certificate) as there:
        with attack(there, within=2.0, grows=ARENA):
            for _ in rounds(0.5):
                with there.peer(opened=False, tls=False) as peer:
                    peer.send(data)
                    assert not peer.rest().startswith(b"HTTP/")
        assert there.lines() == []
