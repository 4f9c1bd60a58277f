"""The command line and other programs as processes of their own, for tests that need them so."""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self
from unittest import mock

import pytest

from sockrpc.cli import main

# A process may take its time to begin on a loaded machine; nothing here waits this long unless it is broken.
PATIENCE = 60.0

POSIX = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows has neither these signals nor unix sockets"
)

SOCKRPC = ("-m", "sockrpc")


def command_line(*arguments: str | Path, program: tuple[str, ...] = SOCKRPC) -> list[str]:
    """Warnings of the process are errors, as those of the tests are."""
    return [sys.executable, "-P", "-W", "error", *program, *(str(argument) for argument in arguments)]


def run_command(
    *arguments: str | Path, given: bytes = b"", cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run `sockrpc ARGUMENTS` to its end; `given` is its standard input."""
    return subprocess.run(
        command_line(*arguments), input=given, capture_output=True, timeout=PATIENCE, cwd=cwd, check=False
    )


def run_main(
    *arguments: str | Path, given: bytes = b"", cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """As `run_command`, but in this process, as a new one takes longer to begin than most commands run.

    What serves has a process of its own all the same: it sets up logs and signals, and imports programs.
    """
    command = [str(argument) for argument in arguments]
    if command[:1] in (["serve"], ["demo"]):
        return run_command(*command, given=given, cwd=cwd)
    told, complained = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(2))
    with (
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(told),
        contextlib.redirect_stderr(complained),
        mock.patch("sys.stdin", io.TextIOWrapper(io.BytesIO(given), "utf-8")),
    ):
        try:
            code: int | str | None = main(command)
        except SystemExit as end:
            code = end.code
        told.flush()
        complained.flush()
    assert isinstance(code, int)
    output, errors = (each.buffer.getvalue() for each in (told, complained))  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(command, code, output, errors)


def only_line(text: bytes) -> str:
    """The text, which must be one line."""
    assert text.count(b"\n") == 1, text
    assert text.endswith(b"\n"), text
    return text.decode().removesuffix("\n").removesuffix("\r")


def failure(done: subprocess.CompletedProcess[bytes], code: int) -> str:
    """What a command said that must have failed with this code, nothing on its output and one line of why."""
    assert (done.returncode, done.stdout) == (code, b""), done
    text = only_line(done.stderr)
    assert text.startswith("sockrpc: "), text
    return text


class Command:
    """A process that runs beside the test; killed at the end of the block if it has not ended by itself."""

    def __init__(
        self,
        *arguments: str | Path,
        program: tuple[str, ...] = SOCKRPC,
        cwd: Path | None = None,
        terminal: int | None = None,
        prefix: tuple[str, ...] = (),
        pass_fds: tuple[int, ...] = (),
        given: int = subprocess.DEVNULL,
        **variables: str,
    ) -> None:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # The tests run in the background of a shell; what is ignored here is ignored in each child.
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            # Of nohup, the same.
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
        self.process = subprocess.Popen(
            [*prefix, *command_line(*arguments, program=program)],
            stdin=given,
            stdout=subprocess.PIPE,
            # A terminal is what its standard error may be instead; then there is no log.
            stderr=subprocess.PIPE if terminal is None else terminal,
            cwd=cwd,
            pass_fds=pass_fds,
            # Pipes are buffered by default; whoever flushes does so because it must.
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | variables,
        )
        self.log: list[str] = []
        self._log_ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def _read_log(self) -> None:
        for line in self.process.stderr or ():
            with self._changed:
                self.log.append(line.decode().rstrip())
                self._changed.notify_all()
        with self._changed:
            self._log_ended = True
            self._changed.notify_all()

    def line(self) -> str:
        """The next line of its output."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.endswith(b"\n"), (line, self.log)
        return line.decode().rstrip("\r\n")

    def rest(self) -> bytes:
        """What it still writes to its output until it ends."""
        assert self.process.stdout is not None
        return self.process.stdout.read()

    def logged(self, text: str) -> list[str]:
        """The lines of its log so far that hold the text."""
        return [line for line in self.log if text in line]

    def wait_log(self, text: str) -> None:
        """Wait until a line of its log holds the text."""
        with self._changed:
            self._changed.wait_for(lambda: self._log_ended or self.logged(text), PATIENCE)
        assert self.logged(text), f"{text!r} is not in the log: {self.log}"

    def wait_log_line(self, pattern: re.Pattern[str], start: int = 0) -> int:
        """Wait until a line of its log from `start` on matches; returns the number of the next line."""

        def found() -> int | None:
            lines = enumerate(self.log[start:], start + 1)
            return next((number for number, line in lines if pattern.search(line)), None)

        with self._changed:
            self._changed.wait_for(lambda: self._log_ended or found(), PATIENCE)
            number = found()
        assert number is not None, f"{pattern.pattern!r} is not in the log from line {start} on: {self.log}"
        return number

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """Wait for its end; returns the exit code."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.end()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


class Served(Command):
    """`sockrpc serve` or `sockrpc demo` that listens on a free port.

    Attributes:
        where: The line that it printed.
        port: Its port.
        uri: Its endpoint.
    """

    def __init__(self, *arguments: str | Path, cwd: Path | None = None) -> None:
        super().__init__(*arguments, "--port", "0", cwd=cwd)
        try:
            self.where = self.line()
            self.port = int(self.where.rstrip("/").rpartition(":")[2])
        except BaseException:
            self.__exit__()
            raise
        self.uri = f"ws://127.0.0.1:{self.port}/socket"

    def fetch(
        self, path: str, method: str = "GET", **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """The status, the headers and the body of an ordinary HTTP request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()
