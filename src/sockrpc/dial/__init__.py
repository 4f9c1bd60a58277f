"""From a URI to an open connection: addresses, proxies, TLS, redirects, connecting again."""

from __future__ import annotations

__all__: list[str] = []
