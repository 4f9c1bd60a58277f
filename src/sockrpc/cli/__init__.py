"""The command line."""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import errno
import functools
import json
import os
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import sockrpc
from sockrpc.cli.bench import add_load_options, print_load
from sockrpc.cli.flags import (
    CLIENT_DEFAULTS,
    EXIT_USAGE,
    CommandParser,
    add_client_options,
    add_serving_options,
    given_places,
    seconds,
    whole_number,
)
from sockrpc.cli.operating import Operation
from sockrpc.cli.pages import pages, plain_pages, serve_pages
from sockrpc.cli.top import add_top_options, top
from sockrpc.dial.redirects import shown_uri
from sockrpc.limits import CLIENT_KEYWORDS, SERVER_KEYWORDS
from sockrpc.listen.notes import about, notes_of
from sockrpc.listen.server_hooks import hooks_fail_visibly
from sockrpc.listen.server_sockets import shown_address
from sockrpc.listen.systemd import named_sockets
from sockrpc.listen.unix import typed_uds
from sockrpc.process.importer import AppError, load_app
from sockrpc.texts import printable

__all__ = ["main"]

# v0.1 can not tell a client that a call failed, so no call waits for ever by accident.
DEFAULT_TIMEOUT = 30.0

EXIT_FAILED = 1
EXIT_TIMED_OUT = 124  # as timeout(1)
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

EPILOG = """
A flag may be a variable of the environment instead: SOCKRPC_CLOSE_TIMEOUT
stands for --close-timeout. Flags win over variables.

exit codes: 0 done, 1 failed (no connection, connection lost), 2 usage,
124 timed out (the call was reset), 130 interrupted (the call was reset)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
    except sockrpc.UsageError as error:
        return complain(str(error), EXIT_USAGE)
    except AppError as error:
        # Of several lines; nothing in it is a peer's.
        print(f"sockrpc: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return complain("interrupted", EXIT_INTERRUPTED)
    except TimeoutError as error:
        return complain((str(error) or "timed out") + notes_of(error), EXIT_TIMED_OUT)
    except BrokenPipeError:
        # Whoever read our output has gone; that is how pipes end. What is left of it goes nowhere.
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
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str, operands: str = "") -> Any:
        added = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=EPILOG,
            # All flags would be forty lines.
            usage=f"sockrpc {name} [FLAG ...] {operands}".rstrip(),
            program="sockrpc",
            reads_environment=True,
        )
        added.set_defaults(run=run)
        return added

    serving = command("serve", serve, "serve an app", "MODULE:APP")
    serving.add_argument("app", metavar="MODULE:APP", help="an App, or a coroutine function of one socket")
    add_serving_options(
        serving,
        {
            "--path": {"help": "answer on this path only"},
            "--page": {
                "type": Path,
                "metavar": "FILE",
                "help": "serve this page at /, and /sockrpc.js; by default / says what is here",
            },
            "--workers": {
                "type": whole_number,
                "default": 1,
                "metavar": "N",
                "help": "processes that serve on the same port (%(default)s)",
            },
        },
    )
    add_serving_options(command("demo", demo, "serve the tutorial's procedures and its page"), {})

    calling = command(
        "call", call, "call a method and print its answer; Ctrl-C resets the call", "URI METHOD [PAYLOAD]"
    )
    add_client_options(calling)
    calling.add_argument("method", metavar="METHOD")
    calling.add_argument("payload", metavar="PAYLOAD", nargs="?", default="", help="text; - reads stdin")
    calling.add_argument(
        "--timeout", type=seconds, default=DEFAULT_TIMEOUT, metavar="S", help="seconds (%(default)g)"
    )

    notifying = command("notify", notify, "send a notification", "URI EVENT [PAYLOAD]")
    add_client_options(notifying)
    notifying.add_argument("event", metavar="EVENT")
    notifying.add_argument("payload", metavar="PAYLOAD", nargs="?", default="", help="text; - reads stdin")

    listening = command(
        "listen", listen, "print the payloads of events, one a line, until Ctrl-C", "URI EVENT [EVENT ...]"
    )
    add_client_options(listening)
    listening.add_argument("events", metavar="EVENT", nargs="+")

    loading = command("bench", bench, "put a load on a server and tell how long its answers take", "URI")
    add_client_options(loading)
    add_load_options(loading, DEFAULT_TIMEOUT)

    add_top_options(command("top", top, "look at the calls in flight on a server, until Ctrl-C", "PATH"))
    return parser


def given_limits(options: argparse.Namespace, names: frozenset[str]) -> dict[str, Any]:
    """The limits that were given on the command line."""
    return {name: value for name, value in vars(options).items() if name in names}


def serve(options: argparse.Namespace) -> int:
    """`sockrpc serve`."""
    # Modules of the current folder are found.
    sys.path.insert(0, "")
    app = options.app if options.workers != 1 else load_app(options.app)
    if options.page is None:
        routes = plain_pages(options.path, secure=options.ssl_certfile is not None)
    elif options.page.is_file():
        routes = pages(options.page)
    else:
        raise sockrpc.UsageError(f"{options.page} is not a file")
    return run_server(options, app, path=options.path, process_request=serve_pages(routes))


def demo(options: argparse.Namespace) -> int:
    """`sockrpc demo`."""
    from sockrpc.demo import make_app

    page = Path(__file__).parents[1] / "demo" / "index.html"
    routes = pages(page, "demo.css", "demo.js")
    return run_server(options, make_app(), path="/socket", process_request=serve_pages(routes))


def run_server(options: argparse.Namespace, app: Any, **more: Any) -> int:
    """Serve until a signal comes."""
    if len(given_places(options)) > 1:
        raise sockrpc.UsageError("where to listen is one of: --host and --port, --uds, --fd")
    workers = getattr(options, "workers", 1)
    operation = Operation(options)
    operation.configure_logs()
    tls = None
    if options.ssl_certfile is not None:
        tls = functools.partial(server_context, options.ssl_certfile, options.ssl_keyfile)
    elif options.ssl_keyfile is not None:
        raise sockrpc.UsageError("--ssl-keyfile needs --ssl-certfile")
    origins: Any = options.origin
    if origins is not None and "*" in origins:
        origins = "*"

    def listening(addresses: Sequence[Any]) -> None:
        for each in addresses[: None if options.fd else 1]:
            where = shown_address(each, "https" if tls else "http")
            told: dict[str, Any] = {"listening": where}
            if workers != 1:
                told["workers"] = workers
                where += f" ({workers} workers)"
            # Flushed, because whoever waits for this line may read a pipe.
            print(json.dumps(told) if options.json else where, flush=True)

    arguments = {
        "uds": typed_uds(options.uds),
        "sock": None if options.fd is None else named_sockets(options.fd),
        "reuse_port": options.reuse_port or None,
        "ssl": tls,
        "origins": origins,
        "compression": options.compression,
        "inspect_path": options.inspect_path,
        "loop": options.loop,
        **given_limits(options, SERVER_KEYWORDS),
        **more,
    }

    def started(server: sockrpc.Server) -> None:
        operation.started(server)
        listening([each.getsockname() for each in server.sockets])

    with listening_errors(options), hooks_fail_visibly():
        if workers == 1:
            sockrpc.run(app, options.host, options.port, on_started=started, **arguments)
        else:
            from sockrpc.process.workers import run_workers

            run_workers(
                app,
                workers,
                options.host,
                options.port,
                prepare=operation.configure_logs,
                on_started=operation.started,
                on_listening=listening,
                **arguments,
            )
    return 0


@contextlib.contextmanager
def listening_errors(options: argparse.Namespace) -> Iterator[None]:
    """Errors say where it was to listen, and how else."""
    where = options.uds or (f"--fd {', '.join(options.fd)}" if options.fd else f"--host {options.host}")
    is_tcp = options.uds is None and options.fd is None
    try:
        yield
    except OSError as error:
        if notes_of(error):
            raise
        if is_tcp and error.errno == errno.EADDRINUSE:
            error.add_note("--port N chooses another, --port 0 any free one")
        elif isinstance(error, socket.gaierror) or (not is_tcp and where not in str(error)):
            error.add_note(where)
        raise


def server_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """What serves wss."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with about(f"--ssl-certfile {certificate}" + (f", --ssl-keyfile {key}" if key else "")):
        context.load_cert_chain(certificate, key)
    return context


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


def call(options: argparse.Namespace) -> int:
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


def notify(options: argparse.Namespace) -> int:
    """`sockrpc notify`."""
    payload = typed_payload(options.payload)

    async def run() -> None:
        async with await connect_to(options) as client:
            await client.notify(options.event, payload)

    asyncio.run(run())
    if options.json:
        print(json.dumps({"event": options.event, **payload_fields(payload)}), flush=True)
    return 0


def listen(options: argparse.Namespace) -> int:
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


def bench(options: argparse.Namespace) -> int:
    """`sockrpc bench`."""
    return 0 if print_load(options, lambda: connect_to(options), DEFAULT_TIMEOUT) else EXIT_INTERRUPTED


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
