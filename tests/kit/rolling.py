"""Restarts a server again and again under load, and counts what its clients noticed.

Also a program, which prints the `Outcome` as JSON: with one argument, a JSON object of the arguments of
`roll` and `migrate`, for net.ipv4.tcp_migrate_req. That is how it runs in a network namespace of its
own, whose system it may set up:

    unshare --net python -m tests.kit.rolling '{"restarts": 50, "how": "port", "migrate": true}'
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import itertools
import json
import random
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import sockrpc
from tests.kit.command import Command

GENERATION = Path(__file__).with_name("generation.py")
MIGRATE = Path("/proc/sys/net/ipv4/tcp_migrate_req")

# The load: connections that come, call once and go; and some that stay, with calls in flight.
NEWCOMERS = 8
REGULARS = 4
IN_FLIGHT = 8
WORK_MILLISECONDS = 40

# Nothing takes this long, in seconds, unless it has been forgotten.
FORGOTTEN = 30.0


@dataclasses.dataclass
class Outcome:
    """What the clients noticed, and what the servers say they have done."""

    restarts: int = 0
    seconds: float = 0.0
    connections: int = 0
    answered: int = 0
    # Calls whose connection was closed with 1001 instead of an answer.
    told_to_go: int = 0
    # Everything else: refused, reset, 503, broken without a close frame, never answered.
    failures: dict[str, int] = dataclasses.field(default_factory=dict)
    calls_started: int = 0
    calls_answered: int = 0
    calls_ended_otherwise: int = 0
    exit_codes: list[int] = dataclasses.field(default_factory=list)
    logs: list[str] = dataclasses.field(default_factory=list)


class Load:
    """Clients that connect and call until they are told to end."""

    def __init__(self, uri: str, outcome: Outcome) -> None:
        self.uri = uri
        self.outcome = outcome
        self.ending = False
        self.random = random.Random(1)

    async def newcomer(self) -> None:
        while not self.ending:
            with self.judging():
                async with sockrpc.connect(self.uri) as client:
                    self.outcome.connections += 1
                    await self.call(client)

    async def regular(self) -> None:
        while not self.ending:
            with self.judging():
                async with sockrpc.connect(self.uri) as client, asyncio.TaskGroup() as group:
                    self.outcome.connections += 1
                    for _ in range(IN_FLIGHT):
                        group.create_task(self.work(client))

    async def work(self, client: sockrpc.Client) -> None:
        while not self.ending and await self.call(client):
            pass

    async def call(self, client: sockrpc.Client) -> bool:
        """True if it was answered, and False if the server said good-bye instead."""
        # Paced by what the calls take, so that the machine has time for the restarts.
        payload = str(self.random.randrange(WORK_MILLISECONDS)).encode()
        try:
            answer = await client.call("work", payload, timeout=FORGOTTEN)
        except sockrpc.ConnectionLost as lost:
            if lost.code != 1001:
                raise
            self.outcome.told_to_go += 1
            return False
        except sockrpc.RPCError as error:
            if not is_goodbye(error):
                raise
            self.outcome.told_to_go += 1
            return False
        assert answer == payload
        self.outcome.answered += 1
        return True

    @contextlib.contextmanager
    def judging(self) -> Any:
        """Count what must not happen."""
        try:
            yield
        except* (OSError, sockrpc.SockRPCError) as errors:
            for error in leaves(errors):
                if is_goodbye(error):
                    # It came while the client connected.
                    self.outcome.told_to_go += 1
                    continue
                what = f"{type(error).__name__}: {error}"
                self.outcome.failures[what] = self.outcome.failures.get(what, 0) + 1


def is_goodbye(error: BaseException) -> bool:
    """True if a server that stops has refused a call of sockrpc.v1, or a client: another one may take it."""
    return (
        isinstance(error, sockrpc.RPCError)
        and error.code is sockrpc.Code.UNAVAILABLE
        and error.outcome is sockrpc.Outcome.NOT_STARTED
    )


def leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    """The exceptions in a group of groups."""
    return [
        leaf
        for each in group.exceptions
        for leaf in (leaves(each) if isinstance(each, BaseExceptionGroup) else [each])
    ]


@contextlib.asynccontextmanager
async def under_load(uri: str, outcome: Outcome) -> AsyncIterator[None]:
    load = Load(uri, outcome)
    async with asyncio.TaskGroup() as group:
        for _ in range(NEWCOMERS):
            group.create_task(load.newcomer())
        for _ in range(REGULARS):
            group.create_task(load.regular())
        try:
            yield
        finally:
            load.ending = True


class Generation(Command):
    """One server, which listens already."""

    def __init__(self, **options: Any) -> None:
        fds = (options["fd"],) if "fd" in options else ()
        super().__init__(json.dumps(options), program=(str(GENERATION),), pass_fds=fds)
        try:
            assert self.line() == "ready"
        except BaseException:
            self.__exit__()
            raise

    def finish(self, outcome: Outcome) -> None:
        """Wait for its end, and note what it has done."""
        done = json.loads(self.rest())
        outcome.exit_codes.append(self.end())
        outcome.calls_started += done["calls_started"]
        outcome.calls_answered += done["calls_answered"]
        for name in ("calls_failed", "calls_reset", "calls_lost", "calls_timed_out", "calls_stopped"):
            outcome.calls_ended_otherwise += done[name]
        outcome.logs += self.log
        self.__exit__()


async def roll(
    restarts: int,
    how: str,
    *,
    filter: bool = True,
    loops: list[str] | None = None,
) -> Outcome:
    """Restart so many times, the new server being ready before the old one is told to stop.

    Args:
        restarts: How many times.
        how: "fd": one listening socket is handed on; "port": each listens with SO_REUSEPORT.
        filter: See `tests.kit.generation`.
        loops: The event loops of the generations, in turns.
    """
    outcome = Outcome(restarts)
    kinds = itertools.cycle(loops or ["uvloop", "asyncio"])
    with socket.socket() as holder:
        if how == "port":
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        options: dict[str, Any] = {"port": port, "filter": filter}
        if how == "fd":
            holder.listen(1024)
            options = {"fd": holder.fileno()}
        old = Generation(**options, loop=next(kinds))
        began = time.monotonic()
        try:
            async with under_load(f"ws://127.0.0.1:{port}/", outcome):
                finishing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                finishing.set_result(None)
                for _ in range(restarts):
                    # The one before may still be answering its last calls meanwhile.
                    new = await asyncio.to_thread(Generation, **options, loop=next(kinds))
                    await finishing
                    before, old = old, new
                    before.process.terminate()
                    finishing = asyncio.ensure_future(asyncio.to_thread(before.finish, outcome))
                await finishing
        finally:
            outcome.seconds = time.monotonic() - began
            old.process.terminate()
            old.finish(outcome)
    return outcome


def set_up_namespace(migrate: bool = False) -> None:
    """In a new network namespace the loopback device is down, and the system's settings are ours."""
    MIGRATE.write_text(f"{migrate:d}")
    up = 0x1
    with socket.socket() as line:
        # struct ifreq, SIOCSIFFLAGS
        fcntl.ioctl(line, 0x8914, struct.pack("16sH14x", b"lo", up))


def main(migrate: bool, **arguments: Any) -> None:
    set_up_namespace(migrate)
    outcome = asyncio.run(roll(**arguments))
    sys.stdout.write(json.dumps(dataclasses.asdict(outcome)) + "\n")


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
