"""Reports of a comparison: JSON with all measurements, and tables in Markdown."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sockrpc.bench.comparison import Comparison
from sockrpc.bench.counts import Counted
from sockrpc.bench.verdict import Attempt, Outcome, Result

__all__ = ["comparison_json", "comparison_markdown", "counts_json", "counts_markdown", "duration", "machine"]

FORMAT = 1
HEADLINES = {
    Outcome.OK: "**ok**: nothing has become slower",
    Outcome.SLOWER: "**slower**: in two quiet attempts, by the minima and by the lower quartiles",
    Outcome.INCONCLUSIVE: "**inconclusive**: nobody is blamed",
}


def machine() -> dict[str, Any]:
    """Return the machine that the figures belong to."""
    load: list[float] | None = None
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            load = list(os.getloadavg())
    return {
        "system": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "load_average": load,
        "time": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def duration(seconds: float) -> str:
    """Format a time with three digits and a unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def percent(ratio: float) -> str:
    return f"{(ratio - 1) * 100:+.1f} %"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    marks = ["---", *("---:" for _ in head[1:-1]), "---"]
    return [f"| {' | '.join(cells)} |" for cells in [head, marks, *rows]]


def attempt_json(attempt: Attempt) -> dict[str, Any]:
    return {
        "loops": attempt.loops,
        "seconds": attempt.rounds,
        "change": dict(zip(("minima", "lower_quartiles"), attempt.change, strict=True)),
        "noise": dict(zip(("minima", "lower_quartiles"), attempt.noise, strict=True)),
        "is_slower": attempt.is_slower,
        "is_noisy": attempt.is_noisy,
    }


def comparison_json(comparison: Comparison, exit_code: int) -> dict[str, Any]:
    """Return each round of each attempt, and the machine that ran them."""
    plan = comparison.plan
    return {
        "format": FORMAT,
        "outcome": comparison.outcome,
        "exit_code": exit_code,
        "limit": plan.limit,
        "rounds": plan.rounds,
        "confirm": plan.confirm,
        "seed": plan.seed,
        "slowed": plan.slow,
        "machine": machine(),
        "versions": comparison.versions,
        "benchmarks": {
            result.name: {
                "outcome": result.outcome,
                "attempts": [attempt_json(attempt) for attempt in result.attempts],
            }
            for result in comparison.results
        },
        "incomparable": comparison.incomparable,
        "new": comparison.new,
    }


def result_row(result: Result) -> list[str]:
    attempt = result.attempts[-1]
    again = f" ({len(result.attempts)} attempts)" if len(result.attempts) > 1 else ""
    return [
        result.name,
        duration(min(attempt.rounds["base"])),
        duration(min(attempt.rounds["head"])),
        *(percent(ratio) for ratio in attempt.change),
        " ".join(percent(ratio) for ratio in attempt.noise),
        f"{result.outcome}{again}",
    ]


def comparison_markdown(comparison: Comparison) -> str:
    """Return a table, for example for a job's summary."""
    plan = comparison.plan
    head = ["benchmark", "base", "head", "minima", "lower quartiles", "base against itself", "outcome"]
    where = machine()
    load = where["load_average"]
    loaded = "" if load is None else f", load average {load[0]:.1f}"
    lines = [
        f"Time: {HEADLINES[comparison.outcome]} (limit {plan.limit * 100:g} %).",
        "",
        *table(head, [result_row(result) for result in comparison.results]),
        "",
        *(f"- `{name}` is new: only the head has it." for name in comparison.new),
        *(f"- `{name}` could not be compared: {why}" for name, why in comparison.incomparable.items()),
        f"- Base: {versions(comparison.versions['base'])}. Head: {versions(comparison.versions['head'])}.",
        f"- {plan.rounds} rounds each, interleaved; {where['processor']}, {where['cores']} cores{loaded}.",
    ]
    return "\n".join(lines) + "\n"


def versions(found: dict[str, Any]) -> str:
    return ", ".join(f"{name} {found[name]}" for name in ("sockrpc", "python", "uvloop") if found[name])


def counts_json(counted: Sequence[Counted], limit: float, exit_code: int) -> dict[str, Any]:
    """Return all counts."""
    return {
        "format": FORMAT,
        "exit_code": exit_code,
        "limit": limit,
        "machine": machine(),
        "benchmarks": {
            each.name: {
                "loops": each.loops,
                "base": each.base,
                "head": each.head,
                "change": each.change,
                "outcome": each.outcome(limit),
            }
            for each in counted
        },
    }


def counts_markdown(counted: Sequence[Counted], limit: float) -> str:
    """Return a table of instructions."""
    slower = any(each.outcome(limit) is Outcome.SLOWER for each in counted)
    headline = "**slower**" if slower else "**ok**"
    rows = [
        [each.name, f"{each.base:,.0f}", f"{each.head:,.0f}", percent(each.change), each.outcome(limit)]
        for each in counted
    ]
    lines = [
        f"Instructions: {headline} (limit {limit * 100:g} %).",
        "",
        *table(["benchmark", "base", "head", "change", "outcome"], rows),
    ]
    return "\n".join(lines) + "\n"
