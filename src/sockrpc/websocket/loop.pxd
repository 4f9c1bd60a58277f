# What the connections of one event loop share.

from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t

from sockrpc.websocket.buffers cimport Buffer, Spares

# How long what one connection sent may run in one iteration of the loop, in seconds.
cdef double FAIR_SHARE

cdef enum:
    # Larger than what one recv usually finds, so that a busy connection costs few system calls.
    RECEIVE_BYTES = 256 * 1024

# A connection as its loop sees it. The LoopContext calls each method, and reports what one raises.
cdef class Member:
    cdef bint dirty                  # in LoopContext.dirty
    cdef bint postponed              # in LoopContext.postponed
    cdef bint in_turn                # in LoopContext.turns
    cdef double turn_until           # while `in_turn`: when the turn is over, by `clock`

    cdef int flush(self) except -1                  # write what was gathered in this iteration
    cdef int proceed(self) except -1                # continue what fairness interrupted
    cdef int sweep(self, double now) except -1      # look at the clock; `now` in loop time
    cdef bint look(self) except -1                  # is the paused line still there; False: look no more

cdef class LoopContext:
    cdef readonly object loop
    cdef uint8_t *receive_data       # of `receive_view`
    cdef object receive_view         # memoryview, RECEIVE_BYTES long: the one receive buffer of the loop
    cdef Buffer spare_output         # the last flushed output buffer, lent to the next connection
    cdef Spares spares               # for large messages of any connection
    cdef PyObject *starting          # borrowed: the procedure whose handler's first step runs right now
    cdef set members
    cdef set paused                  # of the members: those whose reading is paused, or was at the last look
    cdef Py_ssize_t users            # members and servers; at 0 the context is forgotten
    cdef double now                  # the last reading of `tick`
    cdef list dirty
    cdef list postponed
    cdef list turns                  # members whose turn began in this iteration
    cdef object timer                # of the sweep
    cdef int probes_left             # pings that the look that is under way may still send
    cdef object look_timer           # of the looks at `paused`, None while that is empty
    cdef double interval             # seconds between two sweeps
    cdef object task_factory_kwargs
    cdef object variables            # a copy of the contextvars.Context that it was made in

    cdef double tick(self) noexcept  # read the clock
    cdef int add(self, Member member, double interval) except -1
    cdef int remove(self, Member member) except -1
    cdef int watch(self, Member member) except -1     # its reading was paused: look whether its line is lost
    cdef int schedule_flush(self, Member member) except -1
    cdef int postpone(self, Member member) except -1
    # Begin the member's turn of this iteration, unless it has begun.
    cdef int begin_turn(self, Member member) except -1
    cdef int _call_proceed(self) except -1
    cdef int schedule_sweep(self) except -1
    cdef void report(self, object error) noexcept     # to the loop's exception handler
    # A task for `coroutine`; where the interpreter can, its first step has run when this returns. The loop's
    # task factory, asked for tasks of handlers only, may decide otherwise.
    cdef object start_task(self, object coroutine, bint by_factory)

cdef LoopContext context_of(object loop)
