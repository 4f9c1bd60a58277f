# State shared by the connections of one event loop.

from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t

from sockrpc.websocket.buffers cimport Buffer, Spares

# The seconds that the work of one connection may take in one iteration of the loop.
cdef double FAIR_SHARE

cdef enum:
    # Larger than what one recv usually finds, so that a busy connection costs few system calls.
    RECEIVE_BYTES = 256 * 1024

# A connection as its loop sees it. The LoopContext calls each method and reports exceptions.
cdef class Member:
    cdef bint dirty                  # in LoopContext.dirty
    cdef bint postponed              # in LoopContext.postponed
    cdef bint in_turn                # in LoopContext.turns
    cdef double turn_until           # end of the turn by `clock`, while `in_turn`

    cdef int flush(self) except -1                  # write the output gathered in this iteration
    cdef int proceed(self) except -1                # continue after an interruption by fairness
    cdef int sweep(self, double now) except -1      # check timeouts; `now` in loop time
    cdef bint look(self) except -1                  # look whether the paused line is lost; False to look no more

cdef class LoopContext:
    cdef readonly object loop
    cdef object process              # the number of the process that made it
    cdef uint8_t *receive_data       # the memory of `receive_view`
    cdef object receive_view         # memoryview, RECEIVE_BYTES long: the one receive buffer of the loop
    cdef Buffer spare_output         # the last flushed output buffer, lent to the next connection
    cdef Spares spares               # for large messages of any connection
    cdef PyObject *starting          # borrowed: the procedure whose handler's first step runs right now
    cdef set members
    cdef set paused                  # the members whose reading is paused, or was at the last look
    cdef Py_ssize_t users            # members and servers; at 0 the context is dropped
    cdef double now                  # the last reading of `tick`
    cdef double timed_tick           # the reading of `tick` for which `loop_time` was asked last
    cdef double timed                # and the loop's own time then
    cdef list dirty
    cdef list postponed
    cdef list turns                  # members whose turn began in this iteration
    cdef object timer                # calls the sweep
    cdef int probes_left             # pings that the current look may still send
    cdef object look_timer           # the timer of looks at `paused`, None while that is empty
    cdef double interval             # seconds between two sweeps
    cdef object task_factory_kwargs
    cdef object variables            # a copy of the contextvars.Context that this was made in

    cdef double tick(self) noexcept  # read the clock
    # The loop's own time of a reading of the clock; `tick` is that of a read.
    cdef double loop_time(self, double tick) except? -1.0
    cdef int add(self, Member member, double interval) except -1
    cdef int remove(self, Member member) except -1
    cdef int watch(self, Member member) except -1     # check whether its line is lost while its reading is paused
    cdef int schedule_flush(self, Member member) except -1
    cdef int postpone(self, Member member) except -1
    # Begins the member's turn in this iteration, unless it has begun.
    cdef int begin_turn(self, Member member) except -1
    cdef int _call_proceed(self) except -1
    cdef int schedule_sweep(self) except -1
    cdef void report(self, object error) noexcept     # to the loop's exception handler
    # Makes a task for `coroutine`; where the interpreter can, its first step has run when this returns. The loop's
    # task factory, used for tasks of handlers only, may decide otherwise.
    cdef object start_task(self, object coroutine, bint by_factory)

cdef LoopContext context_of(object loop)
