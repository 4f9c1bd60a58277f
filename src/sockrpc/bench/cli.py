"""The command line of `python -m sockrpc.bench`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from sockrpc.bench.comparison import BenchmarkError, Environment, MeasuringProcess, Plan, compare
from sockrpc.bench.counts import count
from sockrpc.bench.report import comparison_json, comparison_markdown, counts_json, counts_markdown
from sockrpc.bench.selftest import prove
from sockrpc.bench.verdict import Outcome
from sockrpc.errors import UsageError

__all__ = ["main"]

EXIT_USAGE = 2
EXIT_CODES = {Outcome.OK: 0, Outcome.SLOWER: 1, Outcome.INCONCLUSIVE: 3}
EXIT_INTERRUPTED = 130

EPILOG = """
exit codes: 0 ok, 1 slower, 2 used wrongly or a benchmark failed, 3 inconclusive: the machine was
too noisy, or the base cannot run a benchmark; 130 interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = make_parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except UsageError as error:
        return complain(str(error), EXIT_USAGE)
    except BenchmarkError as error:
        sys.stderr.write(error.details)
        return complain(str(error), EXIT_USAGE)
    except OSError as error:
        # The Python may not run, or the report may not be writable.
        return complain(str(error), EXIT_USAGE)
    except KeyboardInterrupt:
        return complain("interrupted", EXIT_INTERRUPTED)
    return code


def complain(text: str, code: int) -> int:
    print(f"sockrpc.bench: {text}", file=sys.stderr)
    return code


class CommandParser(argparse.ArgumentParser):
    """A parser that reports errors in one line, with a pointer to the help."""

    def error(self, message: str) -> NoReturn:
        """End the process with one line."""
        self.exit(EXIT_USAGE, f"sockrpc.bench: {message}; {self.prog} --help tells more\n")


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = CommandParser(
        prog="python -m sockrpc.bench",
        description="Guards the speed of a server against regressions.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, epilog=EPILOG)
        added.set_defaults(run=run)
        return added

    comparing = command("ab", run_ab, "compare two environments by the time that benchmarks take")
    add_sides(comparing)
    add_rounds(comparing)
    comparing.add_argument(
        "--limit",
        type=float,
        default=10.0,
        metavar="PERCENT",
        help="how much slower is too slow (%(default)g)",
    )
    comparing.add_argument(
        "--only", default="", metavar="TEXT", help="run benchmarks whose names contain this"
    )
    comparing.add_argument("--seed", type=int, metavar="N", help="the seed for the order of rounds (random)")
    add_outputs(comparing)

    counting = command(
        "count", run_count, "compare two environments by the instructions that benchmarks take"
    )
    add_sides(counting)
    counting.add_argument(
        "--limit", type=float, default=3.0, metavar="PERCENT", help="how many more are too many (%(default)g)"
    )
    counting.add_argument("--loops", type=int, default=20, metavar="N", help="operations (%(default)d)")
    counting.add_argument(
        "--only", default="", metavar="TEXT", help="run benchmarks whose names contain this"
    )
    add_outputs(counting)

    testing = command(
        "selftest",
        run_selftest,
        "prove on this machine that a slowdown is found and noise is not taken for one",
    )
    testing.add_argument(
        "--venv", type=Path, metavar="VENV", default=Path(sys.executable), help="the environment (this one)"
    )
    testing.add_argument(
        "--path", type=Path, action="append", default=[], metavar="FOLDER", help="import from here too"
    )
    testing.add_argument(
        "--script",
        type=Path,
        action="append",
        metavar="FILE",
        help="a file with functions bench_* (the included one)",
    )
    testing.add_argument("--limit", type=float, default=10.0, metavar="PERCENT", help="(%(default)g)")
    testing.add_argument(
        "--slow", type=float, default=50.0, metavar="PERCENT", help="the slowdown to inject (%(default)g)"
    )
    testing.add_argument(
        "--unchanged", type=int, default=3, metavar="N", help="comparisons of equals (%(default)d)"
    )
    add_rounds(testing)
    return parser


def add_sides(parser: argparse.ArgumentParser) -> None:
    """Add the options for the environments and scripts to compare."""
    for side in ("base", "head"):
        parser.add_argument(
            f"--{side}", type=Path, required=True, metavar="VENV", help="a virtual environment, or its Python"
        )
        parser.add_argument(
            f"--{side}-path", type=Path, action="append", default=[], metavar="FOLDER",
            help="import from this folder too; may be repeated",
        )  # fmt: skip
    parser.add_argument(
        "--script", type=Path, action="append", required=True, metavar="FILE",
        help="a file with functions bench_*; may be repeated",
    )  # fmt: skip


def add_rounds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rounds", type=int, default=60, metavar="N", help="rounds of each side (%(default)d)"
    )
    parser.add_argument(
        "--round-ms", type=float, default=2.0, metavar="MS", help="the length of a round (%(default)g)"
    )
    parser.add_argument(
        "--confirm",
        type=int,
        default=2,
        metavar="N",
        help="further attempts for slow or noisy benchmarks (%(default)d)",
    )


def add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="append the table, as to a job's summary"
    )


def sides(options: argparse.Namespace) -> tuple[Environment, Environment]:
    return (
        Environment.at(options.base, tuple(options.base_path)),
        Environment.at(options.head, tuple(options.head_path)),
    )


def write_outputs(options: argparse.Namespace, text: str, report: dict[str, Any]) -> None:
    print(text, end="", flush=True)
    if options.markdown is not None:
        with options.markdown.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


class Progress:
    """A status line that changes in place, shown only on a terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        """Replace the previous text."""
        if self._shown:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    def end(self) -> None:
        """Clear the line."""
        self("")


def run_ab(options: argparse.Namespace) -> int:
    """Run the command `ab`."""
    base, head = sides(options)
    more = {} if options.seed is None else {"seed": options.seed}
    plan = Plan(
        base,
        head,
        tuple(options.script),
        limit=options.limit / 100,
        rounds=options.rounds,
        confirm=options.confirm,
        round_seconds=options.round_ms / 1000,
        only=options.only,
        **more,
    )
    progress = Progress()
    try:
        comparison = compare(plan, progress)
    finally:
        progress.end()
    code = EXIT_CODES[comparison.outcome]
    write_outputs(options, comparison_markdown(comparison), comparison_json(comparison, code))
    return code


def run_count(options: argparse.Namespace) -> int:
    """Run the command `count`."""
    base, head = sides(options)
    scripts = tuple(options.script)
    names: list[list[str]] = []
    for side, environment in (("base", base), ("head", head)):
        with MeasuringProcess(environment.command(scripts), side, timeout=60.0) as process:
            names.append(process.ask("names"))
    # Benchmarks of only one side cannot be compared; `ab` reports them.
    wanted = [name for name in names[1] if name in names[0] and options.only in name]
    if not wanted or options.loops < 1:
        raise UsageError("there is nothing to count")
    counted = count(base, head, scripts, wanted, options.loops)
    limit = options.limit / 100
    slower = any(each.outcome(limit) is Outcome.SLOWER for each in counted)
    code = EXIT_CODES[Outcome.SLOWER if slower else Outcome.OK]
    write_outputs(options, counts_markdown(counted, limit), counts_json(counted, limit, code))
    return code


def run_selftest(options: argparse.Namespace) -> int:
    """Run the command `selftest`."""
    environment = Environment.at(options.venv, tuple(options.path))
    scripts = tuple(options.script or [Path(__file__).with_name("example.py")])
    proof = prove(
        Plan(
            environment,
            environment,
            scripts,
            limit=options.limit / 100,
            rounds=options.rounds,
            confirm=options.confirm,
            round_seconds=options.round_ms / 1000,
        ),
        slow=options.slow / 100,
        unchanged=options.unchanged,
        say=lambda text: print(text, flush=True),
    )
    return EXIT_CODES[proof]
