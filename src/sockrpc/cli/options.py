"""The options of the command line: how they are parsed, and those that several commands have."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from sockrpc.cli.failing import EXIT_USAGE
from sockrpc.errors import UsageError
from sockrpc.limits import LIMITS, Side
from sockrpc.logs import FORMATS
from sockrpc.websocket.protocols import PROTOCOLS

__all__ = [
    "CLIENT_DEFAULTS",
    "METRICS_HOST",
    "CommandParser",
    "Commands",
    "Repeated",
    "add_client_options",
    "add_serving_options",
    "given_limits",
    "given_places",
    "seconds",
    "variable_of",
    "whole_number",
]

EPILOG = """
A flag may be a variable of the environment instead: SOCKRPC_CLOSE_TIMEOUT
stands for --close-timeout. Flags win over variables.

exit codes: 0 done, 1 failed (such as a connection that was lost), 2 usage,
3 the call has failed (standard error has CODE: message), 4 no connection,
124 timed out (the call was reset), 130 interrupted (the call was reset)
"""

# Flags in the environment begin with this.
PREFIX = "SOCKRPC_"
YES, NO = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}

# The ways to say where to listen, of which a server takes one.
PLACES = ({"host", "port"}, {"uds"}, {"fd"})

METRICS_HOST = "127.0.0.1"

# Limits with a default of their own for the commands of a client: a command that has its answer does not wait
# long for a server that does not close.
CLIENT_DEFAULTS: Mapping[str, float] = {"close_timeout": 0.5}

# The value of a flag that was not given.
MISSING: Any = object()


class CommandParser(argparse.ArgumentParser):
    """A parser that reports errors in one line, with a pointer to the help.

    Args:
        program: The name that this line begins with.
        reads_environment: Every flag may be given as a variable as well; a flag wins over it.
        options: As for any parser.
    """

    def __init__(self, *, program: str, reads_environment: bool = False, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self._program = program
        self._reads_environment = reads_environment

    def error(self, message: str) -> NoReturn:
        """End the process with one line."""
        self.exit(EXIT_USAGE, f"{self._program}: {message}; {self.prog} --help tells more\n")

    # argparse calls this for the arguments of each command.
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments; of flags that are not among them, look into the environment."""
        if not self._reads_environment:
            return super().parse_known_args(args, namespace)
        found: dict[str, tuple[argparse.Action, str]] = {}
        for action in self._actions:
            variable = variable_of(action)
            if variable is not None and os.environ.get(variable):
                if action.option_strings:
                    found[action.dest] = action, variable
                else:
                    action.nargs, action.required, action.default = "?", False, os.environ[variable]
        options, rest = super().parse_known_args(args, argparse.Namespace(**dict.fromkeys(found, MISSING)))
        if rest:
            # Told here, as the parser of all commands does not know whose help would tell more.
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        places = given_places(options)
        for name, (action, variable) in found.items():
            if getattr(options, name) is not MISSING:
                continue
            value = None
            # A server listens in one way: a flag for one is not mixed with a variable for another.
            if not places or name in places[0] or not any(name in place for place in PLACES):
                try:
                    value = value_of(action, os.environ[variable])
                except (argparse.ArgumentTypeError, UsageError) as error:
                    self.error(f"{variable} in the environment: {error}")
            setattr(options, name, value)
        return options, rest


class Commands:
    """The commands that a parser knows.

    Args:
        parser: The parser of the whole command line.
    """

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parsers = parser.add_subparsers(
            title="commands", metavar="COMMAND", required=True, parser_class=CommandParser
        )

    def add(
        self, name: str, run: Callable[[argparse.Namespace], int], text: str, operands: str = ""
    ) -> CommandParser:
        """Add a command; returns its parser.

        Args:
            name: The name as it is typed.
            run: Runs the command and returns the exit code.
            text: The description in the help.
            operands: Its arguments beside flags, as the help shows them.
        """
        added = self._parsers.add_parser(
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


def variable_of(action: argparse.Action) -> str | None:
    """The variable in which something of the command line may be given instead, None for what has none."""
    if action.dest == "app" or (action.option_strings and action.dest != "help"):
        return PREFIX + action.dest.upper()
    return None


def given_places(options: argparse.Namespace) -> list[set[str]]:
    """Which of the ways to say where to listen were given."""
    given = {name for name, value in vars(options).items() if value is not None and value is not MISSING}
    return [place for place in PLACES if place & given]


def given_limits(options: argparse.Namespace, names: frozenset[str]) -> dict[str, Any]:
    """The limits that were given on the command line."""
    return {name: value for name, value in vars(options).items() if name in names}


def value_of(action: argparse.Action, text: str) -> Any:
    """The value of a flag, from the text of a variable."""
    if isinstance(action, Repeated):
        return [each.strip() for each in text.split(action.separator) if each.strip()]
    if action.nargs == 0:
        if text.lower() not in YES | NO:
            raise argparse.ArgumentTypeError(f"{text!r} is neither 1 nor 0")
        return text.lower() in YES
    value = action.type(text) if callable(action.type) else text
    if action.type is limit_value:
        # Limits given as flags are checked later; checking a variable here names it in the error.
        LIMITS[action.dest].check(value)
    if action.choices is not None and value not in action.choices:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(map(str, action.choices))}")
    return value


class Repeated(argparse.Action):
    """A flag that may be repeated; in a variable its values stand behind each other."""

    def __init__(self, *arguments: Any, separator: str = ",", **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.separator = separator

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Add one value to those before it, unless these are defaults."""
        before = getattr(namespace, self.dest, None)
        setattr(namespace, self.dest, [*(before if isinstance(before, list) else []), values])


def whole_number(text: str) -> int:
    """A number as it was typed."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def seconds(text: str) -> float:
    """A time as it was typed."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return value


def limit_value(text: str) -> float | int | None:
    """The value of a limit as it was typed."""
    if text.lower() == "none":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'none'")


def add_serving_options(parser: argparse.ArgumentParser, own: Mapping[str, dict[str, Any]]) -> None:
    """Add the options of serve and demo, and those that only one of them has."""
    serving = parser.add_argument_group("serving")
    serving.add_argument("--host", default=None, help="address to listen on (127.0.0.1)")
    serving.add_argument(
        "--port", type=whole_number, default=None, metavar="N", help="TCP port; 0: any free one (3000)"
    )
    serving.add_argument("--uds", metavar="PATH", help="listen on a unix socket instead; @NAME: abstract")
    serving.add_argument(
        "--fd",
        action=Repeated,
        metavar="N",
        help="listen on this inherited socket instead; systemd or systemd:NAME: those of the unit",
    )
    serving.add_argument(
        "--reuse-port", action="store_true", help="let other processes listen on the same port (SO_REUSEPORT)"
    )
    serving.add_argument(
        "--origin", action=Repeated, metavar="ORIGIN", help="let in pages of this origin too; * lets in all"
    )
    for flag, options in own.items():
        serving.add_argument(flag, **options)
    add_common_options(serving)
    tls = parser.add_argument_group("TLS")
    tls.add_argument("--ssl-certfile", type=Path, metavar="FILE", help="serve wss with this certificate")
    tls.add_argument(
        "--ssl-keyfile", type=Path, metavar="FILE", help="its key, if it is not in the same file"
    )
    add_limit_options(parser, "server", {})
    add_operating_options(parser)


def add_client_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of call, stream, notify, listen and bench."""
    parser.add_argument("uri", metavar="URI", help="ws://host:port/path or wss://...")
    connecting = parser.add_argument_group("connecting")
    connecting.add_argument("--uds", metavar="PATH", help="connect to this unix socket; @NAME: abstract")
    connecting.add_argument(
        "--header",
        action=Repeated,
        separator="\n",
        default=[],
        metavar="NAME: VALUE",
        help="send a header too",
    )
    connecting.add_argument(
        "--protocol", choices=PROTOCOLS, help="offer this protocol alone (both, the first of these preferred)"
    )
    connecting.add_argument(
        "--hello",
        action=Repeated,
        separator="\n",
        default=[],
        metavar="KEY=VALUE",
        help="metadata of the connection, for the server to decide on; may be repeated",
    )
    add_common_options(connecting)
    tls = parser.add_argument_group("TLS")
    tls.add_argument("--cafile", type=Path, metavar="FILE", help="trust these certificates (wss)")
    add_limit_options(parser, "client", CLIENT_DEFAULTS)


def add_common_options(group: Any) -> None:
    """Add the options of all commands but top."""
    group.add_argument("--compression", choices=["deflate"], help="compress messages (off)")
    group.add_argument("--json", action="store_true", help="print JSON, one object a line")


def add_limit_options(parser: argparse.ArgumentParser, side: Side, defaults: Mapping[str, float]) -> None:
    """A flag for each limit, with its default: the one of the library where the command has none."""
    group = parser.add_argument_group(
        "limits", "'none' where allowed; the documentation says under Limits what happens at each"
    )
    for limit in LIMITS.values():
        if side in limit.sides:
            flag = "--" + limit.name.replace("_", "-")
            unit = " s" if limit.unit == "s" else ""
            default = defaults.get(limit.name, limit.default_of(side))
            shown = f"{default}{unit}"
            if default is None:
                shown = "from the system" if limit.name == "max_connections" else "none"
            group.add_argument(
                flag, type=limit_value, default=argparse.SUPPRESS, metavar="N", help=f"({shown})"
            )


def add_operating_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of serve and demo for operating a server."""
    group = parser.add_argument_group("operating")
    group.add_argument("--loop", choices=["auto", "uvloop", "asyncio"], default="auto", help="(%(default)s)")
    group.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    group.add_argument(
        "--log-format", choices=FORMATS, default="text", help="json: one object a line (%(default)s)"
    )
    group.add_argument(
        "--metrics-port",
        type=whole_number,
        metavar="N",
        help="serve metrics for Prometheus here; 0: any free port",
    )
    group.add_argument("--metrics-host", default=METRICS_HOST, metavar="HOST", help="(%(default)s)")
    group.add_argument(
        "--inspect-path", metavar="PATH", help="let `sockrpc top PATH` look at the calls in flight (off)"
    )
