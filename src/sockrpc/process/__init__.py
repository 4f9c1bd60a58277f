"""One process or several that serve until a signal."""

from __future__ import annotations

__all__: list[str] = []
