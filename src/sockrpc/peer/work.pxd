# The work of one call: its handler, tasks, timer and thread job.

from libc.stdint cimport uint8_t

from sockrpc.peer.handler cimport Handler
from sockrpc.peer.options cimport CallOptions
from sockrpc.peer.procedure cimport Procedure
from sockrpc.peer.states cimport CALLEE_IDLE

cdef class Work(Procedure):
    cdef Handler handler             # None in the socket form
    cdef object task                 # the task of a coroutine handler, None before it suspends
    cdef list spawned                # running tasks of spawn_and_abort_on_reset
    cdef object timer                # the timer of the method's own timeout
    cdef object job                  # a job of the worker threads
    cdef Py_ssize_t work             # handlers, spawned tasks and hooks that still run
    cdef uint8_t state               # a CalleeState, the state as the peer sees it
    cdef uint8_t ending             # a number of tally.pxd, once the state is idle
    # Truth values take a byte each because there may be very many calls.
    cdef uint8_t counts              # against max_in_flight: it has started, and work of it is left
    cdef uint8_t starting            # the handler's first step is running now
    cdef uint8_t cancelled           # the work was cancelled; never twice
    cdef uint8_t began               # a line of the handler has run
    cdef uint8_t seen                # the work has seen its abort
    cdef uint8_t committed           # no abort reaches it any more
    cdef uint8_t completed           # it has taken effect, although no answer was sent
    cdef uint8_t nested              # a handler of ours waits for the peer that has made this call
    cdef CallOptions options         # None for a call without any

    cdef inline bint is_over(self) noexcept:
        return self.state == CALLEE_IDLE and not self.counts

    # Only the end of a stop's grace reaches it.
    cdef inline bint is_protected(self) noexcept:
        return self.committed or (self.handler is not None and self.handler.run_to_completion)

    cdef object spawn(self, object coroutine, object when_done)
    cdef int start_timer(self) except -1
    cdef int stop_timer(self) except -1
    cdef int start_coroutine(self, object coroutine, object variables) except -1
    cdef int handler_ended(self, object task) except -1
    cdef int cancel_work(self) except -1
    cdef int cancel_again(self) except -1
    cdef int cancel_tasks(self) except -1
    cdef int work_began(self) except -1
    cdef int work_ended(self) except -1
    # A call adds these: the end of its handler, an abort, and the end of all work.
    cdef int returned(self, object result) except -1
    cdef int raised(self, object error) except -1
    cdef int abort(self, int ending, bint forced) except -1
    cdef int finish(self) except -1
