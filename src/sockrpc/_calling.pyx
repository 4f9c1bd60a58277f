"""The client's end of one connection: calls that wait, events that are listened for."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t

import asyncio
import os
import sys
from collections import deque

from sockrpc._connection cimport STATE_OPEN, Connection
from sockrpc._keepalive cimport WatchedConnection
from sockrpc._output cimport Settings
from sockrpc._debug cimport DEBUG, count_created, count_freed
from sockrpc._dispatch cimport Entry, RequestTable
from sockrpc._frames cimport (
    FAULT_NONE, MAX_NAME_BYTES, MAX_PREFIX_BYTES, OPCODE_NOTIFY, OPCODE_RESPONSE, RECEIVER_CLIENT, Fault, Frame,
    fault_reason, name_fault, parse, text_fault, write_notify, write_request, write_reset,
)
from sockrpc._loop cimport LoopContext
from sockrpc._websocket cimport Parser

from sockrpc.errors import ListenerOverflow, UsageError

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject *)

ctypedef int (*FrameHandler)(ClientConnection, Frame *) except -1

cdef object running_loop = asyncio._get_running_loop

# How often this process has forked off the one that it was: a connection from before is its parent's.
cdef Py_ssize_t forks = 0


def count_fork() -> None:
    """This process is a new one."""
    global forks
    forks += 1  # pragma: no trace


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=count_fork)

cdef enum:
    HANDLERS = 5

cdef FrameHandler[HANDLERS] FRAME_HANDLERS
FRAME_HANDLERS[0] = NULL
FRAME_HANDLERS[1] = NULL
FRAME_HANDLERS[2] = NULL
FRAME_HANDLERS[3] = NULL
FRAME_HANDLERS[<int> OPCODE_NOTIFY] = ClientConnection.on_notify
FRAME_HANDLERS[<int> OPCODE_RESPONSE] = ClientConnection.on_response


@cython.final
cdef class Pending(Entry):
    """One call that waits for its answer in `future`."""

    def __dealloc__(self):
        cdef Pending pending = self.following
        cdef Pending after
        # Before `future` goes: what is told of its end may look into the table, and would find this.
        if self.table is not None:
            self.table.take(self)
        # A long queue one by one: each would free the next from inside its own end, down the stack.
        self.following = None
        while pending is not None and Py_REFCNT(<PyObject *> pending) == 1:
            after = pending.following
            pending.following = None
            pending = after
            after = None


@cython.final
cdef class Subscription:
    """Where the payloads of one event go for one listener."""

    def __cinit__(self, ClientConnection connection, bytes name):
        if DEBUG:
            count_created(<PyObject *> self)
        self.connection = connection
        self.name = name
        self.payloads = deque()

    def __dealloc__(self):
        if DEBUG:
            count_freed(<PyObject *> self)

    cdef int add(self, bytes payload, Py_ssize_t max_payloads, Py_ssize_t max_bytes) except -1:
        if len(self.payloads) >= max_payloads or self.held_bytes + PyBytes_GET_SIZE(payload) > max_bytes:
            self.connection.unsubscribe(self)
            return self.finish(ListenerOverflow(
                f"a listener of {self.name!r} fell behind by {len(self.payloads)} payloads, "
                f"{self.held_bytes} bytes"))
        self.payloads.append(payload)
        self.held_bytes += PyBytes_GET_SIZE(payload)
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
        return 0

    cdef int finish(self, object error) except -1:
        if self.over:
            return 0
        self.over = True
        self.error = error
        self.connection = None
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)
        return 0

    def take(self) -> bytes | None:
        """The next payload, None if there is none."""
        cdef bytes payload
        if not self.payloads:
            return None
        payload = self.payloads.popleft()
        self.held_bytes -= PyBytes_GET_SIZE(payload)
        return payload

    def wait(self, loop):
        """A future that is done when there is a payload or the end."""
        if self.connection is not None:
            self.connection.check_place()
        if self.waiter is None or self.waiter.done():
            self.waiter = loop.create_future()
            if self.payloads or self.over:
                self.waiter.set_result(None)
        return self.waiter

    def cancel(self) -> None:
        """Unsubscribe; payloads that are held are dropped."""
        if self.connection is not None:
            self.connection.unsubscribe(self)
        self.payloads.clear()
        self.held_bytes = 0
        self.finish(None)


# Not final: sockrpc.protocols joins it to asyncio.BufferedProtocol.
cdef class ClientConnection(WatchedConnection):
    """One connection of a client.

    Args:
        settings: The limits.
        context: Of the loop that it runs on.
        handshake: Receives the bytes of the opening handshake; None in tests that need none.
    """

    def __init__(self, Settings settings, LoopContext context, handshake=None):
        self.settings = settings
        self.context = context
        self.handshake = handshake
        self.is_client = True
        self.parser = Parser("client", settings.max_message_bytes)
        self.table = RequestTable()
        self.subscriptions = {}
        self.forks = forks

    # Whose it is

    cpdef int check_place(self) except -1:
        """Refuse to be used from another event loop, another thread, or another process than its own."""
        if running_loop() is self.context.loop and self.forks == forks:
            return 0
        return self.check_place_closely()

    cdef int check_place_closely(self) except -1:
        cdef object loop = self.context.loop
        if self.ended:
            # Whatever comes next says so.
            return 0
        if self.forks != forks:
            raise UsageError(  # pragma: no trace
                "this client was made before os.fork(); its connection is the parent process's")
        if running_loop() is None and not loop.is_running() and not loop.is_closed():
            return 0
        raise UsageError(
            "this client belongs to another event loop; use it there (asyncio.run_coroutine_threadsafe does that "
            "from another thread), or connect again here")

    def leave(self) -> bool:
        """Close, because nobody will use it any more; from any thread. False if nothing was open."""
        # After a fork the line is still the parent's; at the end of the interpreter there is no loop to do it.
        if self.ended or self.forks != forks or sys.is_finalizing():
            return False
        if not self.context.loop.is_closed():
            try:
                self.context.call_in_loop(self.close_unwaited)
            except RuntimeError:
                # The loop was closed in this moment, by its own thread.
                pass
        return True

    def close_unwaited(self) -> None:
        """Close without waiting for the peer's answer: the loop may be about to end."""
        self.start_close(1000, "")
        self.close_transport()

    # Calls

    def request(self, name: bytes, payload: bytes) -> Pending:
        """Enter a call and have its request written; a lone one at once, several at the end of the iteration."""
        cdef Pending pending = Pending.__new__(Pending)
        if self.ended:
            raise self.error()
        self.check_place()
        pending.future = self.context.loop.create_future()
        pending.name = name
        pending.payload = payload
        pending.id = self.table.allocate()
        self.table.insert(pending)
        pending.unsent = True
        if self.last_unsent is None:
            self.first_unsent = pending
        else:
            self.last_unsent.following = pending
        self.last_unsent = pending
        if self.table.count == 1 and not self.in_feed:
            self.flush()
        else:
            self.context.schedule_flush(self)
        return pending

    def abandon(self, Pending pending) -> None:
        """The waiter is no longer interested: one reset, at once, unless the answer or the end came first."""
        cdef uint8_t prefix[5]
        # Its exception, if it has one, refers to the frame that has waited, and so to this.
        pending.future = None
        if pending.table is not self.table:
            return
        self.table.take(pending)
        if pending.unsent:
            # Its request was never written, so nothing is: `write_requests` passes it over.
            pending.unsent = False
            pending.name = pending.payload = None
            return
        self.send(prefix, write_reset(prefix, pending.id), b"")
        Connection.flush(self)

    cdef int write_requests(self) except -1:
        cdef uint8_t prefix[MAX_PREFIX_BYTES]
        cdef Pending pending
        cdef Py_ssize_t n
        while self.first_unsent is not None and not self.write_paused:
            pending = self.first_unsent
            self.first_unsent = pending.following
            pending.following = None
            if self.first_unsent is None:
                self.last_unsent = None
            # Its waiter may have been cancelled without having run since; `abandon` finds it unsent then.
            if pending.unsent and not pending.future.done():
                pending.unsent = False
                n = write_request(
                    prefix, pending.id, <const uint8_t *> PyBytes_AS_STRING(pending.name),
                    PyBytes_GET_SIZE(pending.name))
                self.send(prefix, n, pending.payload)
                pending.name = pending.payload = None
        return 0

    cdef int flush(self) except -1:
        if self.first_unsent is not None and self.state == STATE_OPEN:
            self.write_requests()
        return Connection.flush(self)

    def is_writable(self) -> bool:
        """False while output is above the high-water mark, or requests wait to be written."""
        if self.first_unsent is not None:
            self.write_requests()
        return not self.write_paused and self.first_unsent is None

    def notify(self, name: bytes, payload: bytes) -> None:
        """Append a notification to the output; `is_writable` has written the requests made before it."""
        cdef uint8_t prefix[2 + MAX_NAME_BYTES]
        cdef const uint8_t *data = name
        self.send(prefix, write_notify(prefix, data, PyBytes_GET_SIZE(name)), payload)
        self.write_soon(self.table.count == 0)

    @property
    def ids_in_flight(self) -> list[int]:
        """The ids of the calls that wait."""
        return sorted([entry.id for entry in self.table.entries()])

    def set_last_id(self, uint32_id: int) -> None:
        """The next call gets the id after this one; for tests of the wrap-around."""
        self.table.last_id = uint32_id

    # Events

    def subscribe(self, name: bytes) -> Subscription:
        """Listen to an event from here on."""
        cdef Subscription subscription = Subscription(self, name)
        if self.ended:
            raise self.error()
        self.check_place()
        self.subscriptions.setdefault(name, []).append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Stop listening."""
        cdef list listeners = self.subscriptions.get(subscription.name)
        if listeners is not None and subscription in listeners:
            listeners.remove(subscription)
            if not listeners:
                del self.subscriptions[subscription.name]

    @property
    def events_listened(self) -> list[str]:
        """The events that somebody listens to."""
        return sorted([name.decode() for name in self.subscriptions])

    # Frames

    cdef int on_message(self, const uint8_t *data, Py_ssize_t size) except -1:
        cdef Frame frame
        cdef Fault fault = parse(data, size, RECEIVER_CLIENT, &frame)
        if fault != FAULT_NONE:
            return self.fail(1002, fault_reason(fault))
        # `parse` lets only the opcodes of this side through.
        return FRAME_HANDLERS[frame.opcode](self, &frame)

    cdef int on_text(self, const uint8_t *data, Py_ssize_t size) except -1:
        return self.fail(1003, text_fault())

    cdef int on_response(self, Frame *frame) except -1:
        cdef PyObject *entry = self.table.find(frame.id)
        cdef Pending pending
        if entry == NULL or (<Pending> entry).unsent:
            # It crossed the reset, or it answers what was never asked.
            return 0
        pending = <Pending> entry
        self.table.take(pending)
        if not pending.future.done():
            pending.future.set_result(
                PyBytes_FromStringAndSize(<const char *> frame.payload, frame.payload_size))
        return 0

    cdef int on_notify(self, Frame *frame) except -1:
        cdef bytes name = PyBytes_FromStringAndSize(<const char *> frame.name, frame.name_size)
        cdef list listeners = self.subscriptions.get(name)
        cdef bytes payload
        if listeners is None:
            try:
                PyUnicode_DecodeUTF8(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), NULL)
            except UnicodeDecodeError:
                return self.fail(1002, name_fault())
            return 0
        payload = PyBytes_FromStringAndSize(<const char *> frame.payload, frame.payload_size)
        # A copy: one that overflows leaves the list.
        for listener in list(listeners):
            (<Subscription> listener).add(
                payload, self.settings.max_listener_payloads, self.settings.max_listener_bytes)
        return 0

    # Ending

    def connection_lost(self, error) -> None:
        """Called by the transport: it is gone."""
        if error is not None and self.cause is None:
            # Not the frames that it went through: they hold the transport, which holds this.
            error.__traceback__ = None
            self.cause = error
        Connection.connection_lost(self, error)

    cdef object error(self):
        cdef object error = Connection.error(self)
        error.__cause__ = self.cause
        return error

    cdef int on_output_open(self) except -1:
        return self.flush()

    cdef int on_end(self) except -1:
        self.first_unsent = self.last_unsent = None
        return self.fail_all()

    cdef int on_lost(self) except -1:
        return 0

    cdef int fail_all(self) except -1:
        cdef Pending pending
        cdef Py_ssize_t bucket = 0
        cdef dict subscriptions = self.subscriptions
        while True:
            pending = <Pending> self.table.next_entry(&bucket)
            if pending is None:
                break
            self.table.take(pending)
            if pending.future.done():
                continue
            try:
                # One each: a traceback grows on the exception that is raised.
                pending.future.set_exception(self.error())
            except Exception as error:  # pragma: no memory
                # No memory for it; but nobody may wait for ever.
                if not pending.future.done():  # pragma: no memory
                    pending.future.set_exception(error)  # pragma: no memory
            # Its waiter may have been cancelled in this iteration; that is not an error.
            pending.future.exception()
        self.subscriptions = {}
        for listeners in subscriptions.values():
            for listener in listeners:
                (<Subscription> listener).finish(
                    None if self.ended_by_us and not self.peer_is_wrong else self.error())
        return 0
