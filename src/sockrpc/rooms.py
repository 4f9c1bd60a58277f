"""Broadcasting to the sockets of one process."""

from __future__ import annotations

from collections.abc import Iterator

from sockrpc._broadcast import broadcast
from sockrpc._frames import encode
from sockrpc._serving import ServerConnection
from sockrpc.errors import UsageError
from sockrpc.sockets import Socket

__all__ = ["Room"]


class Room:
    """A set of sockets that a notification can be sent to at once.

    A socket whose connection is lost leaves all its rooms by itself, in the iteration in which its
    calls are aborted.
    """

    __slots__ = ("_members",)

    def __init__(self) -> None:
        self._members: dict[Socket, ServerConnection] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Socket]:
        # A copy: whoever iterates may let members come and go meanwhile.
        return iter(list(self._members))

    def __contains__(self, socket: object) -> bool:
        return socket in self._members

    def join(self, socket: Socket) -> None:
        """Make a socket a member; joining twice is joining once. A lost socket does not join."""
        if socket._connection.has_ended:
            return
        self._members[socket] = socket._connection
        if socket._rooms is None:
            socket._rooms = set()
        socket._rooms.add(self)

    def leave(self, socket: Socket) -> None:
        """End a membership; leaving without being a member does nothing."""
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
        notice nothing. One that is not open yet (it joined in `process_request`) is passed over.

        Args:
            event: The name.
            payload: The payload.
            exclude: A member that is left out.

        Returns:
            The number of members that it was queued for.

        Raises:
            UsageError: The event's name is longer than 255 bytes.
        """
        if exclude is not None and not isinstance(exclude, Socket):
            raise UsageError(f"exclude is a Socket, not {type(exclude).__name__}")
        # A copy: where a write makes room at once, handlers may start in it, and join or leave.
        connections = list(self._members.values())
        excluded = None if exclude is None else self._members.get(exclude)
        queued, slow = broadcast(connections, excluded, *encode(event, payload))
        # All of them leave before the first is closed: its on_disconnect may broadcast in its turn, and
        # would close the next one from inside that, and so on down the stack.
        for connection in slow:
            self._forget(connection.socket)
        for connection in slow:
            connection.close_slow()
        return queued

    def _forget(self, socket: Socket) -> None:
        self._members.pop(socket, None)
