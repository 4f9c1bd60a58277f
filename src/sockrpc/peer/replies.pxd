# This end takes answers to its own calls, and the events that it listens to.

from sockrpc._frames cimport Frame
from sockrpc.peer.outgoing cimport Caller
from sockrpc.peer.outgoing_call cimport OutgoingCall

cdef class Replies(Caller):
    cdef dict subscriptions          # name -> list of Subscription, None until the first one

    cdef int on_response(self, Frame *frame) except -1
    cdef int on_error_frame(self, Frame *frame) except -1
    cdef int on_item_for_us(self, Frame *frame) except -1
    cdef int on_credit_for_us(self, Frame *frame) except -1
    cdef bint deliver(self, Frame *frame) except -1
    cdef int settle(self, OutgoingCall call, int outcome, object payload, object error) except -1
    cdef int fail_all(self) except -1
    cdef int refuse_unsent(self) except -1
