"""`sockrpc call`: call a method, and print its answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import sockrpc
from sockrpc.cli.client import (
    DEFAULT_TIMEOUT,
    add_call_options,
    connect_to,
    interrupted,
    typed_items,
    typed_metadata,
    typed_payload,
    write_payload,
)
from sockrpc.cli.options import Commands, add_client_options, seconds
from sockrpc.websocket.protocols import PROTOCOL_V0

if TYPE_CHECKING:
    import argparse

__all__ = ["add_call_command"]


def add_call_command(commands: Commands) -> None:
    """Add `call`."""
    parser = commands.add(
        "call", run_call, "call a method and print its answer; Ctrl-C resets the call", "URI METHOD [PAYLOAD]"
    )
    add_client_options(parser)
    add_call_options(parser)
    parser.add_argument(
        "--timeout", type=seconds, default=DEFAULT_TIMEOUT, metavar="S", help="seconds (%(default)g)"
    )


def run_call(options: argparse.Namespace) -> int:
    """`sockrpc call`.

    Raises:
        RPCError: The call has failed.
        Interrupted: Ctrl-C has reset it.
    """
    metadata = typed_metadata(options.metadata)
    items = typed_items(options)
    payload = typed_payload(options.payload)

    async def run() -> bytes:
        async with await connect_to(options) as client:
            call = client.start(
                options.method, payload, items=items, timeout=options.timeout, metadata=metadata
            )
            try:
                return await call
            except sockrpc.DeadlineExceeded as error:
                if client.subprotocol == PROTOCOL_V0:
                    error.add_note("if it failed, the server's log says why, as this protocol cannot")
                raise
            except asyncio.CancelledError:
                raise await interrupted(call.cancel()) from None

    write_payload(asyncio.run(run()), as_json=options.json, method=options.method)
    return 0
