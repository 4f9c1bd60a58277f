"""Masks of the frames that clients send: how they are made and applied (RFC 6455 5.3)."""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

import os


cdef void apply_mask(uint8_t *data, Py_ssize_t size, const uint8_t *mask) noexcept nogil:
    mask_into(data, data, size, mask)


cdef extern from *:
    """
    /* One system call serves this many masks. */
    #define SOCKRPC_MASK_POOL_BYTES 4096
    /* Without the interpreter's lock two threads would take the same masks. */
    #if !defined(Py_GIL_DISABLED)
    #define SOCKRPC_THREAD_LOCAL
    #elif defined(_MSC_VER)
    #define SOCKRPC_THREAD_LOCAL __declspec(thread)
    #else
    #define SOCKRPC_THREAD_LOCAL __thread
    #endif
    static SOCKRPC_THREAD_LOCAL char sockrpc_mask_pool[SOCKRPC_MASK_POOL_BYTES];
    static SOCKRPC_THREAD_LOCAL Py_ssize_t sockrpc_mask_pool_used = SOCKRPC_MASK_POOL_BYTES;
    """
    enum:
        MASK_POOL_BYTES "SOCKRPC_MASK_POOL_BYTES"
    char *mask_pool "sockrpc_mask_pool"
    Py_ssize_t mask_pool_used "sockrpc_mask_pool_used"


def _forget_masks() -> None:
    global mask_pool_used
    mask_pool_used = MASK_POOL_BYTES  # pragma: no trace


# A forked child must not repeat its parent's masks.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_masks)


cdef int fresh_mask(uint8_t *out) except -1:
    global mask_pool_used
    cdef bytes fresh
    if mask_pool_used >= MASK_POOL_BYTES:
        fresh = os.urandom(MASK_POOL_BYTES)
        memcpy(mask_pool, PyBytes_AS_STRING(fresh), MASK_POOL_BYTES)
        mask_pool_used = 0
    memcpy(out, mask_pool + mask_pool_used, 4)
    mask_pool_used += 4
    return 0
