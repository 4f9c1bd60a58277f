"""A connection that is watched: keepalive, deadlines and stalls, all judged by its loop's one sweep."""

from libc.stdint cimport int64_t

from sockrpc._connection cimport STATE_OPEN, Connection
from sockrpc._websocket cimport OPCODE_PING


cdef class WatchedConnection(Connection):
    """A connection that ends when its peer is gone, does not read, or does not close."""

    cdef int sweep(self, double now) except -1:
        if self.transport is None:
            return 0
        if self.heard:
            self.heard = False
            self.last_heard = now
            self.awaiting_pong = False
        self.watch_output(now)
        # Executed by the next sweep that still finds it: a blocked loop reads before it judges.
        cdef bint overdue = self.find_overdue(now)
        if overdue and self.overdue:
            if not self.deadline and self.output_stalled_since:
                self.on_slow()
            self.drop(self.verdict(now))
        self.overdue = overdue
        if self.state == STATE_OPEN:
            self.ping_if_due(now)
        return 0

    cdef int watch_output(self, double now) except -1:
        cdef int64_t left
        if not self.write_paused:
            self.output_stalled_since = 0.0
            if not self.awaiting_pong or not self.ping_position:
                return 0
        left = self.left_bytes()
        if self.write_paused and (left != self.left_mark or not self.output_stalled_since):
            self.output_stalled_since = now
        if self.awaiting_pong and left != self.left_mark and self.left_mark < self.ping_position:
            # The line is slow, not dead: what was written before the ping is still on its way.
            self.pinged_at = now
        self.left_mark = left
        return 0

    cdef bint find_overdue(self, double now) except -1:
        if self.deadline:
            return now >= self.deadline
        if self.parsing_stopped:
            if self.left_queue != self.started_mark or not self.reading_stalled_since:
                self.started_mark = self.left_queue
                self.reading_stalled_since = now
        else:
            self.reading_stalled_since = 0.0
        if self.settings.stall_timeout:
            if self.output_stalled_since and now - self.output_stalled_since >= self.settings.stall_timeout:
                return True
            if self.reading_stalled_since and now - self.reading_stalled_since >= self.settings.stall_timeout:
                return True
        return (
            self.awaiting_pong and not self.reading_held and not self.write_paused
            and self.settings.ping_timeout and now - self.pinged_at >= self.settings.ping_timeout
        )

    def verdict(self, now: float) -> str:
        """Why the connection is being dropped, for people."""
        if self.deadline:
            return "not closed in time" if self.ended else "no opening handshake in time"
        if self.output_stalled_since:
            return "stalled: the peer does not read"
        if self.reading_stalled_since:
            return "stalled: the waiting queue does not move"
        return "keepalive: no answer to a ping in time"

    cdef int ping_if_due(self, double now) except -1:
        # While reading is held no pong can arrive; the ping still finds a broken line, by failing.
        if not self.settings.ping_interval or self.write_paused:
            return 0
        if self.awaiting_pong and not (self.reading_held and now - self.pinged_at >= self.settings.ping_interval):
            return 0
        if now - self.last_heard >= self.settings.ping_interval:
            self.pinged_at = now
            self.awaiting_pong = True
            self.left_mark = self.left_bytes()
            self.ping_position = self.left_mark - <int64_t> self.written_bytes - self.output.size
            self.send_control(OPCODE_PING, b"sockrpc")
            self.flush()
            if self.ping_position:
                self.ping_position = <int64_t> self.written_bytes
        return 0
