"""The measured build and the machine: cores, processor, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import sockrpc._frames
import sockrpc.peer.peer

PACKAGES = (
    *("sockrpc", "uvloop", "websockets", "picows", "aiohttp", "grpcio"),
    *("python-socketio", "uvicorn", "fastapi"),
)


def cores() -> tuple[int | None, int | None]:
    """Return a core for the load and one for servers; None if they are not available."""
    if not hasattr(os, "sched_setaffinity"):
        return None, None
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[-1]) if len(allowed) > 1 else (None, None)


LOAD_CORE, SERVER_CORE = cores()


def complaint_about_build() -> str | None:
    """Return why this build of sockrpc must not be measured; None if it may."""
    for module in (sockrpc._frames, sockrpc.peer.peer):
        path = Path(str(module.__file__))
        if path.suffix == ".py":
            return f"{path.name} is not compiled"
        if b".debug_info" in path.read_bytes():
            return f"{path.name} was compiled with SOCKRPC_DEBUG=1"
    if is_traced():
        return "it was compiled with SOCKRPC_TRACE=1"
    return None


def is_traced() -> bool:
    """True if the compiled code reports to a tracer."""
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


def refuse_unfit_build() -> None:
    """End the program if the build differs from the one that users run."""
    complaint = complaint_about_build()
    if complaint is not None:
        sys.exit(f"this is not a release build of sockrpc: {complaint}")


def describe() -> dict[str, Any]:
    """Return the facts that readers of the figures need later."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "processor": processor(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "load_core": LOAD_CORE,
        "server_core": SERVER_CORE,
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "commit": commit(),
        "packages": {name: version for name in PACKAGES if (version := version_of(name))},
    }


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def commit() -> str | None:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None


def version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
