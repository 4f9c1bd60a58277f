"""What the system's errors leave out: which file, host or flag they are about."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["about", "notes_of"]


@contextlib.contextmanager
def about(what: str) -> Iterator[None]:
    """Add what they are about to errors of the system that pass, unless they name it themselves."""
    try:
        yield
    except OSError as error:
        # What has been noted further inside is closer to the fault.
        if not notes_of(error) and what not in str(error):
            error.add_note(what)
        raise


def notes_of(error: BaseException) -> str:
    """The notes of an error, as they stand behind its text."""
    notes = getattr(error, "__notes__", ())
    return f" ({'; '.join(notes)})" if notes else ""
