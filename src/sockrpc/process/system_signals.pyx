"""Signals below Python, where a handler that never returns cannot hold them up.

Python's own handlers of signals run between two steps of the main thread's Python. A loop that is blocked
runs none of what it is to do at a signal, and a main thread that is in C runs no Python at all. So the
signal that ends the process whatever happens is counted by the handler that the system calls.
"""

cdef extern from *:
    """
    #include <errno.h>
    #include <signal.h>

    #define SOCKRPC_SIGNALS 65

    static volatile sig_atomic_t sockrpc_signals_left = 0;
    static PyOS_sighandler_t sockrpc_signals_next[SOCKRPC_SIGNALS];

    /* In C, as any thread may be interrupted by it, with or without the interpreter's lock. */
    static void sockrpc_signal(int number) {
        int saved = errno;
        sockrpc_signals_left = sockrpc_signals_left - 1;
        if (sockrpc_signals_left <= 0) {
            /* Taken when this handler returns, so that the parent sees by which signal the process died. */
            PyOS_setsig(number, SIG_DFL);
            raise(number);
        } else {
            sockrpc_signals_next[number](number);
    #ifdef _WIN32
            /* The system takes a handler away when it calls it, and Python has put back its own. */
            PyOS_setsig(number, sockrpc_signal);
    #endif
        }
        errno = saved;
    }

    static void sockrpc_signals_count(int number) {
        PyOS_sighandler_t next = PyOS_getsig(number);
        if (next != SIG_DFL && next != SIG_IGN && next != SIG_ERR && next != sockrpc_signal) {
            sockrpc_signals_next[number] = next;
            PyOS_setsig(number, sockrpc_signal);
        }
    }

    static size_t sockrpc_signals_get(int number) { return (size_t) PyOS_getsig(number); }
    static void sockrpc_signals_set(int number, size_t handler) {
        PyOS_setsig(number, (PyOS_sighandler_t) handler);
    }
    """
    int SOCKRPC_SIGNALS
    int sockrpc_signals_left
    void sockrpc_signals_count(int number) noexcept
    size_t sockrpc_signals_get(int number) noexcept
    void sockrpc_signals_set(int number, size_t handler) noexcept


def end_process_at(count: int, numbers: tuple[int, ...]) -> None:
    """From now on the `count`th of these signals ends the process, as if nobody handled it.

    Those before go to the handlers that are installed now; one that has no handler is left alone.
    """
    global sockrpc_signals_left
    if not all(0 < number < SOCKRPC_SIGNALS for number in numbers):
        raise ValueError("there is no such signal")
    sockrpc_signals_left = count
    for number in numbers:
        sockrpc_signals_count(number)


def system_handler(number: int) -> int:
    """Return the handler that the system calls, which may be below Python's, as that of `faulthandler` is."""
    return sockrpc_signals_get(number)


def set_system_handler(number: int, handler: int) -> None:
    """Put back what `system_handler` returned."""
    sockrpc_signals_set(number, handler)
