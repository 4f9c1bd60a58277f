"""The commands of a client share this: the connection, payloads, and the end of a call by Ctrl-C."""

from __future__ import annotations

import asyncio
import errno
import json
import ssl
import sys
from typing import TYPE_CHECKING

import sockrpc
from sockrpc.cli.failing import Interrupted, NoConnectionError, bytes_fields
from sockrpc.cli.lines import lines_of_input
from sockrpc.cli.options import CLIENT_DEFAULTS, Repeated, given_limits
from sockrpc.dial.redirects import shown_uri
from sockrpc.limits import CLIENT_KEYWORDS
from sockrpc.listen.notes import about
from sockrpc.listen.unix import typed_uds
from sockrpc.peer.metadata import encode_metadata
from sockrpc.websocket.protocols import PROTOCOL_V0, PROTOCOLS, is_refusal_of_offer

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator

__all__ = [
    "DEFAULT_TIMEOUT",
    "add_call_options",
    "connect_to",
    "interrupted",
    "typed_items",
    "typed_metadata",
    "typed_payload",
    "write_payload",
]

# v0.1 cannot report a failed call to its client, so the default keeps a call from waiting for ever.
DEFAULT_TIMEOUT = 30.0

# Seconds that Ctrl-C waits to hear what became of the work; the second Ctrl-C does not wait.
RESET_PATIENCE = 2.0


def add_call_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments and options of one call."""
    parser.add_argument("method", metavar="METHOD")
    parser.add_argument("payload", metavar="PAYLOAD", nargs="?", default="", help="text; - reads stdin")
    parser.add_argument("--items", action="store_true", help="send the lines of stdin, an item each")
    parser.add_argument(
        "--metadata",
        action=Repeated,
        separator="\n",
        default=[],
        metavar="KEY=VALUE",
        help="send this with the call; may be repeated",
    )
    parser.add_argument(
        "--details", action="store_true", help="of an error, print the outcome and the details too"
    )


def connecting(options: argparse.Namespace) -> sockrpc.connect:
    """How to connect, from the command line."""
    headers = []
    for header in options.header:
        name, colon, value = header.partition(":")
        if not colon:
            # It may be a password.
            raise sockrpc.UsageError("a --header is NAME: VALUE; one that was given has no colon")
        headers.append((name.strip(), value.strip()))
    tls = None
    if options.cafile is not None:
        with about(f"--cafile {options.cafile}"):
            tls = ssl.create_default_context(cafile=options.cafile)
    return sockrpc.connect(
        options.uri,
        uds=typed_uds(options.uds),
        headers=headers,
        ssl=tls,
        protocols=PROTOCOLS if options.protocol is None else (options.protocol,),
        metadata=typed_metadata(options.hello, "--hello"),
        compression=options.compression,
        **{**CLIENT_DEFAULTS, **given_limits(options, CLIENT_KEYWORDS)},
    )


async def connect_to(options: argparse.Namespace) -> sockrpc.Client:
    """The connection that the command line asks for; errors say where to.

    Raises:
        NoConnectionError: There is none.
        RPCError: The application of the server has refused it.
    """
    way = connecting(options)
    try:
        with about(options.uds or shown_uri(options.uri)):
            return await way
    except sockrpc.RPCError:
        raise
    except sockrpc.HandshakeError as error:
        if options.protocol is None and is_refusal_of_offer(error.status):
            error.add_note(f"--protocol {PROTOCOL_V0} offers that alone")
        raise NoConnectionError(error) from error
    except (OSError, sockrpc.ConnectionLost) as error:
        raise NoConnectionError(error) from error


async def interrupted(resetting: asyncio.Future[sockrpc.Outcome]) -> Interrupted:
    """Wait until the work of a call that was reset by Ctrl-C is over; returns what is to be raised."""
    await asyncio.wait([resetting], timeout=RESET_PATIENCE)
    return Interrupted(resetting.result() if resetting.done() else sockrpc.Outcome.UNKNOWN)


def typed_metadata(entries: list[str], flag: str = "--metadata") -> dict[str, bytes] | None:
    """The metadata that was typed, None if there is none.

    Raises:
        UsageError: An entry is not KEY=VALUE, or a key occurs twice, or cannot be one.
    """
    metadata: dict[str, bytes] = {}
    for entry in entries:
        key, sign, value = entry.partition("=")
        if not sign:
            # It may be a password.
            raise sockrpc.UsageError(f"a {flag} is KEY=VALUE; one that was given has no =")
        if key in metadata:
            raise sockrpc.UsageError(f"{flag} has {key!r} twice")
        metadata[key] = value.encode(errors="surrogateescape")
    # Otherwise only the call would find a mistake, behind the opening of the connection.
    encode_metadata(metadata)
    return metadata or None


def typed_items(options: argparse.Namespace) -> AsyncIterator[bytes] | None:
    """The items that `--items` asks for."""
    if not options.items:
        return None
    if options.payload == "-":
        raise sockrpc.UsageError("standard input is either the payload or, with --items, its items")
    return lines_of_input()


def typed_payload(text: str) -> bytes:
    """The payload as it was typed, or all of standard input."""
    if text != "-":
        return text.encode(errors="surrogateescape")
    if sys.stdin is None:
        raise OSError(errno.EBADF, "standard input is closed")
    return sys.stdin.buffer.read()


def write_payload(payload: bytes, *, as_json: bool, **fields: str) -> None:
    """Print a payload: as it is, with a line feed, or in JSON with fields before it."""
    if as_json:
        print(json.dumps({**fields, **bytes_fields("payload", payload)}), flush=True)
        return
    if sys.stdout is None:
        raise OSError(errno.EBADF, "standard output is closed")
    sys.stdout.buffer.write(payload + b"\n")
    sys.stdout.buffer.flush()
