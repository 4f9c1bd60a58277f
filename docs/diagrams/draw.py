"""Draws the diagrams of the documentation: python docs/diagrams/draw.py

The sources are the functions below, one for each picture; a test fails if a picture is not what they draw.
The life of a call is drawn from the tables that drive it, so this needs a Python that has sockrpc.
A picture has a background of its own and follows what the system prefers, so it can be read on any page.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from sockrpc._frames import PROTOCOL_V0, PROTOCOL_V1
from sockrpc.peer.states import CALLEE, CALLER, PROTOCOLS, Row

FOLDER = Path(__file__).resolve().parent

STYLE = """
  .card { fill: #ffffff; stroke: #d0d7de }
  .box { fill: #f1f5fb; stroke: #5b7083 }
  .mark { fill: #d7e6ff; stroke: #0b57d0 }
  .bad { fill: #ffe4de; stroke: #b3261e }
  text { fill: #1f2328; font: 14px system-ui, sans-serif }
  .small { font-size: 12px; fill: #4c5966 }
  .code { font-family: ui-monospace, monospace; font-size: 13px }
  .title { font-weight: 600 }
  line, path { stroke: #5b7083; stroke-width: 1.5; fill: none }
  .life { stroke-dasharray: 4 4 }
  .arrow { stroke: #0b57d0 } .tip { fill: #0b57d0 }
  .lost { stroke: #b3261e } .lost-tip { fill: #b3261e }
  @media (prefers-color-scheme: dark) {
    .card { fill: #16191d; stroke: #3b434c }
    .box { fill: #232a32; stroke: #8a9aa9 }
    .mark { fill: #15325e; stroke: #8ab4f8 }
    .bad { fill: #4d1f1b; stroke: #f2b8b5 }
    text { fill: #e6edf3 }
    .small { fill: #aab6c1 }
    line, path { stroke: #8a9aa9 }
    .arrow { stroke: #8ab4f8 } .tip { fill: #8ab4f8 }
    .lost { stroke: #f2b8b5 } .lost-tip { fill: #f2b8b5 }
  }
"""


class Picture:
    """An SVG that grows by shapes; x and y are pixels from the upper left corner."""

    def __init__(self, title: str, width: int, height: int) -> None:
        self._title = title
        self._size = width, height
        self._shapes: list[str] = []

    def box(self, x: int, y: int, width: int, height: int, *lines: str, kind: str = "box") -> None:
        self._shapes.append(
            f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'
        )
        first = y + height / 2 - (len(lines) - 1) * 9 + 5
        for number, line in enumerate(lines):
            style = "title" if number == 0 else "small"
            self.text(x + width / 2, first + number * 18, line, style, "middle")

    def text(self, x: float, y: float, text: str, style: str = "", anchor: str = "start") -> None:
        self._shapes.append(
            f'<text class="{style}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def line(self, x1: int, y1: int, x2: int, y2: int, style: str = "") -> None:
        self._shapes.append(f'<line class="{style}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>')

    def arrow(self, x1: int, y1: int, x2: int, y2: int, label: str = "", kind: str = "arrow") -> None:
        """An arrow, its label above its middle."""
        tip = "lost-tip" if kind == "lost" else "tip"
        self.line(x1, y1, x2, y2, kind)
        length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
        along, across = ((x2 - x1) / length, (y2 - y1) / length), (-(y2 - y1) / length, (x2 - x1) / length)
        wings = [
            (x2 - 10 * along[0] + side * 5 * across[0], y2 - 10 * along[1] + side * 5 * across[1])
            for side in (1, -1)
        ]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(x2, y2), *wings])
        self._shapes.append(f'<polygon class="{tip}" points="{points}"/>')
        if label:
            self.text((x1 + x2) / 2, (y1 + y2) / 2 - 8, label, "code", "middle")

    def render(self) -> str:
        width, height = self._size
        size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}>',
                f"<title>{escape(self._title)}</title>",
                f"<style>{STYLE}</style>",
                f'<rect class="card" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="10"/>',
                *self._shapes,
                "</svg>\n",
            ]
        )


def reset() -> Picture:
    picture = Picture("The life of a reset", 720, 485)
    client, server, handler = 110, 370, 600
    for x, name in ((client, "client"), (server, "server"), (handler, "handler")):
        picture.box(x - 70, 20, 140, 34, name)
        picture.line(x, 54, x, 465, "life")
    picture.arrow(client, 95, server, 115, "02 request 7")
    picture.arrow(server, 125, handler, 125, "task starts")
    picture.box(handler - 60, 140, 120, 120, "at work", "await ...", kind="mark")
    picture.box(client - 90, 160, 180, 44, "gives up", "time-out, Ctrl-C, stop")
    picture.arrow(client, 215, server, 240, "03 reset 7")
    picture.box(server - 100, 245, 200, 44, "entry leaves the table", "no answer from here on")
    picture.arrow(server, 320, handler, 320, "cancel(), once")
    picture.box(handler - 75, 332, 150, 44, "CancelledError", "finally: may await", kind="bad")
    picture.box(handler - 75, 388, 150, 34, "undo hooks")
    picture.arrow(handler, 446, server, 446, "work has ended")
    picture.text(server - 12, 451, "slot is free", "small", "end")
    return picture


def crossing() -> Picture:
    picture = Picture("An answer and a reset that cross", 720, 290)
    client, server = 160, 560
    for x, name in ((client, "client"), (server, "server")):
        picture.box(x - 70, 20, 140, 34, name)
        picture.line(x, 54, x, 270, "life")
    picture.arrow(client, 85, server, 105, "02 request 7")
    picture.arrow(server, 150, client, 225)
    picture.arrow(client, 150, server, 225)
    picture.text(client - 12, 154, "gives up", "small", "end")
    picture.text(client - 12, 229, "drops it", "small", "end")
    picture.text(server + 12, 154, "has answered", "small")
    picture.text(server + 12, 229, "no such call: ignored", "small")
    picture.text(220, 150, "03 reset 7", "code")
    picture.text(500, 150, "04 response 7", "code", "end")
    return picture


def endings() -> Picture:
    picture = Picture("What ends a call", 720, 260)
    rows = (
        ("a reset", "abort_reason 'reset'", True),
        ("a lost connection", "abort_reason 'lost'", True),
        ("the method's timeout", "abort_reason 'timeout'", False),
        ("the end of stop_grace", "abort_reason 'stop'", False),
    )
    picture.box(500, 50, 190, 60, "an ordinary call", "is aborted", kind="bad")
    picture.box(500, 160, 190, 60, "run_to_completion", "reset, lost: goes on", kind="mark")
    for number, (name, reason, spared) in enumerate(rows):
        y = 20 + number * 57
        picture.box(25, y, 220, 46, name, reason)
        picture.arrow(245, y + 23, 498, 68 + number * 8, kind="lost")
        if not spared:
            picture.arrow(245, y + 23, 498, 178 + number * 8, kind="lost")
    return picture


def layers() -> Picture:
    picture = Picture("The layers", 720, 510)
    picture.box(250, 16, 220, 44, "cli, demo", "the outside")
    picture.box(130, 88, 220, 44, "process", "serves until a signal")
    picture.box(130, 160, 220, 44, "server", "accept, limits, drain")
    picture.box(430, 160, 220, 44, "connect", "connect, reconnect")
    picture.box(10, 232, 160, 44, "observe", "statistics, inspector")
    picture.box(190, 232, 160, 44, "app", "name → handler")
    picture.box(370, 232, 160, 44, "listen", "OS socket → open")
    picture.box(550, 232, 160, 44, "dial", "URI → open")
    picture.box(220, 304, 280, 44, "peer", "calls, notifications, cancelling", kind="mark")
    picture.box(220, 376, 280, 44, "websocket", "RFC 6455: bytes, messages, closing", kind="mark")
    picture.box(220, 448, 280, 44, "_frames, limits, errors", "the contract")
    for x1, y1, x2, y2 in (
        (320, 60, 250, 88),
        (420, 60, 530, 160),
        (240, 132, 240, 160),
        (190, 204, 100, 232),
        (240, 204, 265, 232),
        (310, 204, 430, 232),
        (590, 204, 625, 232),
        (550, 254, 532, 254),
        (90, 276, 250, 304),
        (270, 276, 320, 304),
        (450, 276, 400, 304),
        (630, 276, 470, 304),
        (360, 348, 360, 376),
        (360, 420, 360, 448),
    ):
        picture.arrow(x1, y1, x2, y2)
    picture.text(30, 474, "blue: compiled, and so is _frames", "small")
    return picture


def read() -> Picture:
    picture = Picture("One read, one write", 720, 250)
    picture.box(20, 40, 150, 150, "one read", "request 1", "request 2", "request 3")
    picture.box(220, 40, 130, 150, "parsed", "in place", "frame by frame", kind="mark")
    picture.box(400, 20, 150, 50, "plain function", "runs, answers")
    picture.box(400, 90, 150, 50, "coroutine", "first step, answers")
    picture.box(400, 160, 150, 50, "coroutine", "waits")
    picture.box(600, 40, 100, 90, "one write", "answer 1", "answer 2", kind="mark")
    picture.arrow(170, 115, 218, 115)
    for y in (45, 115, 185):
        picture.arrow(350, 115, 398, y)
    for y in (45, 115):
        picture.arrow(550, y, 598, 85)
    picture.text(560, 190, "answer 3 leaves", "small")
    picture.text(560, 206, "in a later turn", "small")
    picture.text(
        20,
        232,
        "The table of calls has an entry for each from before it starts until its work has ended.",
        "small",
    )
    return picture


class Layout(NamedTuple):
    """Where the states of a table stand: first those on the way, in their order, then idle.

    An arrow from one to another has its ends, and its lines of text a place and the way they are aligned.
    """

    size: tuple[int, int]
    boxes: tuple[tuple[int, int, int, int], ...]
    arrows: dict[tuple[int, int], tuple[tuple[int, int, int, int], int, int, str]]


IDLE = -1
LAYOUTS = {
    2: Layout(
        (720, 340),
        ((130, 30, 160, 50), (470, 30, 160, 50), (30, 235, 660, 50)),
        {
            (IDLE, 0): ((150, 235, 150, 80), 140, 161, "end"),
            (0, 1): ((290, 55, 470, 55), 380, 45, "middle"),
            (0, IDLE): ((250, 80, 250, 235), 262, 161, "start"),
            (1, IDLE): ((500, 80, 500, 235), 512, 161, "start"),
        },
    ),
    3: Layout(
        (1090, 400),
        ((160, 40, 180, 100), (500, 40, 180, 100), (840, 40, 220, 100), (30, 295, 1030, 50)),
        {
            (IDLE, 0): ((180, 295, 180, 140), 170, 221, "end"),
            (0, 1): ((340, 60, 500, 60), 420, 50, "middle"),
            (1, 2): ((680, 60, 840, 60), 760, 114, "middle"),
            (0, IDLE): ((260, 140, 260, 295), 272, 221, "start"),
            (1, IDLE): ((520, 140, 520, 295), 532, 221, "start"),
            (2, IDLE): ((870, 140, 870, 295), 882, 221, "start"),
        },
    ),
}


def life(title: str, rows: tuple[Row, ...], protocol: str, born: str = "") -> Picture:
    """A table of states.pyx: a box for each state, and for each row a line of text beside its arrow.

    The rows lead from idle through other states, and from each of them back to idle. One that changes no
    state stands in the box of its own. `born` is a step from idle that is no row of the table.
    """
    cells = [(row, cell) for row in rows if (cell := row.cell(PROTOCOLS.index(protocol))) is not None]
    names = [name for name in dict.fromkeys(row.state for row, _ in cells) if name != "idle"]
    names.sort(key=("unsent", "open", "given up", "waiting", "running", "stopping").index)
    layout = LAYOUTS[len(names)]
    picture = Picture(title, *layout.size)
    names.append("idle")
    ignored: dict[str, list[str]] = {name: [] for name in names}
    notes: dict[str, list[str]] = {name: [] for name in names}
    steps: dict[tuple[str, str], list[str]] = {("idle", names[0]): [born] if born else []}
    for row, (action, after) in cells:
        if action == "ignore":
            ignored[row.state].append(row.input)
        elif after == row.state:
            notes[row.state].append(f"{row.input} / {action}")
        else:
            steps.setdefault((row.state, after), []).append(f"{row.input} / {action}")
    for name, box in zip(names, layout.boxes, strict=True):
        if ignored[name]:
            notes[name] += textwrap.wrap(f"ignores {', '.join(ignored[name])}", box[2] // 7)
        picture.box(*box, name, *notes[name], kind="box" if name == "idle" else "mark")
    for (before, after), ((x1, y1, x2, y2), x, y, anchor) in layout.arrows.items():
        lines = steps.pop((names[before], names[after]))
        picture.arrow(x1, y1, x2, y2)
        for number, line in enumerate(lines):
            picture.text(x, y + 20 * number - 10 * (len(lines) - 1), line, "code", anchor)
    assert not steps, f"there is no place for {steps}"
    picture.text(
        30,
        layout.size[1] - 24,
        "input / action: what happens to the call, and what this side does about it",
        "small",
    )
    return picture


def callee() -> Picture:
    return life("The life of a call on the side that serves it", CALLEE, PROTOCOL_V0, born="request / admit")


def caller() -> Picture:
    return life("The life of a call on the side that makes it", CALLER, PROTOCOL_V0)


def callee_v1() -> Picture:
    return life(
        "The life of a call on the side that serves it, in sockrpc.v1",
        CALLEE,
        PROTOCOL_V1,
        born="open / admit",
    )


def caller_v1() -> Picture:
    return life("The life of a call on the side that makes it, in sockrpc.v1", CALLER, PROTOCOL_V1)


PICTURES: tuple[Callable[[], Picture], ...] = (
    reset,
    crossing,
    callee,
    caller,
    callee_v1,
    caller_v1,
    endings,
    layers,
    read,
)


def rendered() -> dict[Path, str]:
    """Each picture's file, and what has to stand in it."""
    return {FOLDER / f"{draw.__name__}.svg": draw().render() for draw in PICTURES}


def main() -> None:
    for file, text in rendered().items():
        file.write_text(text, encoding="utf-8")
        sys.stdout.write(
            f"{file.relative_to(Path.cwd())}\n" if file.is_relative_to(Path.cwd()) else f"{file}\n"
        )


if __name__ == "__main__":
    main()
