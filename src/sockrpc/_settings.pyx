"""The limits of a connection, as C types: what limits.py checks, compiled code reads here."""

cimport cython
from cpython.ref cimport PyObject

from sockrpc._debug cimport DEBUG, count_created, count_freed

from sockrpc.limits import LIMITS as _LIMITS


@cython.final
cdef class Settings:
    """The limits of a connection, as C types.

    Args:
        limits: A `sockrpc.limits.Limits`.
    """

    def __cinit__(self, limits):
        if DEBUG:
            count_created(<PyObject *> self)
        # By name: Cython refuses a dict that lacks a field of the struct, and passes over what is no field.
        self.limits = {name: getattr(limits, name) or 0 for name in _LIMITS}
        # A verdict needs two sweeps, so an eighth keeps it within a quarter of the time it is about.
        self.interval = min([
            value for name, value in self.values().items() if _LIMITS[name].unit == "s" and value > 0
        ]) / 8

    def __dealloc__(self):
        if DEBUG:
            count_freed(<PyObject *> self)

    def values(self) -> dict[str, float]:
        """All of them by name; what is off is 0."""
        return self.limits
