"""A look at a connection's socket: whether the peer is gone, and how much of the output has left.

While reading is paused the loop does not notice that the connection is lost; a look at the socket does.
"""

from libc.stdint cimport int64_t

import socket

cdef extern from *:
    """
    #ifndef _WIN32
    #include <poll.h>
    #ifndef POLLRDHUP
    #define POLLRDHUP 0  /* macOS has none, and tells by POLLHUP */
    #endif
    #endif
    #if defined(__linux__)
    #include <string.h>
    #include <sys/ioctl.h>
    #include <sys/socket.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <linux/sockios.h>
    #elif defined(__APPLE__)
    #include <sys/socket.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>
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
    static Py_ssize_t sockrpc_unacknowledged(int descriptor) {
        int bytes = 0;
    #if defined(__linux__)
        if (descriptor < 0 || ioctl(descriptor, SIOCOUTQ, &bytes) < 0)
            return 0;
    #elif defined(__APPLE__)
        socklen_t size = sizeof bytes;
        if (descriptor < 0 || getsockopt(descriptor, SOL_SOCKET, SO_NWRITE, &bytes, &size) < 0)
            return 0;
    #else
        (void) descriptor;
    #endif
        return bytes;
    }
    static int64_t sockrpc_acknowledged(int descriptor) {
        int64_t bytes = -1;
    #if defined(__linux__)
        /* tcpi_bytes_acked of linux/tcp.h, which the C libraries do not declare. */
        unsigned char info[128];
        socklen_t size = sizeof info;
        if (descriptor >= 0 && getsockopt(descriptor, IPPROTO_TCP, TCP_INFO, info, &size) == 0
                && size == sizeof info)
            memcpy(&bytes, info + 120, sizeof bytes);
    #elif defined(__APPLE__) && defined(TCP_CONNECTION_INFO)
        struct tcp_connection_info info;
        socklen_t size = sizeof info;
        if (descriptor >= 0 && getsockopt(descriptor, IPPROTO_TCP, TCP_CONNECTION_INFO, &info, &size) == 0)
            bytes = (int64_t) info.tcpi_txbytes;
    #else
        (void) descriptor;
    #endif
        return bytes;
    }
    """
    int sockrpc_look(int descriptor) noexcept nogil
    Py_ssize_t sockrpc_unacknowledged(int descriptor) noexcept nogil
    int64_t sockrpc_acknowledged(int descriptor) noexcept nogil


cdef LineState look_at_line(int descriptor) noexcept nogil:
    return <LineState> sockrpc_look(descriptor)


cdef Py_ssize_t unacknowledged(int descriptor) noexcept nogil:
    return sockrpc_unacknowledged(descriptor)


cdef int64_t acknowledged(int descriptor) noexcept nogil:
    return sockrpc_acknowledged(descriptor)


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
