"""What is undone when a call is aborted.

    python examples/undo.py

Then call `book`, and press Ctrl-C before it ends:

    sockrpc call ws://127.0.0.1:3000/socket book 12A
"""

import asyncio
import logging

import sockrpc

LOG = logging.getLogger("undo")
PAYMENT_SECONDS = 2.0

app = sockrpc.App()
booked: dict[str, int] = {}
lock = asyncio.Lock()


async def release(seat: str) -> None:
    """An undo hook may wait: the work has ended, and no further cancel comes before the end of a stop."""
    async with lock:
        del booked[seat]
    LOG.info("seat %s is free again", seat)


@app.method("book")
async def book(call: sockrpc.Call) -> str:
    seat = call.text
    async with lock:  # left by a cancel as well: what a `with` or a `finally` undoes needs no hook
        if seat in booked:
            return "taken"
        booked[seat] = call.id
        call.on_abort(release, seat)
    await asyncio.sleep(PAYMENT_SECONDS)  # aborted here by a reset or a lost connection
    return f"seat {seat} is yours"


@app.method("pay", run_to_completion=True)
async def pay(call: sockrpc.Call) -> str:
    await asyncio.sleep(PAYMENT_SECONDS)  # goes on after a reset: the answer is dropped, the payment is not
    LOG.info("paid%s", f", though the call was aborted ({call.abort_reason})" if call.is_reset else "")
    return "paid"


@app.method("seats")
def seats(call: sockrpc.Call) -> str:
    return " ".join(sorted(booked))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    sockrpc.run(app, "127.0.0.1", 3000)
