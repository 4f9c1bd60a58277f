# Calling Python without a `try`, which in Cython costs more than the call: NULL says that it has raised.

from cpython.ref cimport PyObject

cdef extern from *:
    """
    /* Raises what is raised already: for Cython, which believes a return value of -1. */
    static CYTHON_INLINE int sockrpc_raise_pending(void) { return -1; }
    """
    int raise_pending "sockrpc_raise_pending"() except -1
    # A new reference, or NULL; Cython does not look at which.
    PyObject *call_one "PyObject_CallOneArg"(object function, object argument)

# What a handler has raised, as a value; but SystemExit and KeyboardInterrupt, which are for the whole process,
# go on as they would out of a task.
cdef inline object take_raised():
    try:
        raise_pending()
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        return error
