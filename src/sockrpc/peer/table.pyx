"""The request-id table, which maps the ids of calls in flight on one connection to the calls.

Two rules make cancellation right, and both live here: an entry leaves the table once, and it leaves
by identity. The event that takes it (the answer, the reset, the loss of the connection) has won; every
later one finds that it is gone and stays silent. If an id is used again while the old work still
unwinds, it names another entry, which the old work cannot touch.
"""

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.ref cimport PyObject
from libc.stdint cimport uint32_t

import random

from sockrpc._debug cimport DEBUG, count_created, count_freed, count_memory

# The peer chooses ids. Multiplying by a secret odd number keeps it from choosing ids that all fall into one bucket
# (multiplicative hashing, Dietzfelbinger et al. 1997).
cdef uint32_t MULTIPLIER = random.SystemRandom().getrandbits(32) | 1

cdef enum:
    FIRST_SHIFT = 28    # 16 buckets

cdef extern from *:
    """
    /* Without the interpreter's lock a plain addition would lose some. */
    #if !defined(Py_GIL_DISABLED)
    #define SOCKRPC_ADD(counter, more) ((void) ((counter) += (more)))
    #elif defined(_MSC_VER)
    #include <intrin.h>
    #define SOCKRPC_ADD(counter, more) ((void) _InterlockedExchangeAdd64((volatile __int64 *) &(counter), (more)))
    #else
    #define SOCKRPC_ADD(counter, more) ((void) __atomic_fetch_add(&(counter), (more), __ATOMIC_RELAXED))
    #endif
    """
    void count_more "SOCKRPC_ADD" (Py_ssize_t counter, Py_ssize_t more) noexcept nogil

# Entries in all tables of this process, in any thread; the leak tests watch this.
cdef Py_ssize_t entries_in_tables = 0


def live_entries() -> int:
    """The number of entries in all request tables of this process."""
    return entries_in_tables


# no_gc_clear: the cyclic collector must not take `table` from an entry that is still in it, or a
# dangling pointer would stay in the bucket. (No cycle can run through it: a table refers to nothing.)
@cython.no_gc_clear
cdef class Entry:
    """A call in flight under its id."""

    def __cinit__(self):
        if DEBUG:
            count_created(<PyObject *> self)

    def __dealloc__(self):
        if DEBUG:
            count_freed(<PyObject *> self)
        if self.table is not None:
            self.table.take(self)


@cython.final
cdef class RequestTable:
    """A hash table from request ids to entries."""

    def __cinit__(self):
        if DEBUG:
            count_created(<PyObject *> self)
        # Ids count up from 1, and 0 follows 2**32 - 1.
        self.final_id = 0xFFFFFFFF

    def __dealloc__(self):
        if DEBUG:
            count_freed(<PyObject *> self)
            assert self.count == 0
            if self.buckets != NULL:
                count_memory(-1, -(<Py_ssize_t> 1 << (32 - self.shift)) * <Py_ssize_t> sizeof(PyObject *))
        PyMem_Free(self.buckets)

    cdef PyObject *find(self, uint32_t id) noexcept:
        cdef PyObject *entry
        if self.buckets == NULL:
            return NULL
        entry = self.buckets[(id * MULTIPLIER) >> self.shift]
        while entry != NULL and (<Entry> entry).id != id:
            entry = (<Entry> entry).next_in_bucket
        return entry

    cdef bint insert(self, Entry entry) except -1:
        if self.find(entry.id) != NULL:
            return False
        self.add(entry)
        return True

    cdef int add(self, Entry entry) except -1:
        cdef PyObject **bucket
        if self.buckets == NULL:
            self.resize(FIRST_SHIFT)
        elif self.shift > 0 and self.count >> (32 - self.shift):
            self.resize(self.shift - 1)
        bucket = &self.buckets[(entry.id * MULTIPLIER) >> self.shift]
        entry.next_in_bucket = bucket[0]
        entry.table = self
        bucket[0] = <PyObject *> entry
        self.count += 1
        count_more(entries_in_tables, 1)
        return 0

    cdef bint take(self, Entry entry) noexcept:
        cdef PyObject **link
        if entry.table is not self:
            return False
        link = &self.buckets[(entry.id * MULTIPLIER) >> self.shift]
        while link[0] != <PyObject *> entry:
            link = &(<Entry> link[0]).next_in_bucket
        link[0] = entry.next_in_bucket
        entry.next_in_bucket = NULL
        self.count -= 1
        count_more(entries_in_tables, -1)
        # This must come last: it may drop the last reference to the table.
        entry.table = None
        return True

    cdef uint32_t allocate(self) noexcept:
        # The loop ends because no table holds all ids of a range.
        while True:
            self.last_id = self.first_id if self.last_id == self.final_id else self.last_id + 1
            if self.find(self.last_id) == NULL:
                return self.last_id

    cdef int set_range(self, uint32_t first, uint32_t final) except -1:
        self.first_id = first
        self.final_id = self.last_id = final
        return 0

    cdef list entries(self):
        """Return all entries, alive and in no order. They stay in the table."""
        cdef list entries = []
        cdef Py_ssize_t i
        cdef PyObject *entry
        if self.count:
            for i in range(<Py_ssize_t> 1 << (32 - self.shift)):
                entry = self.buckets[i]
                while entry != NULL:
                    entries.append(<object> entry)
                    entry = (<Entry> entry).next_in_bucket
        return entries

    cdef Entry next_entry(self, Py_ssize_t *bucket):
        # This builds no list, because a lost connection must abort its calls even when memory runs out.
        if self.count == 0:
            return None
        while self.buckets[bucket[0]] == NULL:
            bucket[0] += 1
        return <Entry> self.buckets[bucket[0]]

    cdef int resize(self, int shift) except -1:
        cdef PyObject **old = self.buckets
        cdef Py_ssize_t count = 0 if old == NULL else <Py_ssize_t> 1 << (32 - self.shift)
        cdef Py_ssize_t i
        cdef PyObject *entry
        cdef PyObject *following
        cdef PyObject **bucket
        cdef PyObject **buckets = <PyObject **> PyMem_Calloc(
            <size_t> 1 << (32 - shift), sizeof(PyObject *))
        if buckets == NULL:
            raise MemoryError
        for i in range(count):
            entry = old[i]
            while entry != NULL:
                following = (<Entry> entry).next_in_bucket
                bucket = &buckets[((<Entry> entry).id * MULTIPLIER) >> shift]
                (<Entry> entry).next_in_bucket = bucket[0]
                bucket[0] = entry
                entry = following
        PyMem_Free(old)
        if DEBUG:
            count_memory(1, (<Py_ssize_t> 1 << (32 - shift)) * <Py_ssize_t> sizeof(PyObject *))
            if old != NULL:
                count_memory(-1, -count * <Py_ssize_t> sizeof(PyObject *))
        self.buckets = buckets
        self.shift = shift
        return 0
