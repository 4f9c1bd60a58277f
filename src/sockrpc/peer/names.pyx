"""A table from names (UTF-8 bytes) to objects that is read without building a Python object."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp

import random

from sockrpc._debug cimport DEBUG, count_created, count_freed, count_memory

# The peer chooses the names it looks up, but only those of the application are stored, so a peer cannot build long
# chains; the seed keeps it from finding a pair that always collides.
cdef uint32_t SEED = random.SystemRandom().getrandbits(32)


cdef uint32_t hash_name(const uint8_t *name, Py_ssize_t size) noexcept nogil:
    # FNV-1a is fast for short names and needs no table.
    cdef uint32_t value = 2166136261u ^ SEED
    cdef Py_ssize_t i
    for i in range(size):
        value = (value ^ name[i]) * 16777619u
    return value


# no_gc_clear: the slots must not outlive what they point to.
@cython.final
@cython.no_gc_clear
cdef class NameTable:
    """A mapping from names to values, filled once and then only read.

    Args:
        values: The values by name.
    """

    def __cinit__(self, values=None):
        if DEBUG:
            count_created(<PyObject *> self)
        self.kept = []
        self.mask = 7
        self.slots = <Slot *> PyMem_Calloc(self.mask + 1, sizeof(Slot))
        if self.slots == NULL:
            raise MemoryError
        if DEBUG:
            count_memory(1, (self.mask + 1) * <Py_ssize_t> sizeof(Slot))
        if values is not None:
            for name, value in values.items():
                # A cast would let None pass, which has no bytes.
                if not isinstance(name, bytes):
                    raise TypeError(f"a name is bytes, not {type(name).__name__}")
                self.put(name, value)

    def __dealloc__(self):
        if DEBUG:
            count_freed(<PyObject *> self)
            if self.slots != NULL:
                count_memory(-1, -(self.mask + 1) * <Py_ssize_t> sizeof(Slot))
        PyMem_Free(self.slots)

    def __len__(self) -> int:
        return self.used

    def get(self, name: bytes) -> object | None:
        """Return the value of a name, None if there is none."""
        cdef PyObject *value = self.find(<const uint8_t *> PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        return None if value == NULL else <object> value

    cdef Slot *probe(self, const uint8_t *name, Py_ssize_t size, uint32_t hash) noexcept:
        # The loop ends because at most half of the slots are ever used.
        cdef Py_ssize_t i = hash & self.mask
        cdef Slot *slot
        while True:
            slot = &self.slots[i]
            if slot.name == NULL or (
                slot.hash == hash
                and PyBytes_GET_SIZE(<bytes> slot.name) == size
                and memcmp(PyBytes_AS_STRING(<bytes> slot.name), name, size) == 0
            ):
                return slot
            i = (i + 1) & self.mask

    cdef PyObject *find(self, const uint8_t *name, Py_ssize_t size) noexcept:
        return self.probe(name, size, hash_name(name, size)).value

    cdef int put(self, bytes name, object value) except -1:
        cdef const uint8_t *data = <const uint8_t *> PyBytes_AS_STRING(name)
        cdef uint32_t hash = hash_name(data, PyBytes_GET_SIZE(name))
        cdef Slot *slot
        if (self.used + 1) * 2 > self.mask + 1:
            self.grow()
        slot = self.probe(data, PyBytes_GET_SIZE(name), hash)
        if slot.name != NULL:
            raise ValueError(f"{name!r} stands twice")
        self.kept.append((name, value))
        slot.hash = hash
        slot.name = <PyObject *> name
        slot.value = <PyObject *> value
        self.used += 1
        return 0

    cdef int grow(self) except -1:
        cdef Slot *old = self.slots
        cdef Py_ssize_t count = self.mask + 1
        cdef Py_ssize_t i
        cdef Slot *slots = <Slot *> PyMem_Calloc(count * 2, sizeof(Slot))
        if slots == NULL:
            raise MemoryError
        self.slots = slots
        self.mask = count * 2 - 1
        for i in range(count):
            if old[i].name != NULL:
                self.probe(
                    <const uint8_t *> PyBytes_AS_STRING(<bytes> old[i].name),
                    PyBytes_GET_SIZE(<bytes> old[i].name),
                    old[i].hash,
                )[0] = old[i]
        PyMem_Free(old)
        if DEBUG:
            count_memory(0, count * <Py_ssize_t> sizeof(Slot))
        return 0
