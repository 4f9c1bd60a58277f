"""Bars as SVG: text stays text, and both a light and a dark page can show it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from bench.tables import number

WIDTH = 860
LABELS = 270
VALUES = 90
BAR = 16
STEP = 24
PAD = 16
NOTE_COLUMNS = 120

# GitHub's own palettes have enough contrast on its pages; `prefers-color-scheme` also applies in images.
STYLE = """
text { font: 13px system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 }
.note, .unit { fill: #59636e; font-size: 12px }
.bar { fill: #8c959f }
.ours { fill: #0969da }
.limit { fill: none; stroke: #8c959f; stroke-dasharray: 4 3 }
.mine { font-weight: 600 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .note, .unit { fill: #9198a1 }
  .bar { fill: #656c76 }
  .ours { fill: #4493f8 }
  .limit { stroke: #9198a1 }
}
"""


@dataclass(frozen=True)
class Bar:
    """One value; `kind` is "ours", "limit", or "" for the others."""

    label: str
    value: float
    kind: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart with bars below each other, on one scale that begins at zero."""

    title: str
    unit: str
    bars: Sequence[Bar]
    less_is_better: bool = False

    @property
    def height(self) -> int:
        return 44 + STEP * len(self.bars) + PAD


def draw(charts: Sequence[Chart], note: str) -> str:
    """Draw an SVG with the charts below each other and a note at the bottom.

    Args:
        charts: The charts, from the top.
        note: The origin of the figures, whose newlines break lines.
    """
    lines = [part for line in note.splitlines() for part in textwrap.wrap(line, NOTE_COLUMNS)]
    height = sum(chart.height for chart in charts) + 18 * len(lines) + 2 * PAD
    described = "; ".join(
        f"{chart.title}: {', '.join(f'{bar.label} {number(bar.value)} {chart.unit}' for bar in chart.bars)}"
        for chart in charts
    )
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title description">',
        f'<title id="title">{escape(charts[0].title)}</title>',
        f'<desc id="description">{escape(described)}</desc>',
        f"<style>{STYLE}</style>",
    ]
    top = PAD
    for chart in charts:
        parts += draw_chart(chart, top)
        top += chart.height
    for line in lines:
        top += 18
        parts.append(f'<text class="note" x="{PAD}" y="{top}">{escape(line)}</text>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def draw_chart(chart: Chart, top: int) -> list[str]:
    scale = (WIDTH - LABELS - VALUES - 2 * PAD) / max(bar.value for bar in chart.bars)
    better = "less is better" if chart.less_is_better else "more is better"
    parts = [
        f'<text class="title" x="{PAD}" y="{top + 14}">{escape(chart.title)}</text>',
        f'<text class="unit" x="{PAD}" y="{top + 32}">{escape(chart.unit)}; {better}</text>',
    ]
    for index, bar in enumerate(chart.bars):
        y = top + 44 + index * STEP
        # A value too small to be seen is drawn as a line.
        width = max(1.0, bar.value * scale)
        kind = bar.kind or "bar"
        mine = ' class="mine"' if bar.kind == "ours" else ""
        parts += [
            f'<text{mine} x="{LABELS}" y="{y + 13}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect class="{kind}" x="{LABELS + PAD}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>',
            f'<text{mine} x="{LABELS + PAD + width + 8:.1f}" y="{y + 13}">{escape(number(bar.value))}</text>',
        ]
    return parts


def write(path: Path, charts: Sequence[Chart], note: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(draw([chart for chart in charts if chart.bars], note))
