"""A rate limit for log lines that peers can cause, so that they cannot fill the disk."""

from __future__ import annotations

import logging
import time

__all__ = ["RateLimitedLog"]

LOG = logging.getLogger("sockrpc.server")

SECONDS = 60.0  # between two lines about the same name
NAMES = 64  # distinct names at a time; a peer can make up as many as it likes


class Logged:
    """The start of a name's minute, the lines in it, and the number of lines left out since."""

    __slots__ = ("left_out", "lines", "when")

    def __init__(self, when: float) -> None:
        self.when = when
        self.lines = 1
        self.left_out = 0


class RateLimitedLog:
    """Lets a limited number of lines a minute through for each name, and counts those left out.

    The counts appear in the next line, a minute later at the earliest. For names beyond the limit of distinct
    ones, one line a minute reports their number.

    Args:
        what: The meaning of the names, in the plural.
        lines: The limit of lines per name and minute.
        level: The level of lines that report the counts.

    Attributes:
        clock: Returns the time in seconds.
    """

    def __init__(self, what: str, *, lines: int = 1, level: int = logging.WARNING) -> None:
        self.clock = time.monotonic
        self._what = what
        self._lines = lines
        self._level = level
        # Names in the order of their minutes, the oldest first.
        self._logged: dict[str, Logged] = {}
        self._further = 0
        self._further_logged: float | None = None

    def allow(self, name: str) -> str | None:
        """Return the text to append to a line about this name; None if there must be no line."""
        now = self.clock()
        left_out = self._forget(name, now)
        logged = self._logged.get(name)
        if logged is not None:
            if logged.lines < self._lines:
                logged.lines += 1
                return ""
            logged.left_out += 1
            return None
        if len(self._logged) >= NAMES:
            self._log_further(now)
            return None
        self._logged[name] = Logged(now)
        return f"; {left_out} more since its last line" if left_out else ""

    def _forget(self, name: str, now: float) -> int:
        """Forget the names whose minute is over, and return how many lines of this one were left out."""
        left_out = 0
        while self._logged:
            oldest, logged = next(iter(self._logged.items()))
            if now - logged.when < SECONDS:
                break
            del self._logged[oldest]
            if oldest == name:
                left_out = logged.left_out
            elif logged.left_out:
                LOG.log(
                    self._level, "%s: %d more of %r since its last line", self._what, logged.left_out, oldest
                )
                self._logged[oldest] = Logged(now)
        return left_out

    def _log_further(self, now: float) -> None:
        self._further += 1
        if self._further_logged is None or now - self._further_logged >= SECONDS:
            self._further_logged = now
            LOG.log(
                self._level,
                "%s: more than %d within a minute; %d further ones were not named so far",
                self._what,
                NAMES,
                self._further,
            )
