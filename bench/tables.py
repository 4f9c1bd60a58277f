"""Medians, quantiles, ratios, and tables for people."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of the values is not above."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """What the load generator says of a histogram, of a list of values."""
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
    """The median of the ratios of each round: both sides of one had the same neighbours on the machine."""
    return statistics.median(a / b for a, b in zip(ours, others, strict=True))


def spread(values: Sequence[float]) -> float:
    """How far apart the middle half of the values lies, as a share of their median."""
    low, high = quantile(values, 0.25), quantile(values, 0.75)
    return (high - low) / statistics.median(values)


def number(value: float | None) -> str:
    """Three digits that matter, and thousands apart."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    if digits <= 0:
        return f"{round(value, digits):,.0f}"
    return f"{value:.{digits}f}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown whose columns stand below each other in plain text, too."""
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
    """A table of columns by name: values[row][column]; what a row lacks is a dash."""
    columns = list(dict.fromkeys(name for row in values.values() for name in row))
    rows = [[name, *(number(row.get(column)) for column in columns)] for name, row in values.items()]
    return markdown([first, *columns], rows)
