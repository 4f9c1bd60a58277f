"""All that the connections of a server have in flight, for observers."""

from sockrpc.peer.procedure cimport Host, Procedure, ProcedureQueue
from sockrpc.peer.service cimport Service


def find_running(Service service not None, task: object) -> object:
    """Return the call or notification whose handler runs right now; None if no handler of ours does.

    `task` is the running task. Safe in any thread, because nothing here lets another thread in.
    """
    cdef Host connection
    cdef Procedure procedure
    if service.context.starting != NULL:
        return <object> service.context.starting
    if task is None:
        return None
    for connection in service.working:
        for queue in (connection.active, connection.handling):
            procedure = None if queue is None else (<ProcedureQueue> queue).head
            while procedure is not None:
                if procedure.owns(task):
                    return procedure
                procedure = procedure.following
    return None


def look(
        Service service not None, max_connections: int, max_calls: int) -> tuple[dict[str, object], list[object], bool]:
    """Summarise the work in flight for human readers.

    Args:
        max_connections: The most connections to list; those with most calls in flight come first.
        max_calls: The most calls to look at.

    Returns:
        For each method the number of calls looked at and the age of the oldest, in seconds; the
        connections, with how many are in flight and the age of the oldest; whether all calls were
        looked at.
    """
    cdef Host connection
    cdef Procedure call
    cdef dict methods = {}
    cdef list connections = []
    cdef list loaded = []
    cdef bint complete = True
    cdef Py_ssize_t left = max_calls
    cdef double now = service.context.tick()
    cdef double oldest
    for connection in service.working:
        if connection.incoming.count:
            loaded.append((connection.incoming.count, connection.number, connection))
    loaded.sort(reverse=True)
    for count, _, connection in loaded:
        if count > left:
            complete = False
            continue
        left -= count
        oldest = 0.0
        for call in connection.incoming.entries():
            oldest = max(oldest, now - call.since)
            seen, age = methods.get(call.name, (0, 0.0))
            methods[call.name] = (seen + 1, max(<double> age, now - call.since))
        if len(connections) < max_connections:
            connections.append((connection, count, oldest))
    return methods, connections, complete
