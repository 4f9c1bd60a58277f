"""Broadcasting to the sockets of one process."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Iterator

from sockrpc._frames import encode
from sockrpc.errors import UsageError
from sockrpc.peer.belonging import call_there, is_here
from sockrpc.peer.broadcast import broadcast
from sockrpc.peer.peer import Peer
from sockrpc.sockets import Socket

__all__ = ["Room"]

# Threads can be faster than the event loop, so this many bytes of theirs may wait for it per room.
MOST_HANDED_OVER = 16 * 2**20
HANDING_OVER = threading.Lock()


def no_loop() -> None:
    """Return None: the room has had no member."""


def loop_of(connection: Peer) -> asyncio.AbstractEventLoop:
    """Return the event loop that a connection belongs to."""
    return connection.service.context.loop


class Room:
    """A set of sockets of one event loop to which a notification can be sent at once.

    A socket whose connection is lost leaves all its rooms by itself, in the iteration in which its
    calls are aborted. `join`, `leave` and `broadcast` may be called in any thread; outside the thread
    of the event loop they take effect soon, in the order of the calls.
    """

    __slots__ = ("_handed_over", "_loop", "_members")

    def __init__(self) -> None:
        self._members: dict[Socket, Peer] = {}
        # The loop of the members, including those about to join.
        self._loop: Callable[[], asyncio.AbstractEventLoop | None] = no_loop
        # The payload bytes from other threads that the event loop has not taken yet.
        self._handed_over = 0

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Socket]:
        # Iterate over a copy: members may come and go meanwhile.
        return iter(list(self._members))

    def __contains__(self, socket: object) -> bool:
        return socket in self._members

    def join(self, socket: Socket) -> None:
        """Make a socket a member; joining twice is joining once. A lost socket does not join.

        Raises:
            UsageError: The members belong to another event loop.
        """
        loop = loop_of(socket._connection)
        before = self._loop()
        if before is not loop:
            if self._members and before is not None and not before.is_closed():
                raise UsageError("the members of a room are of one event loop: make a room for each")
            self._loop = weakref.ref(loop)
        call_there(loop, lambda: self._join(socket))

    def _join(self, socket: Socket) -> None:
        if socket._connection.has_ended:
            return
        self._members[socket] = socket._connection
        if socket._rooms is None:
            socket._rooms = set()
        socket._rooms.add(self)

    def leave(self, socket: Socket) -> None:
        """End a membership; leaving without being a member does nothing."""
        call_there(loop_of(socket._connection), lambda: self._leave(socket))

    def _leave(self, socket: Socket) -> None:
        self._forget(socket)
        if socket._rooms is not None:
            socket._rooms.discard(self)

    def broadcast(
        self,
        event: str,
        payload: str | bytes | bytearray | memoryview = b"",
        *,
        exclude: Socket | None = None,
    ) -> int:
        """Send a notification to every member, the sender included. Never waits.

        A member whose unsent output is above `output_max_bytes` is disconnected with 1013; the others
        are not affected. A member that is not open yet (it joined in `process_request`) is skipped.

        Args:
            event: The name.
            payload: The payload.
            exclude: A member to leave out.

        Returns:
            The number of members that it was queued for; in another thread, the number of members at that
            moment. In another thread it is 0, and nothing is sent, while over 16 MiB wait for the event loop.

        Raises:
            UsageError: The event's name is longer than 255 bytes.
        """
        if exclude is not None and not isinstance(exclude, Socket):
            raise UsageError(f"exclude is a Socket, not {type(exclude).__name__}")
        name, encoded = encode(event, payload)
        # Iterate over a copy: if a write makes room at once, handlers may start in it, and join or leave.
        members = list(self._members.values())
        loop = self._loop()
        if loop is None:
            return 0
        if is_here(loop):
            return self._broadcast(members, exclude, name, encoded)
        size = len(name) + len(encoded)

        def there() -> None:
            with HANDING_OVER:
                self._handed_over -= size
            self._broadcast(list(self._members.values()), exclude, name, encoded)

        with HANDING_OVER:
            if self._handed_over > MOST_HANDED_OVER:
                return 0
            self._handed_over += size
        call_there(loop, there)
        return len(members) - (exclude in self._members)

    def _broadcast(
        self,
        members: list[Peer],
        exclude: Socket | None,
        name: bytes,
        payload: bytes,
    ) -> int:
        excluded = None if exclude is None else self._members.get(exclude)
        queued, slow = broadcast(members, excluded, name, payload)
        # All of them leave before the first is closed: its on_disconnect may broadcast in turn, and would
        # otherwise close the next one from inside that, and so on down the stack.
        for connection in slow:
            self._forget(connection.socket)
        for connection in slow:
            connection.close_slow()
        return queued

    def _forget(self, socket: Socket) -> None:
        self._members.pop(socket, None)
