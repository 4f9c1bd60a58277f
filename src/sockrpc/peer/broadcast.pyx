"""A notification to many connections: the part of a broadcast that runs for each of them."""

cimport cython

from sockrpc.websocket.input cimport STATE_OPEN
from sockrpc.peer.peer cimport PeerBase

from sockrpc.peer.notification import shared_notification


@cython.nonecheck(True)
def broadcast(
        connections: list[PeerBase], excluded: PeerBase | None, name: bytes,
        payload: bytes) -> tuple[int, list[PeerBase]]:
    """Queue a notification for each connection but one; never waits.

    Args:
        connections: The connections; each is asked for its state when its turn comes, as writing to one may
            end others. The list itself must not change meanwhile.
        excluded: The connection to leave out.
        name: The event, checked by the caller.
        payload: The payload.

    Returns:
        The number of connections it was queued for, and those that are too full to take it.
    """
    cdef PeerBase connection
    cdef bytes frame = shared_notification(name, payload)
    cdef Py_ssize_t queued = 0
    cdef list slow = []
    for connection in connections:
        if connection is excluded or connection.state != STATE_OPEN:
            continue
        if connection.write_paused and connection.unsent() > connection.settings.limits.output_max_bytes:
            slow.append(connection)
            continue
        if connection.compression is not None:
            # Earlier messages are part of the compressor's state, so no two members get the same bytes.
            connection.notify(name, payload)
        else:
            connection.append_frame(frame)
            if not connection.pumping:
                connection.write_soon(False)
        queued += 1
    return queued, slow
