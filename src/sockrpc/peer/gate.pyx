"""The gate of one connection: calls and notifications wait here until the limits let them start."""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.ref cimport PyObject

from collections import OrderedDict

from sockrpc.websocket.connection cimport Connection
from sockrpc.peer.procedure cimport Host, Procedure, ProcedureQueue
from sockrpc.peer.work cimport Work


cdef enum:
    # The number of waiting iterators that may be woken at a time and have not run yet.
    WOKEN_AT_ONCE = 64


cdef class Gate(Host):
    """A connection that admits what it receives.

    A call starts if fewer than `max_in_flight` calls have started and not ended, the output is below its
    high-water mark, and the payloads of what runs leave room in `max_held_bytes`. Otherwise it waits, in order
    of arrival. In v0.1 nothing more is parsed while the queue is full; in v1 reading never stops, and what there
    is no room for was refused before it came here.
    """

    def __cinit__(self, *args, **kwargs):
        self.waiting = ProcedureQueue()
        self.notices = ProcedureQueue()

    cdef int arrive(self, Procedure procedure) except -1:
        if self.is_v1:
            return self.arrive_v1(procedure)
        if self.waiting.head is None and self.service.methods is not None and self.may_start(procedure):
            self.ran_handler = True
            return self.start(procedure)
        self.waiting.push(procedure)
        self.waiting_bytes += PyBytes_GET_SIZE(procedure.payload)
        self.check_waiting_room()
        if self.service.methods is None:
            self.wake_taker()
        return 0

    cdef int arrive_v1(self, Procedure procedure) except -1:
        cdef ProcedureQueue queue = self.waiting
        cdef Py_ssize_t held
        if not procedure.is_call:
            held = self.held_bytes()
            if self.service.methods is not None:
                queue = self.notices
            if queue.count >= self.settings.limits.max_waiting_calls or (
                held and held + PyBytes_GET_SIZE(procedure.payload) > self.settings.limits.max_held_bytes
            ):
                # A notification has no end that could tell its sender.
                self.service.notifications_dropped += 1
                return self.start_close(1013, "more notifications than this end can hold")
        if queue.head is None and self.service.methods is not None and self.may_start(procedure):
            self.ran_handler = True
            return self.start(procedure)
        queue.push(procedure)
        self.waiting_bytes += PyBytes_GET_SIZE(procedure.payload)
        return self.wake_taker() if self.service.methods is None else 0

    cdef Py_ssize_t held_bytes(self) noexcept:
        return self.waiting_bytes + self.running_bytes + self.reserved_bytes + CALL_COST * self.incoming.count

    cdef bint may_start(self, Procedure procedure) noexcept:
        if self.gate_closed:
            return False
        # A payload of any size may run alone; otherwise it would wait for ever.
        if self.running_bytes and (
            self.running_bytes + PyBytes_GET_SIZE(procedure.payload) > self.settings.limits.max_held_bytes
        ):
            return False
        if procedure.is_call:
            return (
                self.active_count < self.settings.limits.max_in_flight
                and not self.write_paused and not self.service.stopping and not self.ended
            )
        return self.notifying < self.settings.limits.max_notifications

    cdef int begin_work(self, Procedure procedure) except -1:
        if procedure.is_call:
            if (<Work> procedure).nested:
                self.nested_count += 1
            else:
                self.active_count += 1
            self.service.calls_started += 1
        else:
            self.notifying += 1
        self.running_bytes += PyBytes_GET_SIZE(procedure.payload)
        return 0

    cdef int start(self, Procedure procedure) except -1:
        cdef PyObject *before = self.context.starting
        self.begin_work(procedure)
        # The handler may reset or answer other calls, and so start procedures while this one starts.
        self.context.starting = <PyObject *> procedure
        try:
            return procedure.begin()
        except BaseException as error:
            procedure.interrupted(error)
            raise
        finally:
            self.context.starting = before  # pragma: no trace

    cdef Procedure next_waiting(self, ProcedureQueue queue):
        cdef Procedure procedure = queue.head
        self.leave_waiting(procedure)
        return procedure

    cdef int leave_waiting(self, Procedure procedure) except -1:
        procedure.queue.remove(procedure)
        self.waiting_bytes -= PyBytes_GET_SIZE(procedure.payload)
        self.left_queue += 1
        return 0

    cdef int drop_notifications(self, bint all_waiting) except -1:
        """Drop waiting notifications: those before the first call, or all of them."""
        while self.waiting.head is not None and (all_waiting or not self.waiting.head.is_call):
            self.next_waiting(self.waiting)
            self.service.notifications_dropped += 1
        while self.notices.head is not None:
            self.next_waiting(self.notices)
            self.service.notifications_dropped += 1
        return 0

    cdef int check_waiting_room(self) except -1:
        # With an empty queue parsing goes on however much runs, because resets must be seen. It also goes on after
        # the end, because the peer's close frame may be among the bytes that were read already.
        if self.waiting.count and not self.ended and not self.is_v1 and (
            self.waiting.count >= self.settings.limits.max_waiting_calls
            or self.waiting_bytes + self.running_bytes >= self.settings.limits.max_held_bytes
        ):
            self.parsing_stopped = True
        else:
            self.restart_parsing()
        return 0

    cdef int pump(self) except -1:
        """Start waiting procedures, in order, as far as the limits and this iteration's turn admit."""
        if self.service.methods is None:
            # An iterator may start to take later; until then resets must be seen, if there is room again.
            self.check_waiting_room()
            return self.wake_taker()
        if self.pumping or self.postponed:
            return 0
        if self.ended and (self.gate_closed or self.grace_over):
            # The application never admitted the connection, or no longer waits for its work.
            return self.drop_notifications(False)
        self.pumping = True
        try:
            self.start_some(self.notices)
            self.start_some(self.waiting)
        finally:
            self.pumping = False
            if not self.in_feed:
                self.flush()
            self.check_waiting_room()
        return 0

    cdef int start_some(self, ProcedureQueue queue) except -1:
        while queue.head is not None and not self.postponed and self.may_start(queue.head):
            # The turn belongs to the iteration: a thousand calls that end in it pump a thousand times.
            self.context.begin_turn(self)
            self.start(self.next_waiting(queue))
            if self.context.tick() >= self.turn_until:
                self.context.postpone(self)
        return 0

    cdef int proceed(self) except -1:
        self.advance()
        Host.proceed(self)
        return self.advance() if self.ended else 0

    # Called by procedures

    cdef int on_answered(self) except -1:
        if self.draining:
            self.close_if_drained()
        if not self.pumping:
            self.write_soon(self.active_count <= 1)
        return 0

    cdef int on_left_waiting(self, Procedure procedure) except -1:
        self.leave_waiting(procedure)
        if self.pumping:
            # The loop that pumps, or that ends thousands of calls, does the rest once.
            return 0
        self.check_waiting_room()
        return self.advance()

    cdef int on_work_ended(self, Procedure procedure) except -1:
        if procedure.is_call:
            if (<Work> procedure).nested:
                self.nested_count -= 1
            else:
                self.active_count -= 1
        else:
            self.notifying -= 1
        self.running_bytes -= PyBytes_GET_SIZE(procedure.payload)
        # This check is inline because most calls that end leave nothing to do.
        if self.waiting.count or self.notices.count or self.draining or self.ended:
            return self.advance()
        return 0

    cdef int on_output_open(self) except -1:
        if self.may_answer_keepalive():
            self.send_keepalive_pong()
        self.wake_stalled()
        return self.advance()

    cdef bint may_answer_keepalive(self) noexcept:
        # Until the application has decided on the peer's Hello, a Pong would say that it has.
        return not self.write_paused and not self.gate_closed

    cdef int advance(self) except -1:
        # Every change calls this, so only this function decides what a change has made possible.
        if self.waiting.head is not None or self.notices.head is not None:
            self.pump()
        if self.draining:
            self.close_if_drained()
        if self.ended:
            self.forget_if_over()
        return 0

    cdef int close_if_drained(self) except -1:
        if self.is_drained() and not self.ended and not self.close_is_due:
            # A handler may be running, and its answer has to precede the close frame.
            self.close_is_due = True
            self.context.loop.call_soon(self._close_drained)
        return 0

    def _close_drained(self) -> None:
        self.close_is_due = False
        if self.is_drained():
            self.close_for_stop()

    cdef bint is_drained(self) noexcept:
        # In v1 the last frame says that nothing is open in either direction; calls of our own may be, after the grace.
        return self.incoming.count == 0 and (self.outgoing.count == 0 or self.grace_over or not self.is_v1)

    cdef int close_for_stop(self) except -1:
        raise NotImplementedError

    cdef int forget_if_over(self) except -1:
        if (
            self.transport is None and self.ended and self.active_count == 0 and self.nested_count == 0
            and self.notifying == 0 and self.tended == 0 and self.waiting.head is None
            and self.notices.head is None and not self.deferred
        ):
            if self.is_attached:
                # Detaching earlier would let a client that connects, starts work and leaves get past every limit.
                self.is_attached = False
                self.service.attached -= 1
            self.service.working.discard(self)
            if self.socket is not None:
                self.socket._forgotten()
            self.service.check_idle()
        return 0

    # The socket form

    def take(self):
        """Return the next procedure for the iterator; None if there is none yet."""
        cdef Procedure procedure = self.waiting.head
        self.woken -= self.woken > 0
        if procedure is None or not self.may_start(procedure):
            return None
        if self.waiting.count > 1:
            # Taking does not wait, so one task could otherwise take everything there is in one iteration.
            self.context.begin_turn(self)
            if self.context.tick() >= self.turn_until:
                self.context.postpone(self)
                return None
        procedure = self.next_waiting(self.waiting)
        if procedure.is_call:
            self.begin_work(procedure)
            procedure.taken()
        else:
            self.service.notifications_started += 1
        self.check_waiting_room()
        # There may be more procedures for other waiting iterators.
        self.wake_taker()
        return procedure

    def drop_waiting(self) -> None:
        """Drop the waiting procedures because no iterator takes them any more."""
        self.drop_notifications(True)
        self.wake_taker()
        self.advance()

    def wait_procedure(self):
        """Return a future that is done when `take` may have something or the connection has ended."""
        taker = self.context.loop.create_future()
        if self.ended and self.waiting.head is None:
            taker.set_result(None)
            return taker
        if self.takers is None:
            self.takers = OrderedDict()
        self.takers[taker] = None
        return taker

    def give_up_waiting(self, taker) -> None:
        """Handle a cancel of an iterator in `wait_procedure`: its wakeup goes to the next one."""
        if self.takers is not None and taker in self.takers:
            del self.takers[taker]
        else:
            self.woken -= self.woken > 0
            self.wake_taker()

    @property
    def has_nothing_more(self) -> bool:
        """True if the connection has ended and no procedure waits, not even for another turn."""
        return self.ended and self.waiting.head is None

    cdef int wake_taker(self) except -1:
        if self.ended and self.waiting.head is None:
            # Some iterators may have waited for another turn, and others have left nothing for them.
            return self.wake_takers(True)
        # Each wakes the next if it finds more than one procedure, so waking all at once is not needed.
        if self.woken < WOKEN_AT_ONCE and self.waiting.head is not None and self.may_start(self.waiting.head):
            self.wake_takers(False)
        return 0

    cdef int wake_takers(self, bint all_of_them) except -1:
        while self.takers:
            taker, _ = self.takers.popitem(last=False)
            if not taker.done():
                taker.set_result(None)
                if not all_of_them:
                    self.woken += 1
                    break
        return 0
