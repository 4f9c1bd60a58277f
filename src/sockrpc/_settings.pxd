# The limits of a connection as C types, which compiled code reads.

# A copy of sockrpc.limits.Limits; times in seconds. 0 stands for None, and is off.
cdef struct LimitValues:
    Py_ssize_t max_message_bytes
    Py_ssize_t max_calls
    Py_ssize_t max_outgoing_calls
    Py_ssize_t window_bytes
    Py_ssize_t max_in_flight
    Py_ssize_t max_waiting_calls
    Py_ssize_t max_held_bytes
    Py_ssize_t max_notifications
    Py_ssize_t output_high_bytes
    Py_ssize_t output_low_bytes
    Py_ssize_t output_max_bytes
    Py_ssize_t max_listener_payloads
    Py_ssize_t max_listener_bytes
    double credit_timeout
    double stall_timeout
    double ping_interval
    double ping_timeout
    double handshake_timeout
    double close_timeout
    double stop_grace

cdef class Settings:
    cdef LimitValues limits
    cdef double interval             # seconds between two sweeps
