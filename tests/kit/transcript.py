"""Types what the boxes of a page show, and compares what is printed.

In a ``console`` block a line that begins with "$ " is typed, and what follows up to the next is printed, both
streams together. ``sockrpc serve``, ``sockrpc listen`` and what is typed "In the first terminal" go on beside
the others.
"^C", or the next command after ``sockrpc listen``, is typed as soon as the log says the first line of the
next "In the server's terminal". There, and in what is printed, "..." stands for anything.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path

from tests.kit.command import Command
from tests.kit.pages import Block, blocks, included_file
from tests.kit.processes import STOPPED, eventually, is_listening
from tests.kit.readme import on_port

# What the test's own environment stands for.
SET_UP = ("python3 -m venv", ". .venv/bin/activate", "pip install sockrpc")
LOG_CAPTION = "In the server's terminal"
SERVER_CAPTION = "In the first terminal"


def like(shown: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in shown.split("...")))


class Transcript:
    """The reader's folder and terminals while one page is worked through."""

    def __init__(self, page: Path, folder: Path, port: int) -> None:
        self.page = page
        self.folder = folder
        self.port = port
        self.typed: list[str] = []
        self.server: Command | None = None
        self._listener: Command | None = None
        self._expected_of_listener: list[str] = []
        self._logged = 0
        self._stack = contextlib.ExitStack()

    def play(self) -> None:
        """Everything on the page, from the top to the end."""
        with self._stack:
            todo = blocks(self.page)
            for index, block in enumerate(todo):
                if block.directive == "literalinclude":
                    self.save(included_file(self.page, block))
                elif block.language == "console":
                    self.console(block, todo[index + 1 :])
                elif block.caption == LOG_CAPTION:
                    self.compare_log(block)
            self.stop_server()

    def save(self, file: Path) -> None:
        code = file.read_text("utf-8")
        if f":{self.port}" not in code and ":3000" in code:
            code = on_port(code, self.port)
        (self.folder / file.name).write_text(code, encoding="utf-8")

    def console(self, block: Block, following: list[Block]) -> None:
        commands = re.split(r"^\$ ", block.code, flags=re.MULTILINE)
        assert commands[0] == "", f"{self.page}: a console block begins with a command"
        for entry in commands[1:]:
            command, *shown = entry.splitlines()
            if command.startswith(SET_UP):
                assert shown == []
                continue
            self.typed.append(command)
            words = shlex.split(command.replace(":3000", f":{self.port}"))
            program, *arguments = words
            if block.caption == SERVER_CAPTION:
                self.start_program(program, arguments)
            elif words[:2] == ["sockrpc", "serve"]:
                self.serve(arguments, shown)
            elif words[:2] == ["sockrpc", "listen"]:
                self._listener = self.start("sockrpc", arguments)
                self._expected_of_listener = shown
                self.wait_next_log(following)
            else:
                self.run(self.start(program, arguments), shown, following)
                self.hear()

    def start(self, program: str, arguments: list[str]) -> Command:
        if program == "python":
            return self._stack.enter_context(
                Command(*arguments[1:], program=(arguments[0],), cwd=self.folder)
            )
        assert program == "sockrpc", program
        return self._stack.enter_context(Command(*arguments, cwd=self.folder))

    def serve(self, arguments: list[str], shown: list[str]) -> None:
        self.stop_server()
        self.server = self.start("sockrpc", [*arguments, "--port", str(self.port)])
        self._logged = 0
        for line in shown:
            assert self.server.line() == line.replace(":3000", f":{self.port}")

    def start_program(self, program: str, arguments: list[str]) -> None:
        """A server that is a program of its own, and says nothing when it listens."""
        self.stop_server()
        server = self.start(program, [str(self.port) if word == "3000" else word for word in arguments])
        eventually(lambda: is_listening(self.port) or server.process.poll() is not None)
        self.server = server
        self._logged = 0

    def run(self, command: Command, shown: list[str], following: list[Block]) -> None:
        if shown[:1] == ["^C"]:
            self.wait_next_log(following)
            command.interrupt()
            del shown[0]
        printed = command.rest().decode().splitlines()
        command.end()
        printed += command.log
        assert len(printed) == len(shown), (self.page.name, shown, printed)
        for line, wanted in zip(printed, shown, strict=True):
            assert like(wanted).fullmatch(line), (self.page.name, wanted, line)

    def wait_next_log(self, following: list[Block]) -> None:
        """What was typed has reached the server: it has logged the first line that the page shows next."""
        (first, *_) = next(block.code.splitlines() for block in following if block.caption == LOG_CAPTION)
        assert self.server is not None
        self.server.wait_log(first)

    def hear(self) -> None:
        """What a listener in another terminal was to print."""
        if self._listener is not None:
            assert [self._listener.line() for _ in self._expected_of_listener] == self._expected_of_listener
            self._listener.interrupt()
            self._listener.end()
            self._listener = None

    def compare_log(self, block: Block) -> None:
        """The lines are in the log behind those of the box before, those of one call in this order."""
        assert self.server is not None
        ends: dict[str, int] = {}
        for line in block.code.splitlines():
            call = "".join(re.findall(r"call \d+", line))
            ends[call] = self.server.wait_log_line(like(line), ends.get(call, self._logged))
        self._logged = max(ends.values())

    def stop_server(self) -> None:
        if self.server is not None:
            self.server.process.terminate()
            assert self.server.end() == STOPPED, self.server.log
            self.server = None
