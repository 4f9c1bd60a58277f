"""The demo as a process, and its page as a person finds it: by roles and names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.kit.command import Command
from tests.kit.processes import STOPPED, eventually

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

TASK = "long_runing_task"


class Demo:
    """A demo that can be killed and started again.

    Attributes:
        url: Its page.
        process: What runs now.
    """

    def __init__(self) -> None:
        self.process = Command("demo", "--port", "0")
        self.url = self.process.line()

    def restart(self) -> None:
        """Start it again on the same port, once it has ended."""
        self.process.__exit__()
        self.process = Command("demo", "--port", self.url.rstrip("/").rpartition(":")[2])
        assert self.process.line() == self.url

    def kill(self) -> None:
        self.process.process.kill()
        self.process.end()

    def stop(self) -> None:
        """Ask it to stop; what it has logged must be nothing but information."""
        self.process.process.terminate()
        assert self.process.end() == STOPPED
        assert all(re.match(r"\S+ \S+ INFO ", line) for line in self.process.log), self.process.log

    def aborted(self, reason: str, count: int) -> list[int]:
        """The ids of the calls whose task was aborted for that reason, once there are so many in the log."""
        end = f": the task is aborted ({reason})"
        eventually(lambda: len(self.process.logged(end)) >= count)
        return sorted(int(line.removesuffix(end).rpartition(" ")[2]) for line in self.process.logged(end))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.__exit__()


class Frame(NamedTuple):
    """A row of the page's log of frames."""

    way: str
    frame: str
    id: int | None
    name: str
    payload: str
    size: int


def frames(page: Page) -> list[Frame]:
    """What the page shows of the wire, oldest first, but for what the server tells about calls by itself."""
    rows = page.locator("#log tr").evaluate_all(
        "rows => rows.map(row => [row.dataset.way, ...[...row.cells].slice(2).map(cell => cell.textContent)])"
    )
    found = [
        Frame(way, frame, int(id) if id else None, name, payload, int(size))
        for way, frame, id, name, payload, size in reversed(rows)
    ]
    return [each for each in found if each.name != "calls"]


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def in_flight(page: Page) -> Locator:
    """The number of calls in flight on the server."""
    return page.locator("#flight-count")


def listed(page: Page) -> Locator:
    """The list of calls in flight on the server."""
    return page.get_by_role("list", name="calls in flight on the server").get_by_role("listitem")


def totals(page: Page) -> Locator:
    """How many of the server's tasks were done and aborted."""
    return page.locator("#flight-totals")


def task_result(page: Page) -> Locator:
    return page.locator("#task-result")
