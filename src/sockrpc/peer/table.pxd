# The request-id table: which call is in flight under which id.

from cpython.ref cimport PyObject
from libc.stdint cimport uint32_t

# What a table can hold. A table owns no entry: whoever needs an entry to live holds it, and an
# entry that dies takes itself out.
cdef class Entry:
    cdef readonly uint32_t id
    cdef RequestTable table          # the table it is in, None if it is in none
    cdef PyObject *next_in_bucket    # borrowed

cdef class RequestTable:
    cdef PyObject **buckets          # NULL until the first entry; each a chain of borrowed entries
    cdef int shift                   # 32 less the logarithm of the number of buckets
    cdef Py_ssize_t count
    cdef uint32_t last_id            # of `allocate`

    # The entry of `id`, borrowed; NULL if none is in flight.
    cdef PyObject *find(self, uint32_t id) noexcept
    # False, and nothing changed, if the entry's id is in flight.
    cdef bint insert(self, Entry entry) except -1
    # The same for an entry whose id was looked for already.
    cdef int add(self, Entry entry) except -1
    # By identity: True if this very entry was in the table; it is not any more.
    cdef bint take(self, Entry entry) noexcept
    cdef uint32_t allocate(self) noexcept
    cdef list entries(self)
    # Any of them, None if there is none; `bucket` is 0 at first, and only what is taken may change between two.
    cdef Entry next_entry(self, Py_ssize_t *bucket)
    cdef int resize(self, int shift) except -1
