"""Generators as handlers: what they yield is sent to the caller, and an abort reaches them at `yield`."""

from cpython.bytes cimport PyBytes_CheckExact, PyBytes_GET_SIZE

import asyncio

from sockrpc.peer.outbox cimport ITEMS_PER_LOOK, Outbox
from sockrpc.websocket.loop cimport FAIR_SHARE, LoopContext

from sockrpc.errors import SockRPCError

cdef object CancelledError = asyncio.CancelledError

async def drive(call, Outbox outbox not None, bint tracked, LoopContext context not None, generator):
    """Send what an async generator yields, in the call's own task.

    `yield` suspends like `await`: a CancelledError that reaches the task while the generator stands there is
    raised in it. `aclose` follows always, in the same task and context, before the call has ended.

    Args:
        call: The call, to send what takes more than a look at the credit.
        outbox: That of the call.
        tracked: Items have cursors.
        context: That of the loop.
        generator: The generator that the handler has made.
    """
    cdef bint aborted
    cdef bint sent
    cdef bint blocked
    cdef int count = 0
    cdef double until = context.tick() + FAIR_SHARE
    call._note_began()
    try:
        item = await anext(generator)
        while True:
            try:
                # Small payloads need no check of their size, and most have credit.
                sent = (
                    PyBytes_CheckExact(item) and not tracked and PyBytes_GET_SIZE(item) <= outbox.small_bytes()
                    and outbox.put(item, None)
                )
                if sent:
                    count += 1
                    if count == ITEMS_PER_LOOK:
                        count = 0
                        if context.tick() >= until:
                            await asyncio.sleep(0)
                            until = context.tick() + FAIR_SHARE
                else:
                    # Very many streams may wait for credit, each in this coroutine alone, without one of `send`.
                    payload, cursor = call._to_send(item)
                    if outbox.turn_is_over():
                        await asyncio.sleep(0)
                    timer = None
                    try:
                        while not outbox.closed:
                            sent = outbox.put(payload, cursor)
                            if sent:
                                break
                            if timer is None:
                                timer = call._start_credit_timer(outbox)
                            blocked = outbox.balance <= 0
                            outbox.connection.items_blocked += blocked
                            try:
                                await outbox.wait()
                            finally:
                                outbox.connection.items_blocked -= blocked
                    finally:
                        if timer is not None:
                            timer.cancel()
                    if not sent and call._is_cancelled:
                        # It has swallowed an abort that reached it in an await of its own, and yielded again.
                        break
                    until = context.tick() + FAIR_SHARE
            except CancelledError as error:
                # It was raised at our await, but it is the generator that waits: an abort, or its own time-out.
                aborted = call._is_cancelled
                item = await generator.athrow(error)
                if aborted:
                    # It has swallowed the abort and yielded again.
                    break
                continue
            except (TypeError, ValueError, SockRPCError) as error:
                # The item cannot be sent, which is for the generator to see, as from an await.
                item = await generator.athrow(error)
                continue
            item = await anext(generator)
    except StopAsyncIteration:
        pass
    finally:
        await generator.aclose()
