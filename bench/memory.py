"""The private memory of a process, and its processor time."""

from __future__ import annotations

from pathlib import Path


def private_bytes(pid: int | str = "self") -> int:
    """Return the resident anonymous memory of a process: its heaps and stacks, but not its files."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this kernel does not tell a process's anonymous memory")


def processor_seconds(pid: int) -> float:
    """Return the processor time of the main thread of a process."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9
