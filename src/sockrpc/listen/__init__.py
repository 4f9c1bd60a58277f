"""From a listening socket of the operating system to an open connection."""

from __future__ import annotations

__all__: list[str] = []
