"""`sockrpc listen`: print the payloads of events as they come."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NoReturn

import sockrpc
from sockrpc.cli.client import connect_to, write_payload
from sockrpc.cli.options import Commands, add_client_options

if TYPE_CHECKING:
    import argparse

__all__ = ["add_listen_command"]


def add_listen_command(commands: Commands) -> None:
    """Add `listen`."""
    parser = commands.add(
        "listen",
        run_listen,
        "print the payloads of events, one a line, until Ctrl-C",
        "URI EVENT [EVENT ...]",
    )
    add_client_options(parser)
    parser.add_argument("events", metavar="EVENT", nargs="+")


def run_listen(options: argparse.Namespace) -> int:
    """`sockrpc listen`."""

    async def follow(event: str, payloads: sockrpc.Listener) -> None:
        async for payload in payloads:
            write_payload(payload, as_json=options.json, event=event)

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
