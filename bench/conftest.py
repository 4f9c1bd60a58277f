"""Fixtures of all benchmarks: a build that may be measured, cores of its own, a server on another one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from bench.arena import Contender, Server, alone
from bench.machine import LOAD_CORE, complaint_about_build
from bench.peer import Peer


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse to measure a build other than users run."""
    complaint = complaint_about_build()
    if complaint is not None:
        pytest.exit(f"this is not a release build of sockrpc: {complaint}", returncode=3)


@pytest.fixture(scope="session", autouse=True)
def pinned() -> Iterator[None]:
    """Keep the benchmarks on one core; otherwise moves between cores would measure the caches."""
    if LOAD_CORE is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {LOAD_CORE})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@pytest.fixture(scope="session")
def server(pinned: None) -> Iterator[Server]:
    with alone(Contender("sockrpc", "sockrpc_server", arguments={"quiet": 1})) as server:
        yield server


@pytest.fixture(scope="session")
def raised_server(pinned: None) -> Iterator[Server]:
    """A server that accepts 200,000 calls on a connection."""
    with alone(Contender("sockrpc", "sockrpc_server", arguments={"quiet": 1, "raised": 1})) as server:
        yield server


@pytest.fixture
def peer(server: Server) -> Iterator[Peer]:
    with Peer(server.port) as peer:
        yield peer


@pytest.fixture
def measure(benchmark: Any) -> Iterator[Any]:
    """The benchmark, which reports its 99th percentile as well."""
    yield benchmark
    if benchmark.stats is not None:
        data = sorted(benchmark.stats.stats.data)
        benchmark.extra_info["p99"] = data[len(data) * 99 // 100]
