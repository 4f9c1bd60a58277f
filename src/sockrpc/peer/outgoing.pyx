"""Calls that this end of a connection makes: their requests, and their resets."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.math cimport ceil
from libc.stdint cimport uint8_t, uint32_t

import asyncio
import os
import sys

from sockrpc._debug cimport DEBUG
from sockrpc._frames cimport (
    MAX_PREFIX_BYTES, OPEN_METADATA, OPEN_NESTED, OPEN_SENDS_ITEMS, OPEN_TAKES_ITEMS, OPEN_TIMEOUT, OPEN_TRACKED,
    RECEIVER_SERVER, open_prefix, write_credit, write_open, write_request, write_reset,
)
from sockrpc.peer.alarms cimport Alarms
from sockrpc.peer.inbox cimport new_inbox
from sockrpc.peer.outbox cimport new_outbox
from sockrpc.peer.outgoing_call cimport OUTCOME_UNKNOWN, OutgoingCall
from sockrpc.peer.session cimport LARGEST_WINDOW
from sockrpc.peer.states cimport (
    CALLER_FORGET, CALLER_GIVEN_UP, CALLER_IDLE, CALLER_INPUTS, CALLER_ON_CALL, CALLER_ON_CANCEL, CALLER_ON_WRITE, CALLER_OPEN,
    CALLER_QUEUE, CALLER_SEND_RESET, CALLER_UNSENT, Cell, take_caller_row,
)
from sockrpc.peer.table cimport RequestTable
from sockrpc.websocket.connection cimport Connection
from sockrpc.websocket.input cimport STATE_OPEN

from sockrpc._frames import PROTOCOL_V0 as _PROTOCOL_V0
from sockrpc.codes import Code, Outcome
from sockrpc.errors import ConnectionLost, RPCError, UsageError, local_error

cdef object running_loop = asyncio._get_running_loop

# Counts the forks that led to this process: a connection made before a fork belongs to the parent.
cdef Py_ssize_t forks = 0


def count_fork() -> None:
    """Note that this process is a new one."""
    global forks
    forks += 1  # pragma: no trace


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=count_fork)


cdef class Caller(Alarms):
    """A connection that makes calls at the other end."""

    def __cinit__(self, *args, **kwargs):
        self.outgoing = RequestTable()
        self.forks = forks

    def set_protocol(self, protocol: str) -> None:
        """Choose the rows for a protocol; in v1 the top bit of an id says who has called."""
        Alarms.set_protocol(self, protocol)
        if self.is_v1:
            self.outgoing.set_range(max(self.receiver.own, 1), self.receiver.own | 0x7FFFFFFF)

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
        return self.open_call(name, payload, 0, None, 0.0, 0)

    def open_call(
            self, bytes name, bytes payload, uint8_t flags, bytes metadata, double seconds, Py_ssize_t window):
        """Do the same with options.

        Args:
            name: The method.
            payload: The payload.
            flags: The flags of an Open, but those of the time-out and the metadata.
            metadata: Its metadata in its form on the wire, or None.
            seconds: Its time-out, 0.0 for none; below 0 it is over already, for which v0.1 sends a reset.
            window: Bytes of items that the peer may send without credit, 0 for the connection's own.

        Raises:
            RPCError: The call cannot be made, and nothing of it was sent.
        """
        cdef OutgoingCall call
        cdef object error
        if self.ended:
            error = self.error()
            if self.is_v1 and isinstance(error, ConnectionLost):
                error.outcome = Outcome.NOT_STARTED
            raise error
        self.check_place()
        if self.is_v1:
            if seconds < 0.0:
                raise local_error(
                    Code.DEADLINE_EXCEEDED, "the time of the call was over before it began", Outcome.NOT_STARTED)
            self.check_room(name, payload, flags, metadata, seconds)
        elif flags or metadata is not None or self.receiver.role == RECEIVER_SERVER:
            raise local_error(
                Code.UNIMPLEMENTED,
                f"the peer speaks {_PROTOCOL_V0}, which has no streams, no metadata and no calls of the server",
                Outcome.NOT_STARTED)
        call = OutgoingCall.__new__(OutgoingCall)
        call.future = self.context.loop.create_future()
        call.name = name
        call.payload = payload
        call.outcome = OUTCOME_UNKNOWN
        call.id = self.outgoing.allocate()
        if flags or metadata is not None:
            call.flags = flags
            call.metadata = metadata
            if flags & OPEN_TAKES_ITEMS:
                call.inbox = new_inbox(
                    self, call.id, min(max(window, self.window), LARGEST_WINDOW), flags & OPEN_TRACKED)
            if flags & OPEN_SENDS_ITEMS:
                call.outbox = new_outbox(self, call.id)
                call.outbox.unsent = True
        if seconds != 0.0:
            call.seconds = seconds
            call.until = self.context.loop.time() + seconds
            self.set_alarm(call)
        self.step(call, CALLER_ON_CALL)
        if flags & OPEN_NESTED:
            # It never waits, or two peers that call each other from their handlers would wait for each other.
            self.write(call)
        if self.outgoing.count == 1 and not self.in_feed:
            self.flush()
        else:
            self.context.schedule_flush(self)
        return call

    def check_room(self, bytes name, bytes payload, uint8_t flags, bytes metadata, double seconds):
        """Raise unless the peer takes such a call.

        Raises:
            RPCError: It does not; nothing of the call was sent.
        """
        # A request has six bytes before its name and its payload; options make it an Open, which has more.
        cdef Py_ssize_t size = PyBytes_GET_SIZE(payload) + PyBytes_GET_SIZE(name) + 6
        if flags or metadata is not None or seconds:
            size += 5 if seconds else 1
            if metadata is not None:
                size += PyBytes_GET_SIZE(metadata) + 2
        if size > self.their_message_bytes:
            raise local_error(
                Code.RESOURCE_EXHAUSTED,
                f"the call has {size} bytes, and the peer takes {self.their_message_bytes} in a message",
                Outcome.NOT_STARTED)
        if flags & OPEN_NESTED:
            return
        if self.peer_leaves or self.leaving:
            raise local_error(Code.UNAVAILABLE, "the peer takes no more calls" if self.peer_leaves
                              else "this end makes no more calls", Outcome.NOT_STARTED)
        if self.unsent_count >= self.settings.limits.max_outgoing_calls:
            # Most of them may only wait for the end of this iteration.
            self.flush()
            if self.unsent_count >= self.settings.limits.max_outgoing_calls:
                raise local_error(
                    Code.RESOURCE_EXHAUSTED, f"{self.unsent_count} calls wait to be sent already",
                    Outcome.NOT_STARTED)

    def abandon(self, OutgoingCall call) -> None:
        """Give up a call: one reset, sent at once, unless the answer or the end came first."""
        # The future's exception, if there is one, refers to the frame that waited, and thus to this call.
        call.future = None
        self.give_up(call, None)

    def cancel(self, OutgoingCall call, object error) -> None:
        """Give up a call, and let those that wait for it see the error."""
        self.give_up(call, error)

    cdef int give_up(self, OutgoingCall call, object error) except -1:
        cdef int before = call.state
        cdef int action = self.step(call, CALLER_ON_CANCEL)
        if action == CALLER_FORGET:
            call.outcome = 1
            if isinstance(error, RPCError):
                error.outcome = Outcome.NOT_STARTED
        elif action != CALLER_SEND_RESET:
            return 0
        self.stop_waiting(call, error)
        if action == CALLER_SEND_RESET and before == CALLER_OPEN:
            self.send_reset(call)
        return 0

    cdef int send_reset(self, OutgoingCall call) except -1:
        cdef uint8_t prefix[5]
        self.send(prefix, write_reset(prefix, call.id), b"")
        return Connection.flush(self)

    def stop_waiting(self, OutgoingCall call, object error) -> None:
        """Settle everything that waits for a call, which has its end or was given up."""
        self.clear_alarm(call)
        if call.inbox is not None:
            call.inbox.close(error)
        if call.outbox is not None:
            call.outbox.close()
        if error is not None and call.future is not None and not call.future.done():
            call.future.set_exception(error)
            # The waiter may have been cancelled in this iteration, and an unretrieved exception would be logged.
            call.future.exception()

    cdef int expire(self, OutgoingCall call) except -1:
        # The name is kept for this.
        text = f"no answer to {call.name.decode()!r} within {max(call.seconds, 0.0):g} s; the call was reset"
        return self.give_up(call, local_error(Code.DEADLINE_EXCEEDED, text, Outcome.UNKNOWN))

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
        self.traffic.calls_made += 1
        self.unsent_count += 1
        call.previous = self.last
        if self.last is None:
            self.first = call
        else:
            self.last.following = call
        self.last = call
        if self.first_unsent is None:
            self.first_unsent = call
        return 0

    cdef int leave_table(self, OutgoingCall call) except -1:
        self.outgoing.take(call)
        if self.first_unsent is call:
            self.first_unsent = call.following
        if call.payload is not None:
            self.unsent_count -= 1
        if call.previous is None:
            self.first = call.following
        else:
            call.previous.following = call.following
        if call.following is None:
            self.last = call.previous
        else:
            call.following.previous = call.previous
        call.previous = call.following = None
        call.payload = None
        if call.counts:
            call.counts = False
            self.open_count -= 1
            if self.first_unsent is not None:
                self.context.schedule_flush(self)
        if call.inbox is not None:
            call.inbox.release()
        self.clear_alarm(call)
        if self.leaving and self.outgoing.count == 0:
            self.on_calls_over()
        return 0

    cdef int write_requests(self) except -1:
        cdef OutgoingCall call
        while self.first_unsent is not None and not self.write_paused:
            call = self.first_unsent
            if self.is_v1 and self.open_count >= self.their_calls:
                # It waits here, where giving it up costs nothing.
                break
            self.first_unsent = call.following
            # The waiter may be cancelled already and not have run since; `abandon` then finds the call unsent.
            if call.state == CALLER_UNSENT and (call.future is None or not call.future.done()):
                self.write(call)
        return 0

    cdef int write(self, OutgoingCall call) except -1:
        cdef uint8_t prefix[MAX_PREFIX_BYTES]
        cdef Py_ssize_t n
        cdef bytes head
        cdef double left
        cdef uint32_t milliseconds = 0
        self.step(call, CALLER_ON_WRITE)
        self.unsent_count -= 1
        if self.is_v1 and not call.flags & OPEN_NESTED:
            call.counts = True
            self.open_count += 1
        if not self.is_v1 or not (call.flags or call.seconds or call.metadata is not None):
            n = write_request(
                prefix, call.id, <const uint8_t *> PyBytes_AS_STRING(call.name), PyBytes_GET_SIZE(call.name))
            self.send(prefix, n, call.payload)
        else:
            if call.seconds:
                call.flags |= OPEN_TIMEOUT
                left = call.until - <double> self.context.loop.time()
                milliseconds = <uint32_t> min(max(ceil(left * 1000.0), 0.0), 4294967295.0)
            if call.metadata is None:
                n = write_open(
                    prefix, call.id, call.flags, milliseconds, <const uint8_t *> PyBytes_AS_STRING(call.name),
                    PyBytes_GET_SIZE(call.name))
                self.send(prefix, n, call.payload)
            else:
                head = open_prefix(call.id, call.flags | OPEN_METADATA, milliseconds, call.metadata, call.name)
                call.metadata = None
                # It may hold a token, which compression together with text of others would give away (CRIME).
                self.send_plain(
                    <const uint8_t *> PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head), call.payload)
            if call.inbox is not None and call.inbox.window > self.window:
                # This call's window is wider than the one that Hello offers.
                n = write_credit(prefix, call.id, <uint32_t> (call.inbox.window - self.window))
                self.send(prefix, n, b"")
            if call.outbox is not None:
                call.outbox.written()
        call.payload = None
        return 0

    cdef int flush(self) except -1:
        if self.first_unsent is not None and self.state == STATE_OPEN:
            self.write_requests()
        return Connection.flush(self)

    def is_writable(self) -> bool:
        """False while the output is above the high-water mark."""
        if self.first_unsent is not None:
            # A frame sent now stands behind them, but for those that wait until the peer has ended others.
            self.write_requests()
        return not self.write_paused

    @property
    def ids_in_flight(self) -> list[int]:
        """Return the ids of the calls that somebody waits for, in order."""
        cdef OutgoingCall call
        return sorted([call.id for call in self.outgoing.entries() if call.state != CALLER_GIVEN_UP])

    def set_last_id(self, uint32_id: int) -> None:
        """Make the next call use the id after this one; for tests of the wrap-around."""
        self.outgoing.last_id = uint32_id
