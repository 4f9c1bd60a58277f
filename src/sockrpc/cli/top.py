"""`sockrpc top`: a live view of the calls in flight, from the socket of `--inspect-path`."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import sys
import time
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import sockrpc
from sockrpc.cli.failing import NoConnectionError
from sockrpc.cli.options import Commands, seconds
from sockrpc.peer.tally import ENDINGS
from sockrpc.texts import printable

if TYPE_CHECKING:
    import argparse

__all__ = ["add_top_command"]

# The size of one snapshot, in bytes; a longer line does not come from a server of sockrpc.
MAX_LINE_BYTES = 1024 * 1024

# How much later than asked for a snapshot may come, in seconds.
PATIENCE = 15.0

# The size of a view where there is no terminal.
PLAIN_SIZE = (100, 10_000)

ENTER = "\x1b[?1049h\x1b[?25l"  # the alternate screen, without a cursor
LEAVE = "\x1b[?25h\x1b[?1049l"
HOME, REST_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"

Snapshot = dict[str, Any]


def add_top_command(commands: Commands) -> None:
    """Add `top`."""
    parser = commands.add("top", run_top, "look at the calls in flight on a server, until Ctrl-C", "PATH")
    parser.add_argument("path", metavar="PATH", help="what the server was given as --inspect-path")
    parser.add_argument(
        "--interval", type=seconds, default=1.0, metavar="S", help="seconds between two looks (%(default)g)"
    )
    parser.add_argument("--once", action="store_true", help="look once and end")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line")


def run_top(options: argparse.Namespace) -> int:
    """`sockrpc top`; Ctrl-C ends it.

    Raises:
        NoConnectionError: There is no such server.
        OSError: It has gone, or does not answer as one.
        UsageError: The argument is no socket.
    """
    if not 0.5 <= options.interval <= 3600:
        raise sockrpc.UsageError("--interval is 0.5 to 3600 seconds")
    found = snapshots(socket_path(options.path), options.interval)
    on_terminal = sys.stdout.isatty() and not options.json and not options.once
    before = None
    with contextlib.closing(found), screen() if on_terminal else contextlib.nullcontext():
        try:
            for line, now in found:
                if options.json:
                    sys.stdout.write(line)
                elif on_terminal:
                    rows = view(now, before, *shutil.get_terminal_size())
                    sys.stdout.write(
                        HOME + "".join(f"{row}{REST_OF_LINE}\r\n" for row in rows) + REST_OF_SCREEN
                    )
                else:
                    sys.stdout.write("\n".join(view(now, before, *PLAIN_SIZE)) + "\n\n")
                sys.stdout.flush()
                before = now
                if options.once:
                    break
        except KeyboardInterrupt:
            # This is how one leaves it.
            pass
    return 0


def socket_path(text: str) -> str:
    """The path in what was typed."""
    scheme, colon, rest = text.partition(":")
    if colon and scheme.lower() in ("ws", "wss", "http", "https", "tcp"):
        raise sockrpc.UsageError(
            f"top looks at a unix socket, not at {scheme}: start the server with --inspect-path PATH, "
            "and give PATH"
        )
    if scheme.lower() == "unix" and colon:
        return rest.removeprefix("//")
    return text


def snapshots(path: str, interval: float) -> Generator[tuple[str, Snapshot], None, None]:
    """Yield the snapshots of the server, each as the line that came and as its parsed form."""
    if not hasattr(socket, "AF_UNIX"):
        raise sockrpc.UsageError("top needs unix sockets, which this system lacks")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(interval + PATIENCE)
        try:
            line.connect(path)
        except FileNotFoundError:
            text = f"there is no {path}; was the server started with --inspect-path?"
            raise NoConnectionError(FileNotFoundError(text)) from None
        except OSError as error:
            error.add_note(path)
            raise NoConnectionError(error) from error
        line.sendall(json.dumps({"interval": interval}).encode() + b"\n")
        with line.makefile("rb") as incoming:
            while data := incoming.readline(MAX_LINE_BYTES):
                try:
                    text = data.decode("ascii")
                    answer = json.loads(text)
                    if "error" not in answer:
                        view(answer, None, *PLAIN_SIZE)
                except (ValueError, LookupError, TypeError, AttributeError):
                    raise OSError(f"{path} is not the --inspect-path of a server") from None
                if "error" in answer:
                    raise OSError(f"the server refuses: {answer['error']}")
                yield text, answer
    raise OSError("the server has gone")


@contextlib.contextmanager
def screen() -> Iterator[None]:
    """The terminal as a screen, and as it was before at the end, however that comes."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    sys.stdout.write(ENTER)
    sys.stdout.flush()
    try:
        yield
    finally:
        sys.stdout.write(LEAVE)
        sys.stdout.flush()
        signal.signal(signal.SIGTERM, before)


def view(now: Snapshot, before: Snapshot | None, columns: int, lines: int) -> list[str]:
    """The rows of a view, cut to the size of the screen."""
    clock = time.strftime("%H:%M:%S", time.localtime(now["time"]))
    answered, *others = ENDINGS
    endings = [f"{answered.text} {now[answered.counter]:,}{rate(now, before, answered.counter)}"]
    endings += [f"{each.text} {now[each.counter]:,}" for each in others]
    loads = [
        f"{now[name]:,} {text}"
        for text, name in (
            ("connections", "connections"),
            ("calls in flight", "calls_in_flight"),
            ("running", "calls_running"),
            ("waiting", "procedures_waiting"),
        )
    ]
    traffic = (
        f"received {now['bytes_received']:,} bytes, sent {now['bytes_sent']:,}, "
        f"slow peers closed {now['slow_peers_closed']:,}"
    )
    if not now["complete"]:
        traffic += "; there are too many calls to look at the ages of all"
    head = [
        f"sockrpc {now['pid']}, {clock}: {', '.join(loads)}",
        ", ".join(endings),
        *errors(now),
        traffic,
        *both_ways(now, before),
    ]
    methods: list[tuple[str, ...]] = [
        ("METHOD", "IN FLIGHT", "OLDEST", "ANSWERED", "FAILED", "ABORTED"),
        *(
            (
                each["method"],
                f"{each['in_flight']:,}",
                age(each.get("oldest_seconds")),
                *(f"{each[name]:,}" if name in each else "" for name in ("answered", "failed", "aborted")),
            )
            for each in now["methods"]
        ),
    ]
    connections: list[tuple[str, ...]] = [
        ("CONNECTION", "IN FLIGHT", "OLDEST", "WAITING", "NO CREDIT"),
        *(
            (
                f"{each['connection_id']} {each['remote_address']}",
                f"{each['in_flight']:,}",
                age(each["oldest_seconds"]),
                f"{each['waiting']:,}",
                f"{each['items_waiting_for_credit']:,}",
            )
            for each in now["connections_in_flight"]
        ),
    ]
    # Two empty rows, and the last one of the screen stays empty, or it would roll.
    left = max(lines - len(head) - 3, 0)
    few = min(len(connections), max(left // 2, left - len(methods)))
    rows = [*head, "", *table(methods[: left - few]), "", *table(connections[:few])]
    return [printable(row)[:columns].rstrip() for row in rows[: max(lines - 1, 1)]]


def errors(now: Snapshot) -> list[str]:
    """The row of the errors that were sent, if there were some: by code, most first, and by outcome."""
    if not now["errors_by_code"]:
        return []
    codes = sorted(now["errors_by_code"].items(), key=lambda each: -each[1])
    outcomes = ", ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in now["errors_by_outcome"].items())
    return [f"errors {', '.join(f'{name} {n:,}' for name, n in codes)} ({outcomes})"]


def both_ways(now: Snapshot, before: Snapshot | None) -> list[str]:
    """The rows of streams and of calls made at clients, if there were some."""
    rows = []
    if now["items_received"] or now["items_sent"]:
        rows.append(
            ", ".join(
                f"{now[f'items_{way}']:,} items {way}{rate(now, before, f'items_{way}')}, "
                f"{now[f'item_bytes_{way}']:,} bytes"
                for way in ("received", "sent")
            )
            + f", {now['items_waiting_for_credit']:,} waiting for credit"
        )
    if now["outgoing_calls_started"]:
        counts = [
            f"{now[f'outgoing_calls_{name}']:,} {name.replace('_', ' ')}"
            for name in ("in_flight", "waiting", "answered", "failed")
        ]
        rows.append(f"calls made at clients: {', '.join(counts)}")
    return rows


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows as lines; a name takes what it needs up to a bound, numbers stand to the right."""
    width = min(max((len(printable(row[0])) for row in rows), default=0), 48)
    return [
        f"{printable(row[0])[:width]:<{width}}" + "".join(f"{cell:>12}" for cell in row[1:]) for row in rows
    ]


def age(seconds: float | None) -> str:
    """How old something is."""
    return "" if seconds is None else f"{seconds:,.3f} s" if seconds < 10 else f"{seconds:,.0f} s"


def rate(now: Snapshot, before: Snapshot | None, name: str) -> str:
    """How many more a second."""
    if before is None or now["time"] <= before["time"]:
        return ""
    return f" ({(now[name] - before[name]) / (now['time'] - before['time']):,.0f}/s)"
