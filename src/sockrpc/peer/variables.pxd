# Context variables (PEP 567) by the C API, which costs a third of `Context.run`.

cdef extern from "Python.h":
    object copy_variables "PyContext_Copy"(object context)
    int enter_variables "PyContext_Enter"(object context) except -1
    # Returns -1 with an exception set, which Cython does not look for: it may be called over a pending one.
    int exit_variables "PyContext_Exit"(object context) noexcept
