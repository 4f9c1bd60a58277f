"""`sockrpc stream`: call a method that streams, and print its items as they come."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

from sockrpc.cli.client import (
    add_call_options,
    connect_to,
    interrupted,
    typed_items,
    typed_metadata,
    typed_payload,
    write_payload,
)
from sockrpc.cli.failing import bytes_fields
from sockrpc.cli.options import Commands, add_client_options, seconds
from sockrpc.texts import printable

if TYPE_CHECKING:
    import argparse

__all__ = ["add_stream_command"]


def add_stream_command(commands: Commands) -> None:
    """Add `stream`."""
    parser = commands.add(
        "stream",
        run_stream,
        "call a method that streams and print its items, one a line; Ctrl-C resets the call",
        "URI METHOD [PAYLOAD]",
    )
    add_client_options(parser)
    add_call_options(parser)
    parser.add_argument("--timeout", type=seconds, metavar="S", help="seconds for the whole stream (none)")


def run_stream(options: argparse.Namespace) -> int:
    """`sockrpc stream`.

    Raises:
        RPCError: The call has failed; the items that came before are printed.
        Interrupted: Ctrl-C has reset it.
    """
    metadata = typed_metadata(options.metadata)
    # Without items of its own a stream ends them at once, or a handler that reads them would wait for ever.
    items = typed_items(options) or ()
    payload = typed_payload(options.payload)

    async def run() -> None:
        async with (
            await connect_to(options) as client,
            client.stream(
                options.method, payload, items=items, timeout=options.timeout, metadata=metadata
            ) as stream,
        ):
            try:
                async for item in stream:
                    write_payload(item, as_json=options.json, method=options.method)
                result = await stream.result()
            except asyncio.CancelledError:
                raise await interrupted(stream.cancel()) from None
        if result and options.json:
            print(json.dumps({"method": options.method, **bytes_fields("result", result)}), flush=True)
        elif result:
            # The value beside the items is none of them.
            print(f"result: {printable(result.decode(errors='backslashreplace'))}", file=sys.stderr)

    asyncio.run(run())
    return 0
