"""From a URI to an open connection: addresses, proxies, TLS, redirects, reconnecting."""

from __future__ import annotations

__all__: list[str] = []
