"""`sockrpc notify`: send a notification."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sockrpc.cli.client import connect_to, typed_payload, write_payload
from sockrpc.cli.options import Commands, add_client_options

if TYPE_CHECKING:
    import argparse

__all__ = ["add_notify_command"]


def add_notify_command(commands: Commands) -> None:
    """Add `notify`."""
    parser = commands.add("notify", run_notify, "send a notification", "URI EVENT [PAYLOAD]")
    add_client_options(parser)
    parser.add_argument("event", metavar="EVENT")
    parser.add_argument("payload", metavar="PAYLOAD", nargs="?", default="", help="text; - reads stdin")


def run_notify(options: argparse.Namespace) -> int:
    """`sockrpc notify`."""
    payload = typed_payload(options.payload)

    async def run() -> None:
        async with await connect_to(options) as client:
            await client.notify(options.event, payload)

    asyncio.run(run())
    if options.json:
        write_payload(payload, as_json=True, event=options.event)
    return 0
