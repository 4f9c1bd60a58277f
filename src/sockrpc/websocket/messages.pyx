"""A connection without RPC: whole messages in, whole messages out, close codes.

Test suites that know nothing of RPC judge the WebSocket level through it.
"""

from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t

import asyncio

from sockrpc.websocket.input cimport STATE_OPEN
from sockrpc.websocket.connection cimport Connection
from sockrpc.websocket.loop cimport LoopContext
from sockrpc._settings cimport Settings
from sockrpc.websocket.parser cimport OPCODE_BINARY, OPCODE_TEXT, Parser, copy_part


# MessageProtocol, at the end of this file, joins it to asyncio.BufferedProtocol.
cdef class MessageConnection(Connection):
    """A WebSocket connection without RPC: text is `str`, binary is `bytes`.

    Nothing more is parsed while output is above the high-water mark. Exceptions of `receiver` go to the
    loop's exception handler; the connection stays open.

    Args:
        role: "server" or "client".
        settings: The limits.
        context: The context of the loop that it runs on.
        receiver: Called with this connection and each message.
        handshake: Receives the bytes of the opening handshake; None if there is none.
    """

    def __init__(self, str role, Settings settings, LoopContext context, receiver, handshake=None):
        self.parser = Parser(role, settings.limits.max_message_bytes)
        self.masks = role == "client"
        self.closes_tcp_first = role == "server"
        self.settings = settings
        self.context = context
        self.receiver = receiver
        self.handshake = handshake

    def send_whole(self, message: str | bytes) -> None:
        """Send one message; it is dropped before `open` and after the end."""
        cdef uint8_t opcode = OPCODE_BINARY
        if isinstance(message, str):
            opcode = OPCODE_TEXT
            message = message.encode()
        elif not isinstance(message, bytes):
            raise TypeError(f"a message is str or bytes, not {type(message).__name__}")
        if self.state == STATE_OPEN:
            self.send_message(opcode, message)
            self.write_soon(False)

    cdef int on_message(self, const uint8_t *data, Py_ssize_t size) except -1:
        return self.pass_on(copy_part(self.parser, data, size))

    cdef int on_text(self, const uint8_t *data, Py_ssize_t size) except -1:
        return self.pass_on(PyUnicode_DecodeUTF8(<const char *> data, size, NULL))

    cdef int pass_on(self, object message) except -1:
        try:
            self.receiver(self, message)
        except Exception as error:
            self.context.report(error)
        self.ran_handler = True
        # The sweep takes a queue that does not move for a stall.
        self.left_queue += 1
        self.parsing_stopped = self.write_paused and not self.ended
        return 0

    cdef int on_output_open(self) except -1:
        return self.restart_parsing()

    cdef int on_end(self) except -1:
        return 0

    cdef int on_lost(self) except -1:
        self.receiver = None
        return 0


class MessageProtocol(MessageConnection, asyncio.BufferedProtocol):
    """Either end of a connection without RPC, as asyncio recognises it."""

    __slots__ = ()
