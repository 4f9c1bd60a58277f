"""The command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import sockrpc
from sockrpc.cli.bench import add_bench_command
from sockrpc.cli.client import add_client_commands
from sockrpc.cli.options import EXIT_INTERRUPTED, EXIT_USAGE, CommandParser, Commands
from sockrpc.cli.serve import add_serving_commands
from sockrpc.cli.top import add_top_command
from sockrpc.listen.notes import notes_of
from sockrpc.process.importer import AppError
from sockrpc.texts import printable

if TYPE_CHECKING:
    import argparse

__all__ = ["main"]

EXIT_FAILED = 1
EXIT_TIMED_OUT = 124  # as timeout(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
    except sockrpc.UsageError as error:
        return complain(str(error), EXIT_USAGE)
    except AppError as error:
        # The text has several lines, and nothing in it comes from a peer.
        print(f"sockrpc: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return complain("interrupted", EXIT_INTERRUPTED)
    except TimeoutError as error:
        return complain((str(error) or "timed out") + notes_of(error), EXIT_TIMED_OUT)
    except BrokenPipeError:
        # The reader of our output has gone, as pipes end. The rest of the output is discarded.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except (OSError, sockrpc.SockRPCError) as error:
        return complain(f"{type(error).__name__}: {error}{notes_of(error)}", EXIT_FAILED)
    return code


def complain(text: str, code: int) -> int:
    """Say what is wrong, in one line and without control characters of a peer."""
    print(f"sockrpc: {printable(text)}", file=sys.stderr)
    return code


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = CommandParser(
        program="sockrpc",
        prog="sockrpc",
        description="RPC over WebSocket whose calls can really be cancelled.",
    )
    parser.add_argument("--version", action="version", version=f"sockrpc {sockrpc.__version__}")
    commands = Commands(parser)
    add_serving_commands(commands)
    add_client_commands(commands)
    add_bench_command(commands)
    add_top_command(commands)
    return parser
