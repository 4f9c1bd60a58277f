"""Adds the measurements of a guard run to a history, and draws it: one small chart for each benchmark.

A chart shows trends and gates nothing: on shared machines, times of different days come from different
processors. Instruction counts do not depend on that.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

FORMAT = 1
# The number of points to keep and draw.
MOST_POINTS = 400
WIDTH, HEIGHT, MARGIN, COLUMNS = 320, 120, 24, 3
TIME_COLOUR, COUNT_COLOUR = "#2563eb", "#b45309"


def point(revision: str, reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the values of the head from the reports of one run."""
    found: dict[str, Any] = {"revision": revision, "seconds": {}, "instructions": {}}
    for report in reports:
        found["processor"] = report["machine"]["processor"]
        found["time"] = report["machine"]["time"]
        for name, each in report["benchmarks"].items():
            if "attempts" in each:
                rounds = [seconds for attempt in each["attempts"] for seconds in attempt["seconds"]["head"]]
                found["seconds"][name] = min(rounds)
            else:
                found["instructions"][name] = each["head"]
    return found


def series(points: list[dict[str, Any]]) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """Return the points of each benchmark and kind of figure, with their values."""
    found: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for index, each in enumerate(points):
        for kind in ("seconds", "instructions"):
            for name, value in each[kind].items():
                found.setdefault((name, kind), []).append((index, value))
    return dict(sorted(found.items()))


def draw(points: list[dict[str, Any]]) -> str:
    """Return the charts as SVG, each from zero to its own maximum."""
    parts = []
    charts = series(points)
    for number, ((name, kind), values) in enumerate(charts.items()):
        left, top = number % COLUMNS * WIDTH, number // COLUMNS * HEIGHT
        greatest = max(value for _, value in values)
        across, down = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN
        step = across / max(len(points) - 1, 1)
        line = " ".join(
            f"{MARGIN + step * index:.1f},{MARGIN + down * (1 - value / greatest):.1f}"
            for index, value in values
        )
        colour = TIME_COLOUR if kind == "seconds" else COUNT_COLOUR
        last = f"{values[-1][1] * 1e6:.4g} µs" if kind == "seconds" else f"{values[-1][1]:,.0f} instructions"
        parts.append(
            f'<g transform="translate({left},{top})">'
            f'<text x="{MARGIN}" y="16">{escape(name)}: {last}</text>'
            f'<path d="M{MARGIN},{HEIGHT - MARGIN}h{across}" stroke="#999"/>'
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/></g>'
        )
    rows = -(-len(charts) // COLUMNS)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{COLUMNS * WIDTH}" height="{rows * HEIGHT}" '
        'font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--history", type=Path, required=True, help="JSON; made if it is not there")
    parser.add_argument("--chart", type=Path, required=True, help="the SVG to write")
    parser.add_argument("--revision", required=True)
    parser.add_argument("reports", type=Path, nargs="+", help="time.json, counts.json; may be missing")
    options = parser.parse_args()
    reports = [json.loads(path.read_text()) for path in options.reports if path.is_file()]
    if not reports:
        sys.exit("error: the guard left no report")
    history: dict[str, Any] = {"format": FORMAT, "points": []}
    if options.history.is_file():
        history = json.loads(options.history.read_text())
        if history["format"] != FORMAT:
            sys.exit(f"error: {options.history} has format {history['format']}, not {FORMAT}")
    points = [each for each in history["points"] if each["revision"] != options.revision]
    history["points"] = [*points, point(options.revision, reports)][-MOST_POINTS:]
    options.history.write_text(json.dumps(history, indent=1) + "\n")
    options.chart.write_text(draw(history["points"]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
