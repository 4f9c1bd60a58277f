"""Peers that come and go, that wait, that do not read, that speak something else."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trustme

from tests.hostile.attack import MIB, attack, target
from tests.hostile.peer import head, request
from tests.processes import ROOT
from tests.support import opening

pytestmark = [
    pytest.mark.hostile,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "certificate.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


def test_handshakes_that_drip_are_ended_in_time() -> None:
    with target(handshake_timeout=1.0, max_connections=450) as there:
        # Each may have sent up to its whole header; the sockets' own buffers are the system's.
        with attack(there, within=6.0, grows=16 * MIB):
            peers = [there.peer(opened=False) for _ in range(400)]
            left = list(peers)
            text = opening()
            begun = time.monotonic()
            for n in range(len(text) - 4):
                for peer in list(left):
                    try:
                        peer.send(text[n : n + 1])
                    except OSError:
                        left.remove(peer)
                if not left:
                    break
            assert not left, f"{len(left)} still drip"
            # A quarter late at most, and what one round of dripping takes.
            assert time.monotonic() - begun < 4.0
        assert there.lines() == []
        assert there.statistics()["connections"] == 1


def test_tls_handshakes_that_never_come_are_ended_in_time(certificate: Path) -> None:
    with target(handshake_timeout=1.0, tls=certificate) as there:
        with attack(there, within=6.0, grows=40 * MIB):
            peers = [there.peer(opened=False, tls=False) for _ in range(200)]
            for peer in peers:
                assert peer.rest() == b""
        assert there.lines() == []


def test_a_client_that_was_stopped_is_found_by_keepalive() -> None:
    code = (
        "import sys; from tests.hostile.peer import *; peer = Peer(int(sys.argv[1]));"
        "peer.send(request(1, 'forever')); print('ready', flush=True); peer.rest()"
    )
    with target(ping_interval=0.5, ping_timeout=0.5) as there:
        command = [sys.executable, "-c", code, str(there.port)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                there.until(lambda counts: counts["calls_in_flight"] == 2)
                with attack(there, within=3.0, grows=1 * MIB):
                    process.send_signal(signal.SIGSTOP)
                    counts = there.until(lambda counts: counts["calls_lost"] == 1)
                assert counts["calls_running"] == 1
            finally:
                process.kill()


def test_a_client_that_asks_for_megabytes_and_does_not_read() -> None:
    with target(stall_timeout=1.0) as there:
        # output_high_bytes and the answer that goes beyond it, for each; further calls do not start.
        with attack(there, within=8.0, grows=4 * 3 * 4 * MIB):
            peers = [there.peer() for _ in range(4)]
            for peer in peers:
                peer.send(b"".join(request(id, "megabytes", b"2") for id in range(1, 1001)))
            counts = there.until(lambda counts: counts["connections"] <= 2)
        assert counts["calls_lost"] >= 4 * 900


def test_ten_thousand_connections_that_come_and_go() -> None:
    text = opening()
    with target() as there:
        with attack(there, within=30.0, grows=6 * MIB):
            for n in range(10_000):
                with socket.create_connection(("127.0.0.1", there.port)) as line:
                    line.sendall(text)
                    if n % 4:
                        line.recv(4096)
        there.until(lambda counts: counts["connections"] == 1)
        assert there.lines() == []


def test_garbage_instead_of_a_handshake() -> None:
    chance = random.Random(7)
    with target() as there:
        with attack(there, within=10.0, grows=4 * MIB):
            for _ in range(500):
                with there.peer(opened=False) as peer, contextlib.suppress(OSError):
                    peer.send(chance.randbytes(chance.randrange(1, 2000)) + b"\r\n\r\n")
                    assert not peer.rest().startswith(b"HTTP/1.1 101")
        assert there.statistics()["connections"] == 1
        assert not [line for line in there.lines() if "ERROR" in line or "asyncio" in line]


def test_tls_on_the_plain_port() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with target(handshake_timeout=1.0) as there:
        with attack(there, within=10.0, grows=2 * MIB):
            for _ in range(2):
                line = socket.create_connection(("127.0.0.1", there.port), 5.0)
                with line, pytest.raises(OSError, match=r"(?i)ssl|reset|eof"):
                    context.wrap_socket(line)
        assert there.lines() == []


@pytest.mark.parametrize("what", ["http", "garbage"])
def test_what_is_not_tls_on_the_tls_port(what: str, certificate: Path) -> None:
    data = opening() if what == "http" else head(2, 100) + bytes(range(256)) * 4
    with target(tls=certificate) as there:
        with attack(there, within=10.0, grows=4 * MIB):
            for _ in range(100):
                with there.peer(opened=False, tls=False) as peer:
                    peer.send(data)
                    assert b"101" not in peer.rest()
        assert there.lines() == []
