# Calls into Python that return NULL when they raise: in Cython a `try` costs more than the call.

from cpython.ref cimport PyObject

cdef extern from *:
    """
    /* Raises what is raised already: for Cython, which believes a return value of -1. */
    static CYTHON_INLINE int sockrpc_raise_pending(void) { return -1; }
    """
    int raise_pending "sockrpc_raise_pending"() except -1
    # Returns a new reference or NULL, which Cython does not check.
    PyObject *call_one "PyObject_CallOneArg"(object function, object argument)

# Returns the exception of a handler as a value. SystemExit and KeyboardInterrupt propagate as they would from a
# task, because they are meant for the whole process.
cdef inline object take_raised():
    try:
        raise_pending()
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        return error
