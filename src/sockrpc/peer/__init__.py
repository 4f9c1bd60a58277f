"""RPC over one connection, either role."""

from __future__ import annotations

__all__: list[str] = []
