"""A handler of `sockrpc.v1` does more than return: it has items both ways, a deadline, and calls back."""

cimport cython
from cpython.bytes cimport PyBytes_GET_SIZE

import asyncio
import functools

from sockrpc._frames cimport OPEN_TRACKED, encode_payload
from sockrpc.peer.options cimport CallOptions
from sockrpc.peer.outbox cimport Outbox
from sockrpc.peer.tally cimport ENDING_NONE, ENDING_RESET, ENDING_TIMED_OUT
from sockrpc.peer.spawning cimport Spawning

from sockrpc.codes import Code
from sockrpc.errors import RPCError, UsageError
from sockrpc.peer.drive import drive
from sockrpc.peer.items import Items
from sockrpc.peer.metadata import NO_METADATA as _NO_METADATA
from sockrpc.peer.tracked import Tracked
from sockrpc.peer.thread_generator import run_generator

cdef object CancelledError = asyncio.CancelledError


cdef class Streaming(Spawning):
    """The part of a call that its options are about."""

    cdef int break_off(self, int ending, object end) except -1:
        raise NotImplementedError

    cdef CallOptions use_options(self):
        if self.options is None:
            self.options = CallOptions.__new__(CallOptions)
        return self.options

    @property
    def metadata(self) -> Metadata:
        """The metadata that the caller has sent beside the payload (v1); empty if it sent none."""
        return _NO_METADATA if self.options is None else self.options.metadata

    @property
    def deadline(self) -> float | None:
        """The loop time at which the caller gives up (v1), or the method's own `timeout` ends, if that is earlier.

        None if there is neither.
        """
        cdef double when = self.until
        # A thread may ask while the loop stops the timer.
        cdef object timer = self.timer
        if timer is not None and (when == 0.0 or <double> timer.when() < when):
            when = timer.when()
        return when or None

    @property
    @cython.nonecheck(True)
    def remaining(self) -> float | None:
        """The seconds until `deadline`, at least 0; None if there is none."""
        when = self.deadline
        return None if when is None else max(when - <double> self.service.context.loop.time(), 0.0)

    @property
    def resume_from(self) -> bytes | None:
        """The cursor that a tracked stream goes on from; None if the stream is a new one."""
        return None if self.options is None else self.options.metadata.get("resume-from")

    @property
    @cython.nonecheck(True)
    def peer(self) -> Remote:
        """The other end of the connection, to call it while it waits for this call: such a call never queues."""
        return self.connection.remote(self)

    @property
    def _is_running(self) -> bool:
        """True while the caller waits: it was neither answered nor failed nor aborted."""
        return self.ending == ENDING_NONE

    @property
    def _is_cancelled(self) -> bool:
        """True once an abort has cancelled the work; it reaches no work that runs to its end."""
        return self.cancelled

    @cython.nonecheck(True)
    def commit(self) -> None:
        """Let no abort reach the work from here on: its effect takes place, and the caller hears COMPLETED.

        Raises:
            asyncio.CancelledError: An abort has reached the work already.
        """
        if self.ending >= ENDING_RESET and (self.cancelled or not self.is_protected()):
            self.seen = True
            raise CancelledError
        self.committed = True

    @cython.nonecheck(True)
    def items(self) -> Items:
        """Return an iterator over the items that the caller sends (v1).

        Leaving the loop drops those that were not taken, and tells the caller to send no more. Cancelling a
        step of it loses nothing. If the call is aborted it raises `RPCError`.

        Raises:
            UsageError: The caller sends no items, or they were asked for before.
        """
        if self.options is None or self.options.inbox is None:
            raise UsageError(f"the caller of {self.name!r} sends no items")
        if self.options.items_taken:
            raise UsageError("the items of a call have one consumer")
        self.options.items_taken = True
        return Items(self.options.inbox, self.service.context.loop)

    @cython.nonecheck(True)
    cdef Outbox stream_out(self):
        if self.options is None or self.options.outbox is None:
            raise UsageError(f"the caller of {self.name!r} takes no items")
        return self.options.outbox

    @cython.nonecheck(True)
    async def send(self, payload, *, cursor=None) -> bool:
        """Send an item to the caller (v1). Waits for its credit and for a slow peer; cancelling it sends nothing.

        Args:
            payload: bytes, bytearray, memoryview, or str (sent as UTF-8).
            cursor: The place behind this item, from which a tracked stream can be resumed; at most 255 bytes.

        Returns:
            False once the call is over or aborted, when nothing is sent.

        Raises:
            UsageError: The caller takes no items, or the item is too large for it.
        """
        cdef bint sent
        cdef Outbox outbox = self.stream_out()
        cdef bytes encoded
        cdef bytes place
        encoded, place = self.ready(outbox, payload, cursor)
        if outbox.turn_is_over():
            await asyncio.sleep(0)
        sent = outbox.put(encoded, place)
        if sent:
            return True
        timer = self._start_credit_timer(outbox)
        try:
            return await outbox.send(encoded, place)
        finally:
            if timer is not None:
                timer.cancel()

    cdef tuple ready(self, Outbox outbox, object payload, object cursor):
        """Return payload and cursor as they travel: items of a tracked stream have one, if only an empty one."""
        cdef bytes encoded = encode_payload(payload)
        cdef bytes place = None
        if cursor is not None and not isinstance(cursor, bytes):
            raise UsageError(f"a cursor is bytes, not {type(cursor).__name__}")
        if self.options.flags & OPEN_TRACKED:
            place = b"" if cursor is None else cursor
        if PyBytes_GET_SIZE(encoded) > outbox.small_bytes() or place is not None:
            outbox.check(encoded, place)
        return encoded, place

    def _to_send(self, item) -> tuple[bytes, bytes | None]:
        """Return what a generator has yielded as it travels, with its cursor."""
        if isinstance(item, Tracked):
            return self.ready(self.stream_out(), item.payload, item.cursor)
        return self.ready(self.stream_out(), item, None)

    def _drive(self, generator):
        """Return a coroutine that sends what an async generator yields."""
        return drive(
            self, self.stream_out(), self.options.flags & OPEN_TRACKED != 0, self.service.context, generator)

    def _thread_function(self, function):
        """Return the function to run in a thread, which for a generator function sends what it yields."""
        if self.handler.streams:
            return functools.partial(
                run_generator, function, self.service.context.loop,
                self.service.settings.limits.stall_timeout or None)
        return function

    def _submit(self, function) -> tuple[asyncio.Future[object], Callable[[], bool]]:
        """Run a function of this call in a thread of the server.

        Returns:
            A future of its result, and a function that takes the job back if no thread has taken it.
        """
        ended = self.service.context.loop.create_future()

        def done(result, error):
            if ended.done():
                return
            if error is None:
                ended.set_result(result)
            else:
                ended.set_exception(error)

        job = self.service.threads.submit(
            self._thread_function(function), self, self._note_began, done, None, self.connection)
        return ended, functools.partial(self.service.threads.withdraw, job)

    def _start_credit_timer(self, outbox: Outbox) -> asyncio.TimerHandle | None:
        """Start the timer that ends the call if the caller grants no credit for too long."""
        seconds = self.service.credit_timeout(self.handler)
        if not seconds or outbox.closed:
            return None
        return self.service.context.loop.call_later(seconds, self._credit_timed_out, seconds)

    def _credit_timed_out(self, seconds: float) -> None:
        self.break_off(
            ENDING_TIMED_OUT, RPCError(Code.RESOURCE_EXHAUSTED, f"no credit for items within {seconds:g} s"))

    def _note_began(self) -> None:
        """Note that a line of the handler runs."""
        self.began = True

    def _note_seen(self) -> None:
        """Note, in any thread, that the work has seen its abort, so that nobody takes it for completed."""
        self.seen = True

