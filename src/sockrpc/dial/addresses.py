"""From a name and a port to a connected socket: all addresses of the name are tried, side by side (RFC 8305).

`create_connection` does not do that: asyncio's tries addresses in turn by default, uvloop's always.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any

import aiohappyeyeballs

__all__ = ["connect_to"]

# Seconds to wait for one address before the next one is tried as well (RFC 8305 section 5).
ATTEMPT_DELAY = 0.25


async def connect_to(
    host: str, port: int, *, family: int = 0, local_addr: tuple[str, int] | None = None
) -> socket.socket:
    """Return a non-blocking socket, connected to the first address that answers.

    Args:
        host: A name or an address.
        port: The port.
        family: Use only addresses of this family, such as `socket.AF_INET`; 0 for all.
        local_addr: Host and port to connect from.

    Raises:
        OSError: No address could be connected to.
    """
    local = None if local_addr is None else await resolve(*local_addr, family)
    found = await resolve(host, port, family)
    try:
        return await aiohappyeyeballs.start_connection(
            found, local_addr_infos=local, happy_eyeballs_delay=ATTEMPT_DELAY
        )
    except OSError as error:
        # Drop the traceback: one of its frames refers to the error, which would never be freed.
        raise error.with_traceback(None)  # noqa: B904


async def resolve(host: str, port: int, family: int) -> list[Any]:
    """Return all addresses of a name, in the system's order of preference."""
    known = None if "%" in host else literal(host)
    if known is not None and family in (0, known):
        # A literal address needs no lookup in a thread.
        found = aiohappyeyeballs.addr_to_addr_infos((host, port))
        assert found is not None
        return found
    return await lookup(host, port, family=family, type=socket.SOCK_STREAM)


async def lookup(host: str, port: int, **hints: int) -> list[Any]:
    """Look a name up with the loop's own resolver."""
    return await asyncio.get_running_loop().getaddrinfo(host, port, **hints)


def literal(host: str) -> int | None:
    """Return the family of an IP address, None for a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return socket.AF_INET if address.version == 4 else socket.AF_INET6
