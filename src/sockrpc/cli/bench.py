"""`sockrpc bench`: put a load on a server, and print how long its answers take."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import sockrpc
from sockrpc.bench.load import Load, Measured, run_load
from sockrpc.bench.stream_load import StreamLoad
from sockrpc.cli.client import DEFAULT_TIMEOUT, connect_to
from sockrpc.cli.failing import EXIT_INTERRUPTED
from sockrpc.cli.options import Commands, add_client_options, seconds, whole_number

if TYPE_CHECKING:
    import argparse

__all__ = ["add_bench_command"]

# Timeout of the first call, in seconds: v0.1 cannot say that there is no such method.
FIRST_TIMEOUT = 2.0


def add_bench_command(commands: Commands) -> None:
    """Add `bench`."""
    parser = commands.add(
        "bench",
        run_bench,
        "put a load on a server and tell how long its answers take, or with --stream how many items come",
        "URI",
    )
    add_client_options(parser)
    group = parser.add_argument_group("the load")
    group.add_argument(
        "--method", default="echo", metavar="METHOD", help="what to call (%(default)s); demo: uppercase"
    )
    group.add_argument(
        "--stream", action="store_true", help="read streams of the method instead, and count their items"
    )
    for flag, default, text in (
        ("--connections", 1, "connections"),
        ("--in-flight", 16, "calls in flight on each connection"),
        ("--payload-bytes", 32, "size of each payload, which consists of letters"),
    ):
        group.add_argument(
            flag, type=whole_number, default=default, metavar="N", help=f"{text} (%(default)d)"
        )
    group.add_argument("--seconds", type=seconds, default=5.0, metavar="S", help="how long (%(default)g)")
    shown = f"seconds, of each call ({DEFAULT_TIMEOUT:g}; of the first {FIRST_TIMEOUT:g}; of a stream: none)"
    group.add_argument("--timeout", type=seconds, metavar="S", help=shown)


def run_bench(options: argparse.Namespace) -> int:
    """`sockrpc bench`.

    Raises:
        UsageError: A number is out of range.
        RPCError: A call has failed (v1).
        SockRPCError: The connection was refused, or lost; what was measured until then is printed.
    """
    if options.payload_bytes < 0:
        raise sockrpc.UsageError("--payload-bytes is not negative")
    kind = StreamLoad if options.stream else Load
    load = kind(
        lambda: connect_to(options),
        options.method,
        b"x" * options.payload_bytes,
        connections=options.connections,
        in_flight=options.in_flight,
        seconds=options.seconds,
        timeout=options.timeout or (None if options.stream else DEFAULT_TIMEOUT),
        first_timeout=options.timeout or FIRST_TIMEOUT,
    )
    # Streams that were closed before the command started are None.
    is_watched = sys.stderr is not None and sys.stderr.isatty()

    def show(text: str) -> None:
        if is_watched:
            # In the place of the last one.
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    def progress(measured: Measured) -> None:
        show(measured.line())

    try:
        measured = run_load(load, progress)
    finally:
        show("")
    text = json.dumps(measured.as_json()) if options.json else "\n".join(measured.lines())
    if sys.stdout is not None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    if measured.error is not None:
        raise measured.error
    return EXIT_INTERRUPTED if measured.interrupted else 0
