"""Calls that this end of a connection makes, and the events that it listens to."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t

import asyncio
import os
import sys

from sockrpc._debug cimport DEBUG
from sockrpc._frames cimport MAX_PREFIX_BYTES, Frame, write_request, write_reset
from sockrpc.peer.states cimport (
    CALLER_IDLE, CALLER_INPUTS, CALLER_ON_CALL, CALLER_ON_CANCEL, CALLER_ON_LOST, CALLER_ON_RESPONSE, CALLER_ON_WRITE,
    CALLER_QUEUE, CALLER_SEND_RESET, CALLER_SETTLE, Cell, take_caller_row,
)
from sockrpc.peer.subscription cimport Subscription
from sockrpc.peer.table cimport Entry, RequestTable
from sockrpc.websocket.connection cimport Connection
from sockrpc.websocket.input cimport STATE_OPEN

from sockrpc.errors import UsageError

cdef object running_loop = asyncio._get_running_loop

# Counts the forks that led to this process: a connection made before a fork belongs to the parent.
cdef Py_ssize_t forks = 0


def count_fork() -> None:
    """Note that this process is a new one."""
    global forks
    forks += 1  # pragma: no trace


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=count_fork)


@cython.final
cdef class OutgoingCall(Entry):
    """A call that waits for its answer in `future`."""


cdef class Caller(Connection):
    """A connection that makes calls at the other end and listens to its notifications."""

    def __cinit__(self, *args, **kwargs):
        self.outgoing = RequestTable()
        self.forks = forks

    # Ownership

    cpdef int check_place(self) except -1:
        """Raise unless this runs in the event loop, thread and process that own the connection."""
        if running_loop() is self.context.loop and self.forks == forks:
            return 0
        return self.check_place_closely()

    cdef int check_place_closely(self) except -1:
        cdef object loop = self.context.loop
        if self.ended:
            # The caller's next step reports the end.
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
        """Close because the client is not used any more; from any thread. False if nothing was open."""
        # After a fork the socket is still the parent's; at interpreter shutdown no loop is left to close it.
        if self.ended or self.forks != forks or sys.is_finalizing():
            return False
        if not self.context.loop.is_closed():
            try:
                self.context.call_in_loop(self.close_unwaited)
            except RuntimeError:
                # The loop's own thread closed it at this very moment.
                pass
        return True

    def close_unwaited(self) -> None:
        """Close without waiting for the peer's answer: the loop may be about to end."""
        self.start_close(1000, "")
        self.close_transport()

    # Calls

    def request(self, name: bytes, payload: bytes) -> OutgoingCall:
        """Enter a call and get its request written: a single one at once, several at the end of the iteration."""
        cdef OutgoingCall call = OutgoingCall.__new__(OutgoingCall)
        if self.ended:
            raise self.error()
        self.check_place()
        call.future = self.context.loop.create_future()
        call.name = name
        call.payload = payload
        call.id = self.outgoing.allocate()
        self.step(call, CALLER_ON_CALL)
        if self.outgoing.count == 1 and not self.in_feed:
            self.flush()
        else:
            self.context.schedule_flush(self)
        return call

    def abandon(self, OutgoingCall call) -> None:
        """Give up a call: one reset, sent at once, unless the answer or the end came first."""
        cdef uint8_t prefix[5]
        # The future's exception, if there is one, refers to the frame that waited, and thus to this call.
        call.future = None
        if self.step(call, CALLER_ON_CANCEL) == CALLER_SEND_RESET:
            self.send(prefix, write_reset(prefix, call.id), b"")
            Connection.flush(self)

    cdef int step(self, OutgoingCall call, int input) except -1:
        # The index is within the table because both numbers come from its enums.
        cdef const Cell *cell = &self.life.caller[call.state * CALLER_INPUTS + input]
        if DEBUG:
            take_caller_row(self.life, call.state, input)
        call.state = cell.next
        if cell.action == CALLER_QUEUE:
            self.enter(call)
        elif cell.next == CALLER_IDLE and call.table is not None:
            # The call is over: the first to get here takes it out of the table.
            self.leave_table(call)
        return cell.action

    cdef int enter(self, OutgoingCall call) except -1:
        self.outgoing.insert(call)
        call.previous = self.last
        if self.last is None:
            self.first = call
        else:
            self.last.following = call
        self.last = call
        if self.first_unsent is None:
            self.first_unsent = call
        return 0

    cdef int leave_table(self, OutgoingCall call) noexcept:
        self.outgoing.take(call)
        if self.first_unsent is call:
            self.first_unsent = call.following
        if call.previous is None:
            self.first = call.following
        else:
            call.previous.following = call.following
        if call.following is None:
            self.last = call.previous
        else:
            call.following.previous = call.previous
        call.previous = call.following = None
        call.name = call.payload = None
        return 0

    cdef int write_requests(self) except -1:
        cdef uint8_t prefix[MAX_PREFIX_BYTES]
        cdef OutgoingCall call
        cdef Py_ssize_t n
        while self.first_unsent is not None and not self.write_paused:
            call = self.first_unsent
            self.first_unsent = call.following
            # The waiter may be cancelled already and not have run since; `abandon` then finds the call unsent.
            if not call.future.done():
                self.step(call, CALLER_ON_WRITE)
                n = write_request(
                    prefix, call.id, <const uint8_t *> PyBytes_AS_STRING(call.name),
                    PyBytes_GET_SIZE(call.name))
                self.send(prefix, n, call.payload)
                call.name = call.payload = None
        return 0

    cdef int flush(self) except -1:
        if self.first_unsent is not None and self.state == STATE_OPEN:
            self.write_requests()
        return Connection.flush(self)

    def is_writable(self) -> bool:
        """False while the output is above the high-water mark, or requests wait to be written."""
        if self.first_unsent is not None:
            self.write_requests()
        return not self.write_paused and self.first_unsent is None

    @property
    def ids_in_flight(self) -> list[int]:
        """Return the ids of the calls that wait, in order."""
        return sorted([entry.id for entry in self.outgoing.entries()])

    def set_last_id(self, uint32_id: int) -> None:
        """Make the next call use the id after this one; for tests of the wrap-around."""
        self.outgoing.last_id = uint32_id

    # Events

    def subscribe(self, name: bytes) -> Subscription:
        """Start to listen to an event."""
        cdef Subscription subscription = Subscription(self, name)
        if self.ended:
            raise self.error()
        self.check_place()
        if self.subscriptions is None:
            self.subscriptions = {}
        self.subscriptions.setdefault(name, []).append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Stop listening."""
        cdef list listeners = None if self.subscriptions is None else self.subscriptions.get(subscription.name)
        if listeners is not None and subscription in listeners:
            listeners.remove(subscription)
            if not listeners:
                del self.subscriptions[subscription.name]

    @property
    def events_listened(self) -> list[str]:
        """Return the events that have listeners."""
        return sorted([name.decode() for name in self.subscriptions or ()])

    # Frames

    cdef int on_response(self, Frame *frame) except -1:
        cdef PyObject *entry = self.outgoing.find(frame.id)
        cdef OutgoingCall call
        if entry == NULL:
            # A call that is not in the table is idle: the answer crossed the reset, or was never asked for.
            if DEBUG:
                take_caller_row(self.life, CALLER_IDLE, CALLER_ON_RESPONSE)
            return 0
        call = <OutgoingCall> entry
        if self.step(call, CALLER_ON_RESPONSE) == CALLER_SETTLE and not call.future.done():
            call.future.set_result(
                PyBytes_FromStringAndSize(<const char *> frame.payload, frame.payload_size))
        return 0

    cdef bint deliver(self, Frame *frame) except -1:
        """Give a notification to the listeners of its name; False if there are none."""
        cdef list listeners = self.subscriptions.get(PyBytes_FromStringAndSize(<const char *> frame.name, frame.name_size))
        cdef bytes payload
        if listeners is None:
            return False
        payload = PyBytes_FromStringAndSize(<const char *> frame.payload, frame.payload_size)
        # Iterate over a copy: a listener that overflows leaves the list.
        for listener in list(listeners):
            (<Subscription> listener).add(
                payload, self.settings.limits.max_listener_payloads, self.settings.limits.max_listener_bytes)
        return True

    # Ending

    def connection_lost(self, error) -> None:
        """Called by the transport when it is gone."""
        if error is not None and self.cause is None:
            # Drop the traceback: its frames hold the transport, which holds this object.
            error.__traceback__ = None
            self.cause = error
        Connection.connection_lost(self, error)

    cdef object error(self):
        cdef object error = Connection.error(self)
        error.__cause__ = self.cause
        return error

    cdef int fail_all(self) except -1:
        cdef OutgoingCall call
        cdef dict subscriptions = self.subscriptions
        while self.first is not None:
            call = self.first
            self.step(call, CALLER_ON_LOST)
            if call.future.done():
                continue
            try:
                # Each call gets an exception of its own because raising adds to its traceback.
                call.future.set_exception(self.error())
            except Exception as error:  # pragma: no memory
                # Out of memory, but no caller may wait for ever.
                if not call.future.done():  # pragma: no memory
                    call.future.set_exception(error)  # pragma: no memory
            # The waiter may have been cancelled in this iteration, and an unretrieved exception would be logged.
            call.future.exception()
        self.subscriptions = None
        if subscriptions is None:
            return 0
        for listeners in subscriptions.values():
            for listener in listeners:
                (<Subscription> listener).finish(
                    None if self.ended_by_us and not self.peer_is_wrong else self.error())
        return 0
