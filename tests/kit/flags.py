"""What a parser of arguments knows, which argparse shows in private attributes only."""

from __future__ import annotations

import argparse


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    (commands,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    return dict(commands.choices)


def flags_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Its flags and operands."""
    return list(parser._actions)
