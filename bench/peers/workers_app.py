"""The app of `bench.workers`: a method that costs almost nothing, and one that works."""

from __future__ import annotations

import sockrpc

app = sockrpc.App()

# This takes about 0.1 ms of one core.
STEPS = 2_500


@app.method("echo")
def echo(call: sockrpc.Call) -> bytes:
    return call.payload


@app.method("work")
def work(call: sockrpc.Call) -> bytes:
    sum(i * i for i in range(STEPS))
    return call.payload
