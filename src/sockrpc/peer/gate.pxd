# The gate of one connection: which calls and notifications may start, and when.

from sockrpc.peer.procedure cimport Host, Procedure, ProcedureQueue

cdef enum:
    # An open call costs this much of `max_held_bytes` beside its bytes.
    CALL_COST = 256

cdef class Gate(Host):
    cdef ProcedureQueue waiting      # calls and notifications that may not start yet, in order of arrival
    cdef ProcedureQueue notices      # v1: notifications that may not start yet, which never wait for calls
    cdef Py_ssize_t waiting_bytes    # the size of their payloads
    cdef Py_ssize_t running_bytes    # the payloads of calls and notifications that have started and not ended
    cdef Py_ssize_t active_count     # calls that have started and not ended, limited by max_in_flight
    cdef bint is_attached            # counts in `service.attached`
    cdef bint gate_closed            # on_connect has not finished
    cdef bint draining               # the server stops: no call starts
    cdef bint grace_over             # the stop grace is over: all work left was aborted, and nothing starts
    cdef bint pumping
    cdef bint close_is_due           # `_close_drained` is to be called in this iteration
    cdef Py_ssize_t woken            # an upper bound of the takers that were woken and have not run yet
    cdef object takers               # OrderedDict with futures of waiting iterators as keys (socket form), or None

    cdef int arrive(self, Procedure procedure) except -1
    cdef int arrive_v1(self, Procedure procedure) except -1
    cdef int start_some(self, ProcedureQueue queue) except -1
    cdef bint may_start(self, Procedure procedure) noexcept
    cdef Py_ssize_t held_bytes(self) noexcept    # v1: what counts against `max_held_bytes`
    cdef int start(self, Procedure procedure) except -1
    cdef Procedure next_waiting(self, ProcedureQueue queue)
    cdef int leave_waiting(self, Procedure procedure) except -1
    cdef int drop_notifications(self, bint all_waiting) except -1
    cdef int check_waiting_room(self) except -1
    cdef int pump(self) except -1
    cdef int wake_taker(self) except -1
    cdef int wake_takers(self, bint all_of_them) except -1
    cdef int begin_work(self, Procedure procedure) except -1    # it counts as running from here on
    cdef bint is_drained(self) noexcept
    cdef int close_if_drained(self) except -1
    cdef int close_for_stop(self) except -1
    cdef int forget_if_over(self) except -1
