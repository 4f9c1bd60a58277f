"""What every benchmark needs: a build that may be measured, cores of its own, a server on another one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sockrpc._frames
import sockrpc._serving
from bench.peer import Peer, ServerProcess


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse to measure what is not what users run."""
    complaint = complaint_about_build()
    if complaint is not None:
        pytest.exit(f"this is not a release build of sockrpc: {complaint}", returncode=3)


def complaint_about_build() -> str | None:
    for module in (sockrpc._frames, sockrpc._serving):
        path = Path(str(module.__file__))
        if path.suffix == ".py":
            return f"{path.name} is not compiled"
        if b".debug_info" in path.read_bytes():
            return f"{path.name} was compiled with SOCKRPC_DEBUG=1"
    if is_traced():
        return "it was compiled with SOCKRPC_TRACE=1"
    return None


def is_traced() -> bool:
    """True if the compiled code tells a tracer what it does."""
    seen: list[str] = []

    def trace(frame: Any, event: str, argument: object) -> None:
        seen.append(frame.f_code.co_filename)

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        sockrpc._frames.encode("name", b"payload")
    finally:
        sys.settrace(before)
    return any(name.endswith(".pyx") for name in seen)


def cores() -> tuple[int | None, int | None]:
    """A core for the benchmarks and one for servers; None where they can not be had."""
    if not hasattr(os, "sched_setaffinity"):
        return None, None
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[-1]) if len(allowed) > 1 else (None, None)


CLIENT_CORE, SERVER_CORE = cores()


@pytest.fixture(scope="session", autouse=True)
def pinned() -> Iterator[None]:
    """Keep the benchmarks on one core; what moves between cores measures the caches."""
    if CLIENT_CORE is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {CLIENT_CORE})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@pytest.fixture(scope="session")
def server(pinned: None) -> Iterator[ServerProcess]:
    with ServerProcess(SERVER_CORE) as server:
        yield server


@pytest.fixture
def peer(server: ServerProcess) -> Iterator[Peer]:
    with Peer(server.port) as peer:
        yield peer


@pytest.fixture
def measure(benchmark: Any) -> Iterator[Any]:
    """The benchmark, which notes its 99th percentile beside the rest."""
    yield benchmark
    if benchmark.stats is not None:
        data = sorted(benchmark.stats.stats.data)
        benchmark.extra_info["p99"] = data[len(data) * 99 // 100]
