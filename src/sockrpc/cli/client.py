"""The commands of a client: `sockrpc call`, `notify` and `listen`."""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import ssl
import sys
from typing import TYPE_CHECKING, NoReturn

import sockrpc
from sockrpc.cli.options import CLIENT_DEFAULTS, Commands, add_client_options, given_limits, seconds
from sockrpc.dial.redirects import shown_uri
from sockrpc.limits import CLIENT_KEYWORDS
from sockrpc.listen.notes import about
from sockrpc.listen.unix import typed_uds

if TYPE_CHECKING:
    import argparse

__all__ = ["DEFAULT_TIMEOUT", "add_client_commands", "connect_to"]

# v0.1 cannot report a failed call to its client, so the default keeps a call from waiting for ever.
DEFAULT_TIMEOUT = 30.0


def add_client_commands(commands: Commands) -> None:
    """Add `call`, `notify` and `listen`."""
    calling = commands.add(
        "call", run_call, "call a method and print its answer; Ctrl-C resets the call", "URI METHOD [PAYLOAD]"
    )
    add_client_options(calling)
    calling.add_argument("method", metavar="METHOD")
    calling.add_argument("payload", metavar="PAYLOAD", nargs="?", default="", help="text; - reads stdin")
    calling.add_argument(
        "--timeout", type=seconds, default=DEFAULT_TIMEOUT, metavar="S", help="seconds (%(default)g)"
    )

    notifying = commands.add("notify", run_notify, "send a notification", "URI EVENT [PAYLOAD]")
    add_client_options(notifying)
    notifying.add_argument("event", metavar="EVENT")
    notifying.add_argument("payload", metavar="PAYLOAD", nargs="?", default="", help="text; - reads stdin")

    listening = commands.add(
        "listen",
        run_listen,
        "print the payloads of events, one a line, until Ctrl-C",
        "URI EVENT [EVENT ...]",
    )
    add_client_options(listening)
    listening.add_argument("events", metavar="EVENT", nargs="+")


def run_call(options: argparse.Namespace) -> int:
    """`sockrpc call`."""
    payload = typed_payload(options.payload)

    async def run() -> bytes:
        async with await connect_to(options) as client:
            try:
                return await client.call(options.method, payload, timeout=options.timeout)
            except TimeoutError:
                raise TimeoutError(
                    f"no answer within {options.timeout:g} s; the call was reset. "
                    "If it failed, the server's log says why"
                ) from None

    answer = asyncio.run(run())
    if options.json:
        print(json.dumps({"method": options.method, **payload_fields(answer)}), flush=True)
    else:
        write_payload(answer)
    return 0


def run_notify(options: argparse.Namespace) -> int:
    """`sockrpc notify`."""
    payload = typed_payload(options.payload)

    async def run() -> None:
        async with await connect_to(options) as client:
            await client.notify(options.event, payload)

    asyncio.run(run())
    if options.json:
        print(json.dumps({"event": options.event, **payload_fields(payload)}), flush=True)
    return 0


def run_listen(options: argparse.Namespace) -> int:
    """`sockrpc listen`."""

    async def follow(event: str, payloads: sockrpc.Listener) -> None:
        async for payload in payloads:
            if options.json:
                print(json.dumps({"event": event, **payload_fields(payload)}), flush=True)
            else:
                write_payload(payload)

    async def run() -> NoReturn:
        async with await connect_to(options) as client, asyncio.TaskGroup() as group:
            for event in dict.fromkeys(options.events):
                group.create_task(follow(event, client.on(event)))
        raise AssertionError("the listeners end by an exception only")

    try:
        asyncio.run(run())
    except* (OSError, sockrpc.SockRPCError) as errors:
        raise errors.exceptions[0] from None
    return 0


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
        compression=options.compression,
        **{**CLIENT_DEFAULTS, **given_limits(options, CLIENT_KEYWORDS)},
    )


async def connect_to(options: argparse.Namespace) -> sockrpc.Client:
    """The connection that the command line asks for; errors say where to."""
    with about(options.uds or shown_uri(options.uri)):
        return await connecting(options)


def typed_payload(text: str) -> bytes:
    """The payload as it was typed, or all of standard input."""
    if text != "-":
        return text.encode(errors="surrogateescape")
    if sys.stdin is None:
        raise OSError(errno.EBADF, "standard input is closed")
    return sys.stdin.buffer.read()


def payload_fields(payload: bytes) -> dict[str, str]:
    """A payload in JSON: as text where it is text."""
    try:
        return {"payload": payload.decode()}
    except UnicodeDecodeError:
        return {"payload_base64": base64.b64encode(payload).decode()}


def write_payload(payload: bytes) -> None:
    """A payload as it is, and a line feed for people and for `read`."""
    if sys.stdout is None:
        raise OSError(errno.EBADF, "standard output is closed")
    sys.stdout.buffer.write(payload + b"\n")
    sys.stdout.buffer.flush()
