"""`sockrpc bench`, which calls a method as fast as a server answers, and measures the latencies."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import sockrpc
from sockrpc.bench.loopback import new_event_loop
from sockrpc.limits import check_seconds

__all__ = ["PERCENTILES", "Histogram", "Load", "Measured", "milliseconds", "no_answer", "run_load"]

# Seconds between two progress reports.
PROGRESS_SECONDS = 0.5
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
# The width of a bucket is the 128th part of the power of two below it, which is under one per cent.
BITS = 7


class Histogram:
    """A histogram of times whose size does not grow with their number."""

    def __init__(self) -> None:
        self.count = 0
        self.minimum = 0.0
        self.maximum = 0.0
        self._buckets: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Count one time."""
        self.minimum = seconds if not self.count else min(self.minimum, seconds)
        self.maximum = max(self.maximum, seconds)
        self.count += 1
        nanoseconds = int(seconds * 1e9)
        shift = max(nanoseconds.bit_length() - BITS - 1, 0)
        self._buckets[(shift << (BITS + 1)) | (nanoseconds >> shift)] += 1

    def percentile(self, percent: float) -> float:
        """Return the time that `percent` of all did not exceed, at most one per cent too high; 0 if empty."""
        wanted = self.count * percent / 100
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                shift, top = bucket >> (BITS + 1), bucket % 2 ** (BITS + 1)
                # Use the upper end of the bucket, so that no value looks better than it was.
                return min(float((top + 1) << shift) * 1e-9, self.maximum)
        return self.maximum


@dataclass(frozen=True)
class Load:
    """The load to put on a server.

    Attributes:
        connect: Makes a connection.
        timeout: Seconds that one call may take, None for no limit.
        first_timeout: Seconds that the first call may take, which checks that the method exists.
    """

    connect: Callable[[], Awaitable[sockrpc.Client]]
    method: str
    payload: bytes
    connections: int
    in_flight: int
    seconds: float
    timeout: float | None
    first_timeout: float

    def __post_init__(self) -> None:
        if self.connections < 1 or self.in_flight < 1:
            raise sockrpc.UsageError("at least one connection, and one call in flight on each")
        for name in ("seconds", "timeout", "first_timeout"):
            if getattr(self, name) is not None:
                check_seconds(name, getattr(self, name))

    async def try_out(self, client: sockrpc.Client) -> None:
        """Make the first call.

        Raises:
            TimeoutError: It was not answered in time.
            RPCError: It has failed (v1).
        """
        try:
            await client.call(self.method, self.payload, timeout=self.first_timeout)
        except TimeoutError:
            raise no_answer(self) from None

    def begin(self) -> Measured:
        """Begin to measure."""
        return Measured(self)


def no_answer(load: Load) -> TimeoutError:
    """Return the error of a first call that was not answered."""
    return TimeoutError(
        f"no answer within {load.first_timeout:g} s; is there a method {load.method!r}? "
        "--method names another, and --timeout waits longer"
    )


@dataclass
class Measured:
    """The measurements so far.

    Attributes:
        seconds: The elapsed time.
        latencies: Times of the answered calls, from the call to the answer.
        error: The error that ended the run early.
        interrupted: True if the user ended it.
    """

    # The name of the times, for people.
    TIMES: ClassVar[str] = "latency"

    load: Load
    began: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0
    latencies: Histogram = field(default_factory=Histogram)
    error: BaseException | None = None
    interrupted: bool = False

    async def keep_calling(self, client: sockrpc.Client) -> None:
        """Call again and again."""
        method, payload, timeout = self.load.method, self.load.payload, self.load.timeout
        add = self.latencies.add
        clock = time.perf_counter
        while True:
            began = clock()
            await client.call(method, payload, timeout=timeout)
            add(clock() - began)

    @property
    def calls_per_second(self) -> float:
        """Answers divided by the elapsed time."""
        return self.latencies.count / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return all values; times are in seconds."""
        load = self.load
        return {
            "method": load.method,
            "connections": load.connections,
            "in_flight": load.in_flight,
            "payload_bytes": len(load.payload),
            "seconds": round(self.seconds, 6),
            **self.counts(),
            "interrupted": self.interrupted,
            "error": None if self.error is None else f"{type(self.error).__name__}: {self.error}",
        }

    def counts(self) -> dict[str, Any]:
        """Return what was counted."""
        return {
            "calls": self.latencies.count,
            "calls_per_second": round(self.calls_per_second, 1),
            "latency": dict(self.times()),
        }

    def times(self) -> Iterator[tuple[str, float]]:
        """Yield the names and values of the times."""
        yield "min", self.latencies.minimum
        for percent in PERCENTILES:
            yield f"p{percent:g}", self.latencies.percentile(percent)
        yield "max", self.latencies.maximum

    def line(self) -> str:
        """Return the progress as a line."""
        latencies = self.latencies
        return (
            f"{self.seconds:5.1f} s  {latencies.count:,} calls  {self.calls_per_second:,.0f} a second  "
            f"p50 {milliseconds(latencies.percentile(50))}  p99 {milliseconds(latencies.percentile(99))}"
        )

    def lines(self) -> Iterator[str]:
        """Yield the lines of the outcome for people."""
        load = self.load
        yield (
            f"{load.method}: {load.connections} connection(s), {load.in_flight} in flight on each, "
            f"{len(load.payload)} bytes, {self.seconds:.1f} s"
        )
        yield self.total()
        if self.latencies.count:
            times = "  ".join(f"{name} {milliseconds(value)}" for name, value in self.times())
            yield f"{self.TIMES}: {times}"

    def total(self) -> str:
        """Return the line of what was counted."""
        return f"{self.latencies.count:,} calls, {self.calls_per_second:,.0f} a second"


def milliseconds(seconds: float) -> str:
    """Return a time for people."""
    return f"{seconds * 1e3:.3g} ms"


def run_load(load: Load, progress: Callable[[Measured], None]) -> Measured:
    """Put the load on the server, on a loop of its own, until the time is over.

    Ctrl-C ends it early: calls in flight are reset, and the measurements are returned.

    Raises:
        TimeoutError: The first call was not answered; v0.1 cannot say that a method does not exist.
        RPCError: The first call has failed (v1).
        OSError: No connection could be made.
        SockRPCError: The server refused, or the line broke before anything was measured.
    """
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(put_load(load, progress))


async def put_load(load: Load, progress: Callable[[Measured], None]) -> Measured:
    """Do the same in a running loop; a cancel after the measurement has begun ends it early."""
    clients: list[sockrpc.Client] = []
    try:
        while len(clients) < load.connections:
            clients.append(await load.connect())
        await load.try_out(clients[0])
        return await measure(load, clients, progress)
    finally:
        await asyncio.gather(*(client.close() for client in clients))


async def measure(
    load: Load, clients: list[sockrpc.Client], progress: Callable[[Measured], None]
) -> Measured:
    measured = load.begin()

    async def keep_telling() -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            measured.seconds = time.perf_counter() - measured.began
            progress(measured)

    tasks = [
        asyncio.ensure_future(measured.keep_calling(each)) for each in clients for _ in range(load.in_flight)
    ]
    telling = asyncio.ensure_future(keep_telling())
    try:
        done, _ = await asyncio.wait(
            [*tasks, telling], timeout=load.seconds, return_when=asyncio.FIRST_EXCEPTION
        )
        measured.error = next((task.exception() for task in done), None)
        if isinstance(measured.error, TimeoutError) and load.timeout is not None:
            measured.error = TimeoutError(f"a call was not answered within {load.timeout:g} s")
    except asyncio.CancelledError:
        measured.interrupted = True
    finally:
        measured.seconds = time.perf_counter() - measured.began
        for task in [*tasks, telling]:
            task.cancel()
        await asyncio.gather(*tasks, telling, return_exceptions=True)
    return measured
