"""How much memory a process has to itself, and how long it has run."""

from __future__ import annotations

from pathlib import Path


def private_bytes(pid: int | str = "self") -> int:
    """The anonymous memory of a process that is resident: its heaps and stacks, not its files."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this kernel does not tell a process's anonymous memory")


def processor_seconds(pid: int) -> float:
    """How long the main thread of a process has been on a processor."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9
