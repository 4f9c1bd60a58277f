"""Medians, quantiles, ratios, and tables for people."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value such that this share of the values does not exceed it."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Return the load generator's summary of a histogram for a list of values."""
    return {
        "count": len(values),
        "mean": statistics.fmean(values),
        "p50": quantile(values, 0.5),
        "p90": quantile(values, 0.9),
        "p99": quantile(values, 0.99),
        "p99.9": quantile(values, 0.999),
        "max": max(values),
    }


def paired_ratio(ours: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of the rounds' ratios, because both sides of a round shared the machine's load."""
    return statistics.median(a / b for a, b in zip(ours, others, strict=True))


def spread(values: Sequence[float]) -> float:
    """Return the width of the middle half of the values, as a share of their median."""
    low, high = quantile(values, 0.25), quantile(values, 0.75)
    return (high - low) / statistics.median(values)


def number(value: float | None) -> str:
    """Format with three significant digits and separated thousands."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    if digits <= 0:
        return f"{round(value, digits):,.0f}"
    return f"{value:.{digits}f}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown whose columns are aligned as plain text, too."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    align = [str.ljust, *([str.rjust] * (len(head) - 1))]

    def written(line: Sequence[str]) -> str:
        cells = (put(text, width) for put, text, width in zip(align, line, widths, strict=True))
        return f"| {' | '.join(cells)} |"

    rule = (
        "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    )
    return "\n".join([written(lines[0]), rule, *(written(line) for line in lines[1:])])


def table_of(values: Mapping[str, Mapping[str, float]], first: str) -> str:
    """Return a table of columns by name: values[row][column]; missing values become dashes."""
    columns = list(dict.fromkeys(name for row in values.values() for name in row))
    rows = [[name, *(number(row.get(column)) for column in columns)] for name, row in values.items()]
    return markdown([first, *columns], rows)
