"""The command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import sockrpc
from sockrpc.cli.bench import add_bench_command
from sockrpc.cli.call import add_call_command
from sockrpc.cli.failing import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_NO_CONNECTION,
    EXIT_TIMED_OUT,
    EXIT_USAGE,
    Interrupted,
    NoConnectionError,
    complain,
    complain_of_call,
    told,
)
from sockrpc.cli.listen import add_listen_command
from sockrpc.cli.notify import add_notify_command
from sockrpc.cli.options import CommandParser, Commands
from sockrpc.cli.serve import add_serving_commands
from sockrpc.cli.stream import add_stream_command
from sockrpc.cli.top import add_top_command
from sockrpc.process.importer import AppError

if TYPE_CHECKING:
    import argparse

__all__ = ["main"]


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
    except NoConnectionError as error:
        return complain(told(error.reason), EXIT_NO_CONNECTION)
    except Interrupted as error:
        return complain(str(error), EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        return complain("interrupted", EXIT_INTERRUPTED)
    except sockrpc.RPCError as error:
        return complain_of_call(error, as_json=options.json, details=getattr(options, "details", False))
    except TimeoutError as error:
        return complain(told(error), EXIT_TIMED_OUT)
    except BrokenPipeError:
        # The reader of our output has gone, as pipes end. The rest of the output is discarded.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except (OSError, sockrpc.SockRPCError) as error:
        return complain(told(error), EXIT_FAILED)
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
    add_call_command(commands)
    add_stream_command(commands)
    add_notify_command(commands)
    add_listen_command(commands)
    add_bench_command(commands)
    add_top_command(commands)
    return parser
