"""What this end of a connection asks of the other: calls that wait for answers, events that are listened for."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t

import asyncio
import os
import sys

from sockrpc._frames cimport MAX_PREFIX_BYTES, Frame, write_request, write_reset
from sockrpc.peer.states cimport (
    CALLER_IDLE, CALLER_INPUTS, CALLER_NEVER, CALLER_ON_CALL, CALLER_ON_CANCEL, CALLER_ON_LOST, CALLER_ON_RESPONSE,
    CALLER_ON_WRITE, CALLER_QUEUE, CALLER_SEND_RESET, CALLER_SETTLE, Cell,
)
from sockrpc.peer.subscription cimport Subscription
from sockrpc.peer.table cimport Entry, RequestTable
from sockrpc.websocket.connection cimport STATE_OPEN, Connection
from sockrpc.websocket.liveness cimport WatchedConnection

from sockrpc.errors import UsageError

cdef object running_loop = asyncio._get_running_loop

# How often this process has forked off the one that it was: a connection from before is its parent's.
cdef Py_ssize_t forks = 0


def count_fork() -> None:
    """This process is a new one."""
    global forks
    forks += 1  # pragma: no trace


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=count_fork)


@cython.final
cdef class OutgoingCall(Entry):
    """One call that waits for its answer in `future`."""

    def __dealloc__(self):
        # Before `future` goes: what is told of its end may look into the table, and would find this.
        if self.table is not None:
            self.table.take(self)


cdef class Caller(WatchedConnection):
    """A connection that calls what the other end serves, and listens to what it notifies of."""

    def __cinit__(self, *args, **kwargs):
        self.outgoing = RequestTable()
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

    def request(self, name: bytes, payload: bytes) -> OutgoingCall:
        """Enter a call and have its request written; a lone one at once, several at the end of the iteration."""
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
        """The waiter is no longer interested: one reset, at once, unless the answer or the end came first."""
        cdef uint8_t prefix[5]
        # Its exception, if it has one, refers to the frame that has waited, and so to this.
        call.future = None
        if self.step(call, CALLER_ON_CANCEL) == CALLER_SEND_RESET:
            self.send(prefix, write_reset(prefix, call.id), b"")
            Connection.flush(self)

    cdef int step(self, OutgoingCall call, int input) except -1:
        # The index is within the table: both are numbers of its enums.
        cdef const Cell *cell = &self.life.caller[call.state * CALLER_INPUTS + input]
        assert cell.action != CALLER_NEVER, f"call {call.id}: input {input} in state {call.state}"
        call.state = cell.next
        if cell.action == CALLER_QUEUE:
            self.enter(call)
        elif cell.next == CALLER_IDLE and call.table is not None:
            # Over: whoever comes first takes it out of the table.
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
            # Its waiter may have been cancelled without having run since; `abandon` finds it unsent then.
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
        """False while output is above the high-water mark, or requests wait to be written."""
        if self.first_unsent is not None:
            self.write_requests()
        return not self.write_paused and self.first_unsent is None

    @property
    def ids_in_flight(self) -> list[int]:
        """The ids of the calls that wait."""
        return sorted([entry.id for entry in self.outgoing.entries()])

    def set_last_id(self, uint32_id: int) -> None:
        """The next call gets the id after this one; for tests of the wrap-around."""
        self.outgoing.last_id = uint32_id

    # Events

    def subscribe(self, name: bytes) -> Subscription:
        """Listen to an event from here on."""
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
        """The events that somebody listens to."""
        return sorted([name.decode() for name in self.subscriptions or ()])

    # Frames

    cdef int on_response(self, Frame *frame) except -1:
        cdef PyObject *entry = self.outgoing.find(frame.id)
        cdef OutgoingCall call
        if entry == NULL:
            # It crossed the reset, or it answers what was never asked.
            return 0
        call = <OutgoingCall> entry
        if self.step(call, CALLER_ON_RESPONSE) == CALLER_SETTLE and not call.future.done():
            call.future.set_result(
                PyBytes_FromStringAndSize(<const char *> frame.payload, frame.payload_size))
        return 0

    cdef bint deliver(self, Frame *frame) except -1:
        """Give a notification to those who listen to its name; False if there are none."""
        cdef list listeners = self.subscriptions.get(PyBytes_FromStringAndSize(<const char *> frame.name, frame.name_size))
        cdef bytes payload
        if listeners is None:
            return False
        payload = PyBytes_FromStringAndSize(<const char *> frame.payload, frame.payload_size)
        # A copy: one that overflows leaves the list.
        for listener in list(listeners):
            (<Subscription> listener).add(
                payload, self.settings.max_listener_payloads, self.settings.max_listener_bytes)
        return True

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

    cdef int fail_all(self) except -1:
        cdef OutgoingCall call
        cdef dict subscriptions = self.subscriptions
        while self.first is not None:
            call = self.first
            self.step(call, CALLER_ON_LOST)
            if call.future.done():
                continue
            try:
                # One each: a traceback grows on the exception that is raised.
                call.future.set_exception(self.error())
            except Exception as error:  # pragma: no memory
                # No memory for it; but nobody may wait for ever.
                if not call.future.done():  # pragma: no memory
                    call.future.set_exception(error)  # pragma: no memory
            # Its waiter may have been cancelled in this iteration; that is not an error.
            call.future.exception()
        self.subscriptions = None
        if subscriptions is None:
            return 0
        for listeners in subscriptions.values():
            for listener in listeners:
                (<Subscription> listener).finish(
                    None if self.ended_by_us and not self.peer_is_wrong else self.error())
        return 0
