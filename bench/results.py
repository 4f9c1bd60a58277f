"""The figures of pytest-benchmark as a table and a picture: `python -m bench.results build/bench.json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.picture import Bar, Chart, write
from bench.tables import markdown, number

US = 1e6


def group(benchmark: Mapping[str, Any]) -> str:
    """Return the chart of a benchmark: its test, regardless of parameters."""
    return str(benchmark["name"]).partition("[")[0].removeprefix("test_").replace("_", " ")


def rows(benchmarks: list[Mapping[str, Any]]) -> list[list[str]]:
    found = []
    for each in benchmarks:
        stats = each["stats"]
        calls = each["extra_info"].get("calls")
        p99 = each["extra_info"].get("p99")
        found.append(
            [
                f"{group(each)} {each.get('param') or ''}".strip(),
                *(number(stats[name] * US) for name in ("min", "median", "iqr")),
                number(p99 * US if p99 is not None else None),
                str(stats["rounds"]),
                number(calls / stats["median"] if calls else None),
            ]
        )
    return found


def charts(benchmarks: list[Mapping[str, Any]]) -> list[Chart]:
    """Return a chart for each test, with a bar for each of its parameters."""
    grouped: dict[str, list[Bar]] = {}
    for each in benchmarks:
        bar = Bar(str(each.get("param") or "·"), each["stats"]["median"] * US, "ours")
        grouped.setdefault(group(each), []).append(bar)
    return [Chart(name, "µs, median of rounds", bars, True) for name, bars in grouped.items()]


def main() -> None:
    source = Path(sys.argv[1])
    data = json.loads(source.read_text())
    benchmarks = data["benchmarks"]
    if not benchmarks:
        sys.exit(f"{source} has no benchmarks")
    head = ["benchmark", "min, µs", "median, µs", "iqr, µs", "p99, µs", "rounds", "calls a second"]
    text = markdown(head, rows(benchmarks))
    source.with_suffix(".md").write_text(f"{text}\n")
    python = data["machine_info"]["python_version"]
    note = f"CPython {python}, {data['machine_info']['cpu'].get('brand_raw', '')}, {data['datetime'][:10]}"
    write(source.with_suffix(".svg"), charts(benchmarks), note)
    print(f"\n{text}\n\n{source}, {source.with_suffix('.md')} and {source.with_suffix('.svg')} have them")


if __name__ == "__main__":
    main()
