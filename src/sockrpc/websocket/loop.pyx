"""State shared by the connections of one event loop: a receive buffer, one sweep, one flush an iteration.

Because of this, ten thousand idle connections own no buffers and no timers.
"""

cimport cython
from cpython.object cimport PyObject_Call
from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t

import asyncio
import contextvars
import os
import random
import sys

from sockrpc._debug cimport DEBUG, count_created, count_freed
from sockrpc.websocket.buffers cimport buffer_free, spares_age, spares_free

cdef extern from *:
    """
    #ifdef _WIN32
    #include <windows.h>
    static double sockrpc_clock(void) {
        LARGE_INTEGER count, frequency;
        QueryPerformanceCounter(&count);
        QueryPerformanceFrequency(&frequency);
        return (double) count.QuadPart / (double) frequency.QuadPart;
    }
    #else
    #include <time.h>
    static double sockrpc_clock(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (double) now.tv_sec + 1e-9 * (double) now.tv_nsec;
    }
    #endif
    """
    double sockrpc_clock() noexcept nogil

FAIR_SHARE = 0.005

cdef double LONGEST_INTERVAL = 1.0
cdef double SHORTEST_INTERVAL = 0.005

# Seconds between two looks at connections whose reading is paused. The second look after the pause began finds a
# loss, or the first look after the loss: within a second in any case.
cdef double LOOK_INTERVAL = 0.4
# Pings per look are limited, so that thousands of paused connections do not hold up the others.
cdef enum:
    PROBES_AT_ONCE = 256

# asyncio can start a task eagerly since 3.12. This never goes through loop.create_task: asyncio 3.12 and 3.13.0
# refuse the argument there, and uvloop on 3.12 ignores it.
cdef bint EAGER = sys.version_info >= (3, 12)

cdef object Task = asyncio.Task
# All threads share this: other loops may come and go wherever the interpreter switches threads.
cdef dict contexts = {}


cdef class Member:
    """A connection as its loop sees it."""

    def __cinit__(self):
        if DEBUG:
            count_created(<PyObject *> self)

    def __dealloc__(self):
        if DEBUG:
            count_freed(<PyObject *> self)

    cdef int flush(self) except -1:
        raise NotImplementedError

    cdef int proceed(self) except -1:
        raise NotImplementedError

    cdef int sweep(self, double now) except -1:
        raise NotImplementedError

    cdef bint look(self) except -1:
        raise NotImplementedError


cdef LoopContext context_of(object loop):
    cdef LoopContext context = contexts.get(loop)
    if context is None:
        # A loop that was closed over its connections never released its context.
        for other in list(contexts):
            if other.is_closed():
                contexts.pop(other, None)
        context = LoopContext(loop)
        contexts[loop] = context
    return context


def context_of_running_loop() -> LoopContext:
    """Return the state shared by the connections of the running event loop."""
    return context_of(asyncio.get_running_loop())


def live_contexts() -> int:
    """Return the number of open loops with a context: 0 when no connection and no server is left."""
    return len([loop for loop in list(contexts) if not loop.is_closed()])


@cython.final
cdef class LoopContext:
    """The state shared by the connections of one event loop.

    Args:
        loop: The event loop.
    """

    def __cinit__(self, loop):
        cdef unsigned char[::1] view
        if DEBUG:
            count_created(<PyObject *> self)
        self.loop = loop
        self.process = os.getpid()
        # The memoryview keeps the bytearray from being resized, so the pointer stays valid.
        self.receive_view = memoryview(bytearray(RECEIVE_BYTES))
        view = self.receive_view
        self.receive_data = <uint8_t *> &view[0]
        self.members = set()
        self.paused = set()
        self.dirty = []
        self.postponed = []
        self.turns = []
        self.interval = LONGEST_INTERVAL
        self.variables = contextvars.copy_context()
        self.task_factory_kwargs = {"loop": loop, "eager_start": True} if EAGER else {"loop": loop}

    def __dealloc__(self):
        if DEBUG:
            count_freed(<PyObject *> self)
        buffer_free(&self.spare_output)
        spares_free(&self.spares)

    @property
    def spare_bytes(self) -> int:
        """Bytes kept for future large messages."""
        return self.spares.bytes

    def acquire(self) -> None:
        """Keep the context until `release`. A server calls this so that churn does not rebuild it."""
        self.users += 1

    def release(self) -> None:
        """Undo one `acquire`."""
        self.users -= 1
        if self.users == 0:
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None
            if self.look_timer is not None:
                self.look_timer.cancel()
                self.look_timer = None
            if contexts.get(self.loop) is self:
                del contexts[self.loop]

    cdef double tick(self) noexcept:
        self.now = sockrpc_clock()
        return self.now

    cdef double loop_time(self, double tick) except? -1.0:
        # This costs the call of a method, so the frames of a read share one.
        if tick != self.timed_tick:
            self.timed = <double> self.loop.time() - (self.tick() - tick)
            self.timed_tick = tick
        return self.timed

    cdef int add(self, Member member, double interval) except -1:
        self.members.add(member)
        self.users += 1
        interval = min(max(interval, SHORTEST_INTERVAL), LONGEST_INTERVAL)
        if interval < self.interval or self.timer is None:
            self.interval = min(interval, self.interval)
            self.schedule_sweep()
        return 0

    cdef int remove(self, Member member) except -1:
        if member in self.members:
            self.members.discard(member)
            self.paused.discard(member)
            self.release()
        return 0

    cdef int schedule_sweep(self) except -1:
        if self.timer is not None:
            self.timer.cancel()
        self.timer = self.loop.call_later(self.interval, self._sweep)
        return 0

    def _sweep(self) -> None:
        cdef Member member
        cdef double now = self.loop.time()
        self.timer = None
        spares_age(&self.spares)
        if not self.members:
            # There is no member to sweep; the next `add` starts the sweep again.
            self.interval = LONGEST_INTERVAL
            return
        self.schedule_sweep()
        for member in list(self.members):
            try:
                member.sweep(now)
            except Exception as error:  # pragma: no memory
                self.report(error)  # pragma: no memory

    cdef int watch(self, Member member) except -1:
        self.paused.add(member)
        if self.look_timer is None:
            self.look_timer = self.loop.call_later(LOOK_INTERVAL, self._look)
        return 0

    def _look(self) -> None:
        cdef Member member
        cdef list members = list(self.paused)
        cdef Py_ssize_t first = 0
        self.look_timer = None
        self.probes_left = PROBES_AT_ONCE
        if len(members) > PROBES_AT_ONCE:
            # A random start lets different members come first each time.
            first = random.randrange(len(members))
        for member in members[first:] + members[:first]:
            try:
                if not member.look():
                    self.paused.discard(member)
            except Exception as error:  # pragma: no memory
                self.report(error)  # pragma: no memory
        if self.paused:
            self.look_timer = self.loop.call_later(LOOK_INTERVAL, self._look)

    cdef int schedule_flush(self, Member member) except -1:
        if not member.dirty:
            member.dirty = True
            if not self.dirty:
                self.loop.call_soon(self._flush)
            self.dirty.append(member)
        return 0

    def _flush(self) -> None:
        cdef Member member
        cdef list dirty = self.dirty
        self.dirty = []
        for member in dirty:
            member.dirty = False
            try:
                member.flush()
            except Exception as error:  # pragma: no memory
                self.report(error)  # pragma: no memory

    cdef int postpone(self, Member member) except -1:
        if not member.postponed:
            member.postponed = True
            if not self.postponed:
                self._call_proceed()
            self.postponed.append(member)
        return 0

    cdef int _call_proceed(self) except -1:
        # Use a context of our own: the first to postpone may be a handler, and its variables must not reach the
        # connections that follow.
        self.loop.call_soon(self._proceed, context=self.variables.copy())
        return 0

    def _proceed(self) -> None:
        cdef Member member
        # Take one per turn: each may use its whole share of time, and I/O happens between two turns.
        member = self.postponed.pop(0)
        member.postponed = False
        if self.postponed:
            self._call_proceed()
        try:
            member.proceed()
        except Exception as error:  # pragma: no memory
            self.report(error)  # pragma: no memory

    cdef int begin_turn(self, Member member) except -1:
        if not member.in_turn:
            member.in_turn = True
            member.turn_until = self.tick() + FAIR_SHARE
            if not self.turns:
                self.loop.call_soon(self._end_turns)
            self.turns.append(member)
        return 0

    def _end_turns(self) -> None:
        cdef Member member
        cdef list turns = self.turns
        self.turns = []
        for member in turns:
            member.in_turn = False

    cdef void report(self, object error) noexcept:
        # This is a defect of ours, or out of memory; the other connections go on.
        self.loop.call_exception_handler({"message": "sockrpc: unexpected exception", "exception": error})

    @property
    def is_here(self) -> bool:
        """True in the loop's own thread, and while the loop does not run; False once it is closed."""
        return asyncio._get_running_loop() is self.loop or not (self.loop.is_running() or self.loop.is_closed())

    def call_in_loop(self, callback) -> None:
        """Call it in the loop's thread: now if this is that thread or the loop no longer runs, else soon.

        In a process that was forked from the loop's nothing is called, as the connections are not its own.
        """
        if self.process != os.getpid():
            return
        if self.is_here or self.loop.is_closed():
            callback()
        else:
            self.loop.call_soon_threadsafe(callback)

    def start(self, coroutine) -> asyncio.Task[object]:
        """Return a task for a coroutine; where the interpreter can, its first step has run already."""
        return self.start_task(coroutine, False)

    def create_task(self, coroutine) -> asyncio.Task[object]:
        """Return a task for a coroutine that starts in a later iteration, whatever the loop's task factory does."""
        return Task(coroutine, loop=self.loop)

    cdef object start_task(self, object coroutine, bint by_factory):
        if by_factory:
            factory = self.loop.get_task_factory()
            if factory is not None:
                return factory(self.loop, coroutine)
        return PyObject_Call(Task, (coroutine,), self.task_factory_kwargs)
