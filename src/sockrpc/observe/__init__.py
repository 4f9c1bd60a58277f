"""What a server tells of itself: statistics, the inspector, the watchdog."""

from __future__ import annotations

__all__: list[str] = []
