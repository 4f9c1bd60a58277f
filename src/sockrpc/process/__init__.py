"""A process, or several, that serve until a signal comes."""

from __future__ import annotations

__all__: list[str] = []
