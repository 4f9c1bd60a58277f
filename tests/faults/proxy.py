"""A TCP proxy between a real client and a real server that spoils nothing but time, until it cuts.

Bytes arrive unchanged and in order, or not at all: they may be split, delayed, stalled, and the line may
be cut by FIN or by RST, also after so many bytes. A reset of one side is a reset of the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Literal, Self

from tests.kit.support import PATIENCE, cut

How = Literal["fin", "rst"]
Side = Literal["client", "server"]

READ_BYTES = 16 * 1024
# What a direction holds of these reads while it delays or stalls; then it reads no more.
HELD_READS = 8
# What the system may hold for a socket here (Linux doubles it): a stalled line soon blocks its sender.
SYSTEM_BYTES = 16 * 1024


class Direction:
    """What happens to the bytes that go one way, on all links; may be changed at any time.

    Attributes:
        piece: The size of the next piece, in bytes; None: as it came.
        delay: Seconds that the next read is held back, at least; nothing overtakes.
        cut_after: Cut the link when so many bytes have passed; None: never.
        cut_how: How to cut it.
    """

    def __init__(self) -> None:
        self.piece: Callable[[], int] | None = None
        self.delay: Callable[[], float] | None = None
        self.cut_after: int | None = None
        self.cut_how: How = "fin"
        self._flowing = asyncio.Event()
        self._flowing.set()

    def stall(self) -> None:
        """Let nothing pass until `flow`; what is sent piles up at the sender."""
        self._flowing.clear()

    def flow(self) -> None:
        """Let bytes pass again."""
        self._flowing.set()

    async def flowing(self) -> None:
        await self._flowing.wait()


class End:
    """The proxy's end towards one side of a link."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.line: socket.socket = writer.get_extra_info("socket")
        self.line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SYSTEM_BYTES)
        # Drained means: given to the system.
        writer.transport.set_write_buffer_limits(0)

    def cut(self, how: How) -> None:
        # Only what is open can be reset: the descriptor of a closed one may be another's by now.
        if how == "rst" and not self.writer.transport.is_closing():
            cut(self.writer)
        else:
            self.writer.close()

    async def release(self) -> None:
        """Be gone, whatever was still to be sent."""
        if self.line.fileno() >= 0:
            self.writer.transport.abort()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


class Link:
    """One connection through the proxy.

    Attributes:
        passed: Bytes that were given on, by the side that they go to.
        ended: Set when both sides are gone.
    """

    def __init__(self, client: End, server: End) -> None:
        self.ends: dict[Side, End] = {"client": client, "server": server}
        self.passed: dict[Side, int] = {"client": 0, "server": 0}
        self.ended = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def cut(self, how: How, towards: Side | None = None) -> None:
        """Cut the line, towards one side only or both; what is held back is lost."""
        if towards is None:
            for task in self._tasks:
                task.cancel()
        for side, end in self.ends.items():
            if towards in {None, side}:
                end.cut(how)

    async def run(self, up: Direction, down: Direction) -> None:
        """Carry bytes both ways until both have ended or the line is cut."""
        self._tasks = [
            asyncio.ensure_future(each)
            for each in (self._carry("client", "server", up), self._carry("server", "client", down))
        ]
        try:
            await asyncio.wait(self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
            for end in self.ends.values():
                end.writer.close()
            self.ended.set()
        for task in self._tasks:
            if not task.cancelled():
                task.result()

    async def _carry(self, source: Side, target: Side, direction: Direction) -> None:
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(HELD_READS)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(self.ends[source].reader, held, direction))
                group.create_task(self._write(held, target, direction))
        except* OSError:
            # Reset by one of the sides; the other one is told the same way.
            self.cut("rst")

    @staticmethod
    async def _read(
        reader: asyncio.StreamReader, held: asyncio.Queue[tuple[float, bytes]], direction: Direction
    ) -> None:
        loop = asyncio.get_running_loop()
        due = 0.0
        while True:
            data = await reader.read(READ_BYTES)
            if direction.delay is not None:
                due = max(due, loop.time() + direction.delay())
            await held.put((due, data))
            if not data:
                return

    async def _write(
        self, held: asyncio.Queue[tuple[float, bytes]], target: Side, direction: Direction
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await held.get()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            await direction.flowing()
            writer = self.ends[target].writer
            if writer.transport.is_closing():
                # Its other side has gone; where that was a reset, reading from it tells.
                return
            if not data:
                writer.write_eof()
                return
            await self._give(data, target, direction)

    async def _give(self, data: bytes, target: Side, direction: Direction) -> None:
        writer = self.ends[target].writer
        while data and not writer.transport.is_closing():
            size = len(data) if direction.piece is None else direction.piece()
            if direction.cut_after is not None:
                size = min(size, direction.cut_after - self.passed[target])
            writer.write(data[:size])
            self.passed[target] += len(data[:size])
            data = data[size:]
            await writer.drain()
            if direction.cut_after is not None and self.passed[target] >= direction.cut_after:
                await turns()
                self.cut(direction.cut_how)
            if direction.piece is not None:
                await turns()
            await direction.flowing()


async def turns() -> None:
    """Let what was just written be read: one turn writes it, one reads it, in this very loop."""
    for _ in range(3):
        await asyncio.sleep(0)


class Proxy:
    """Listens on a free port of this host and connects each client to the server at `port`.

    Attributes:
        up: From the clients to the server.
        down: From the server to the clients.
        links: All links that there were.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self.port = 0
        self.up = Direction()
        self.down = Direction()
        self.links: list[Link] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def uri(self) -> str:
        return f"ws://127.0.0.1:{self.port}/socket"

    @property
    def link(self) -> Link:
        """The latest link."""
        return self.links[-1]

    def cut(self, how: How) -> None:
        """Cut every line."""
        for link in self.links:
            link.cut(how)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._connect(reader, writer)
        except asyncio.CancelledError:
            # The end of the proxy; asyncio's streams would report it.
            pass
        finally:
            self._tasks.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = End(reader, writer)
        try:
            towards = await asyncio.open_connection("127.0.0.1", self.target, limit=READ_BYTES)
        except BaseException as error:
            client.cut("rst")
            if isinstance(error, OSError):
                return
            raise
        link = Link(client, End(*towards))
        self.links.append(link)
        if self.up.cut_after == 0:
            link.cut(self.up.cut_how)
        await link.run(self.up, self.down)

    async def __aenter__(self) -> Self:
        listening = socket.socket()
        # Inherited by what it accepts.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SYSTEM_BYTES)
        listening.bind(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        self._server: Any = await asyncio.start_server(self._accept, sock=listening, limit=READ_BYTES)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        for direction in (self.up, self.down):
            direction.flow()
        async with asyncio.timeout(PATIENCE):
            if self._tasks:
                await asyncio.wait(set(self._tasks))
            for end in [end for link in self.links for end in link.ends.values()]:
                await end.release()
            with contextlib.suppress(ConnectionError):
                await self._server.wait_closed()
