"""Certificates for tests: an authority of our own, and contexts that trust it."""

from __future__ import annotations

import functools
import ssl

import trustme


@functools.cache
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(*identities: str) -> ssl.SSLContext:
    """For a server of these names, 127.0.0.1 and ::1 by default."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(*(identities or ("127.0.0.1", "::1", "localhost"))).configure_cert(context)
    return context


def client_context() -> ssl.SSLContext:
    """For a client that trusts the authority."""
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return context
