"""An end of a connection takes the answers to its own calls, and the events that it listens to."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.ref cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t

from sockrpc._debug cimport DEBUG
from sockrpc._frames cimport Frame
from sockrpc.peer.outgoing cimport Caller
from sockrpc.peer.outgoing_call cimport OUTCOME_UNKNOWN, OutgoingCall, shown_outcome
from sockrpc.peer.states cimport (
    CALLER_ADD_CREDIT, CALLER_HOLD, CALLER_IDLE, CALLER_IGNORE, CALLER_ON_CREDIT, CALLER_ON_ERROR, CALLER_ON_ITEM,
    CALLER_ON_LOST, CALLER_ON_REFUSE, CALLER_ON_RESPONSE, CALLER_SETTLE, CALLER_UNSENT, take_caller_row,
)
from sockrpc.peer.subscription cimport Subscription
from sockrpc.websocket.connection cimport Connection
from sockrpc.websocket.parser cimport copy_part

from sockrpc.codes import Code, Outcome
from sockrpc.errors import ConnectionLost, local_error, received_error


cdef class Replies(Caller):
    """A connection that takes the ends and the items of its calls, and notifications for its listeners."""

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
        cdef int action
        if entry == NULL:
            # A call that is not in the table is idle: the answer crossed the reset, or was never asked for.
            if DEBUG:
                take_caller_row(self.life, CALLER_IDLE, CALLER_ON_RESPONSE)
            return 0
        call = <OutgoingCall> entry
        action = self.step(call, CALLER_ON_RESPONSE)
        self.traffic.calls_answered += action == CALLER_SETTLE
        if action == CALLER_SETTLE and call.inbox is None and call.outbox is None:
            call.outcome = 2
            if not call.future.done():
                call.future.set_result(copy_part(self.parser, frame.payload, frame.payload_size))
            return 0
        if action == CALLER_IGNORE:
            return 0
        return self.settle(call, 2, copy_part(self.parser, frame.payload, frame.payload_size), None)

    cdef int settle(self, OutgoingCall call, int outcome, object payload, object error) except -1:
        """Note the end of a call that had streams, that was given up, or that has failed."""
        call.outcome = outcome
        if call.outcome_waiter is not None and not call.outcome_waiter.done():
            call.outcome_waiter.set_result(shown_outcome(outcome))
        self.stop_waiting(call, error)
        if error is None and call.future is not None and not call.future.done():
            call.future.set_result(payload)
        return 0

    cdef int on_error_frame(self, Frame *frame) except -1:
        cdef PyObject *entry = self.outgoing.find(frame.id)
        cdef OutgoingCall call
        cdef str message
        try:
            message = PyUnicode_DecodeUTF8(<const char *> frame.text, frame.text_size, NULL)
        except UnicodeDecodeError:
            return self.fail(1002, "message is not UTF-8")
        if entry == NULL:
            if DEBUG:
                take_caller_row(self.life, CALLER_IDLE, CALLER_ON_ERROR)
            return 0
        call = <OutgoingCall> entry
        if self.step(call, CALLER_ON_ERROR) == CALLER_IGNORE:
            return 0
        return self.settle(call, frame.outcome if frame.outcome <= 2 else 0, None, received_error(
            frame.code, frame.outcome, message,
            PyBytes_FromStringAndSize(<const char *> frame.payload, frame.payload_size)))

    cdef int on_item_for_us(self, Frame *frame) except -1:
        cdef PyObject *entry = self.outgoing.find(frame.id)
        cdef OutgoingCall call
        cdef object item
        cdef Py_ssize_t cursor_size
        if entry == NULL:
            if DEBUG:
                take_caller_row(self.life, CALLER_IDLE, CALLER_ON_ITEM)
            return 0
        call = <OutgoingCall> entry
        if self.step(call, CALLER_ON_ITEM) != CALLER_HOLD:
            return 0
        if call.inbox is None:
            return self.give_up(call, local_error(
                Code.INTERNAL, "the peer sent an item that was not asked for", Outcome.UNKNOWN))
        if call.inbox.tracked:
            if frame.payload_size < 1 or frame.payload_size - 1 < frame.payload[0]:
                return self.fail(1002, "frame too short for its cursor")
            cursor_size = frame.payload[0]
            item = (
                copy_part(self.parser, frame.payload + 1 + cursor_size, frame.payload_size - 1 - cursor_size),
                PyBytes_FromStringAndSize(<const char *> frame.payload + 1, cursor_size),
            )
            cursor_size = frame.payload_size - 1
        else:
            item = copy_part(self.parser, frame.payload, frame.payload_size)
            cursor_size = frame.payload_size
        if not call.inbox.add(item, cursor_size):
            return self.give_up(call, local_error(
                Code.RESOURCE_EXHAUSTED, "the peer sends items without credit", Outcome.UNKNOWN))
        return 0

    cdef int on_credit_for_us(self, Frame *frame) except -1:
        cdef PyObject *entry = self.outgoing.find(frame.id)
        cdef OutgoingCall call
        self.ran_handler = True
        if entry == NULL:
            if DEBUG:
                take_caller_row(self.life, CALLER_IDLE, CALLER_ON_CREDIT)
            return 0
        call = <OutgoingCall> entry
        if self.step(call, CALLER_ON_CREDIT) != CALLER_ADD_CREDIT or call.outbox is None:
            return 0
        if frame.numbers[0] == 0:
            # The handler takes no more.
            return call.outbox.close()
        if not call.outbox.add(frame.numbers[0]):
            return self.give_up(call, local_error(
                Code.INVALID_ARGUMENT, "the peer grants more credit than there can be", Outcome.UNKNOWN))
        return 0

    cdef int widen(self, int64_t bytes) except -1:
        cdef OutgoingCall call = self.first
        while call is not None:
            if call.outbox is not None:
                call.outbox.add(bytes)
            call = call.following
        return 0

    cdef int refuse_unsent(self) except -1:
        """Fail the calls that wait on this side, as the peer takes no more."""
        cdef OutgoingCall call
        while self.first_unsent is not None:
            call = self.first_unsent
            self.first_unsent = call.following
            if call.state == CALLER_UNSENT:
                self.step(call, CALLER_ON_REFUSE)
                self.settle(call, 1, None, local_error(
                    Code.UNAVAILABLE, "the peer takes no more calls", Outcome.NOT_STARTED))
        return 0

    def reset_all(self) -> None:
        """Give up all calls, as this end leaves."""
        cdef OutgoingCall call
        cdef OutgoingCall following = self.first
        while following is not None:
            call = following
            following = call.following
            self.give_up(call, local_error(Code.UNAVAILABLE, "this end is stopping", Outcome.UNKNOWN))

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
        cdef int outcome
        while self.first is not None:
            call = self.first
            # A peer that has taken leave has ended every call that it had received.
            outcome = 1 if call.state == CALLER_UNSENT or self.parted else OUTCOME_UNKNOWN
            self.step(call, CALLER_ON_LOST)
            try:
                # Each call gets an exception of its own because raising adds to its traceback.
                error = self.error()
                if self.is_v1 and outcome == 1 and isinstance(error, ConnectionLost):
                    error.outcome = Outcome.NOT_STARTED
                self.settle(call, outcome, None, error)
            except Exception as error:  # pragma: no memory
                # Out of memory, but no caller may wait for ever.
                if call.future is not None and not call.future.done():  # pragma: no memory
                    call.future.set_exception(error)  # pragma: no memory
                    call.future.exception()  # pragma: no memory
        self.subscriptions = None
        if subscriptions is None:
            return 0
        for listeners in subscriptions.values():
            for listener in listeners:
                (<Subscription> listener).finish(
                    None if self.ended_by_us and not self.peer_is_wrong else self.error())
        return 0
