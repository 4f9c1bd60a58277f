"""Observation of a server: statistics, the inspector, the watchdog."""

from __future__ import annotations

__all__: list[str] = []
