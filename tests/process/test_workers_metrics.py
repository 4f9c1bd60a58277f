"""Metrics of several workers: each has a port of its own, also while it is replaced."""

from __future__ import annotations

import itertools
import re
import signal
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.kit.command import PATIENCE
from tests.kit.processes import eventually
from tests.kit.workers import ONCE, TWO, Workers, is_alive

METRICS = re.compile(r"metrics are at http://127\.0\.0\.1:(\d+)/metrics$", re.MULTILINE)


def free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens on."""
    for first in itertools.count(20_000, count):
        lines = [socket.socket() for _ in range(count)]
        try:
            for port, line in enumerate(lines, first):
                line.bind(("127.0.0.1", port))
        except OSError:
            continue
        else:
            return first
        finally:
            for line in lines:
                line.close()
    raise AssertionError


def has_metrics(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
            return b"sockrpc_responsive 1.0" in answer.read()
    except urllib.error.URLError:
        return False


@ONCE
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
def test_each_worker_serves_its_metrics_and_so_does_its_successor(tmp_path: Path) -> None:
    first = free_ports(4)
    with Workers(tmp_path, *TWO, "--metrics-port", str(first)) as server:
        old = server.pids(2)
        assert [has_metrics(first + n) for n in range(4)] == [True, True, False, False]
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: not any(map(is_alive, old)))
        assert not server.pids(2) & old
        assert sum(has_metrics(first + n) for n in range(4)) == 2
        assert server.stop() == 0
        assert not server.logged("ERROR")


@ONCE
def test_with_port_0_each_worker_takes_a_port_of_its_own_which_the_log_tells(tmp_path: Path) -> None:
    with Workers(tmp_path, *TWO, "--metrics-port", "0") as server:
        server.pids(2)
        told = METRICS.findall("\n".join(server.logged("metrics are at")))
        assert len(set(told)) == 2
        assert all(has_metrics(int(port)) for port in told)
        assert server.stop() == 0
        assert not server.logged("ERROR")
