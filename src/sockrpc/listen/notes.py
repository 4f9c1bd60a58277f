"""Notes that name the file, host or flag which an error of the system leaves out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["about", "notes_of"]


@contextlib.contextmanager
def about(what: str) -> Iterator[None]:
    """Add `what` as a note to errors of the system raised in the block, unless they name it themselves."""
    try:
        yield
    except OSError as error:
        # A note that was added further inside is closer to the fault.
        if not notes_of(error) and what not in str(error):
            error.add_note(what)
        raise


def notes_of(error: BaseException) -> str:
    """Return the notes of an error, in the form that follows its text."""
    notes = getattr(error, "__notes__", ())
    return f" ({'; '.join(notes)})" if notes else ""
