"""A connection that is watched: keepalive, deadlines and stalls, all judged by its loop's one sweep.

Where reading is paused the loop does not notice that the line is lost; a look at the socket does.
"""

from libc.stdint cimport int64_t

from sockrpc.websocket.connection cimport STATE_OPEN, Connection
from sockrpc.websocket.parser cimport OPCODE_PING

import socket

# Seconds that a connection may take to send its request when it is refused before that has come.
cdef double LONGEST_REFUSAL = 1.0

cdef extern from *:
    """
    #ifndef _WIN32
    #include <poll.h>
    #ifndef POLLRDHUP
    #define POLLRDHUP 0  /* macOS has none, and tells by POLLHUP */
    #endif
    #endif
    static int sockrpc_look(int descriptor) {
    #ifdef _WIN32
        (void) descriptor;
        return 3;
    #else
        struct pollfd look = {descriptor, POLLIN | POLLRDHUP, 0};
        if (poll(&look, 1, 0) <= 0)
            return 0;
        return look.revents & (POLLRDHUP | POLLHUP | POLLERR) ? 2 : 1;
    #endif
    }
    """
    int sockrpc_look(int descriptor) noexcept nogil

cdef enum:
    LINE_IS_QUIET = 0
    LINE_HAS_BYTES = 1        # that were not read
    LINE_HAS_ENDED = 2        # the peer's FIN or RST has come, also behind bytes that were not read
    LINE_IS_UNKNOWN = 3       # this system does not tell


def has_nothing_to_read_but_the_end(line: socket.socket) -> bool:
    """True if a socket's peer is gone and no byte of it waits: all that can be found out on Windows."""
    with line.dup() as same:
        same.setblocking(False)
        try:
            return not same.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True


cdef class WatchedConnection(Connection):
    """A connection that ends when its peer is gone, does not read, or does not close."""

    def refuse(self, data: bytes, unread: int = 0, *, early: bool = False) -> None:
        """Write an HTTP response that opens no WebSocket, then close.

        Args:
            unread: At most so many bytes of the request are still awaited, for `close_timeout` at most.
            early: The request has not come, and has a second to come.
        """
        self.hold_handshake(False)
        self.give_to_transport(data)
        self.end(True, 1006, "refused in the opening handshake")
        if not unread:
            self.close_transport()
            return
        # Closing over a request that was not read would send a TCP reset, which could overtake the response.
        self.refused = True
        self.unread = unread
        self.is_brief = early
        if early:
            self.deadline = min(self.deadline, self.context.loop.time() + LONGEST_REFUSAL)
        self.end_output()

    cdef int sweep(self, double now) except -1:
        if self.transport is None:
            return 0
        if self.heard:
            self.heard = False
            self.last_heard = now
            self.awaiting_pong = False
        if self.ended:
            self.watch_closing(now)
        else:
            self.watch_output(now)
        # Executed by the next sweep that still finds it: a blocked loop reads before it judges.
        cdef bint overdue = self.find_overdue(now)
        if overdue and self.overdue:
            if not self.deadline and self.output_stalled_since:
                self.on_slow()
            self.was_given_up = not self.ended
            self.drop(self.verdict(now))
        self.overdue = overdue
        if self.state == STATE_OPEN:
            self.ping_if_due(now)
        return 0

    cdef int watch_output(self, double now) except -1:
        cdef int64_t left
        cdef int64_t moved
        if not self.write_paused:
            self.output_stalled_since = 0.0
            if not self.awaiting_pong or not self.ping_position:
                return 0
        left = self.left_bytes()
        moved = self.moved_bytes(left)
        if self.write_paused and (moved != self.moved_mark or not self.output_stalled_since):
            self.output_stalled_since = now
        if self.awaiting_pong and left != self.left_mark and self.left_mark < self.ping_position:
            # The line is slow, not dead: what was written before the ping is still on its way.
            self.pinged_at = now
        self.left_mark = left
        self.moved_mark = moved
        return 0

    cdef int watch_closing(self, double now) except -1:
        # Who reads on has the time it takes: `close_timeout` is that without progress, also of the last that
        # was here. It is not of those who are refused before their request came, for they count nowhere.
        cdef int64_t left = self.left_bytes()
        cdef int64_t moved = self.moved_bytes(left)
        cdef bint had_output = 0 <= self.left_mark < <int64_t> self.written_bytes
        if moved != self.moved_mark and had_output and not self.is_brief:
            self.deadline = max(self.deadline, now + self.settings.limits.close_timeout)
        self.left_mark = left
        self.moved_mark = moved
        if self.fin_is_due:
            self.end_output()
        return 0

    cdef bint look(self) except -1:
        cdef int seen
        if not self.reading_held or self.ended or self.transport is None:
            return False
        if not self.looked_at:
            # Fairness pauses reading for a moment, again and again; at the second look it is no moment any more.
            self.looked_at = True
            return True
        seen = self.look_at_line()
        if seen == LINE_HAS_ENDED:
            self.drop("connection lost while reading was paused")
            return False
        if seen == LINE_HAS_BYTES and self.settings.limits.ping_interval and self.context.probes_left > 0:
            # The peer's FIN may stand behind more than the system takes. Where the peer is gone, its system
            # answers whatever comes by a RST.
            self.context.probes_left -= 1
            if self.state == STATE_OPEN and not self.write_paused:
                self.send_control(OPCODE_PING, b"sockrpc")
                self.flush()
        return True

    cdef int look_at_line(self) except -1:
        cdef int descriptor = self.descriptor()
        cdef int seen = LINE_IS_QUIET if descriptor < 0 else sockrpc_look(descriptor)
        if seen == LINE_IS_UNKNOWN:
            line = self.tell("get_extra_info", ("socket",))  # pragma: only windows
            return LINE_HAS_ENDED if has_nothing_to_read_but_the_end(line) else LINE_IS_QUIET  # pragma: only windows
        return seen

    cdef bint find_overdue(self, double now) except -1:
        if self.deadline:
            return now >= self.deadline
        if self.parsing_stopped:
            if self.left_queue != self.started_mark or not self.reading_stalled_since:
                self.started_mark = self.left_queue
                self.reading_stalled_since = now
        else:
            self.reading_stalled_since = 0.0
        if self.settings.limits.stall_timeout:
            if self.output_stalled_since and now - self.output_stalled_since >= self.settings.limits.stall_timeout:
                return True
            if self.reading_stalled_since and now - self.reading_stalled_since >= self.settings.limits.stall_timeout:
                return True
        return (
            self.awaiting_pong and not self.reading_held and not self.write_paused
            and self.settings.limits.ping_timeout and now - self.pinged_at >= self.settings.limits.ping_timeout
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
        if not self.settings.limits.ping_interval or self.write_paused:
            return 0
        if self.awaiting_pong and not (self.reading_held and now - self.pinged_at >= self.settings.limits.ping_interval):
            return 0
        if now - self.last_heard >= self.settings.limits.ping_interval:
            self.pinged_at = now
            self.awaiting_pong = True
            self.left_mark = self.left_bytes()
            self.ping_position = self.left_mark - <int64_t> self.written_bytes - self.output.size
            self.send_control(OPCODE_PING, b"sockrpc")
            self.flush()
            if self.ping_position:
                self.ping_position = <int64_t> self.written_bytes
        return 0
