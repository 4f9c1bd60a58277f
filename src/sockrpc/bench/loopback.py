"""The `bench` object of benchmarks: a server on the loopback network, its clients, an injector of resets.

The measured environment may have an older sockrpc, without `sockrpc.bench`: its measuring process loads this
file by its path, so the file uses only the public names of `sockrpc`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import sockrpc

__all__ = ["Bench", "Loopback", "Resets", "SelfTimed", "new_event_loop"]

Result = TypeVar("Result")

# Seconds that nothing here takes unless it is broken.
PATIENCE = 30.0
# Turns of the loop for a started handler to reach its first wait.
SETTLING_TURNS = 3


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a loop like that of `sockrpc.run`, which is uvloop's if that is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class SelfTimed:
    """An operation that measures itself: a function, plain or async, that returns seconds."""

    is_self_timed = True

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function

    def __call__(self) -> Any:
        """Measure once; return the seconds, or an awaitable of them."""
        return self._function()


class Resets(SelfTimed):
    """Calls a method and resets the call; made by `Loopback.resets`."""

    def __init__(
        self, server: sockrpc.Server, client: sockrpc.Client, method: str, payload: str | bytes
    ) -> None:
        super().__init__(self._inject)
        self._server = server
        self._client = client
        self._method = method
        self._payload = payload

    async def sample(self, count: int) -> list[float]:
        """Measure `count` times, one after the other; return the seconds, shortest first."""
        return sorted([await self._inject() for _ in range(count)])

    async def _inject(self) -> float:
        statistics = self._server.statistics
        running_calls = self._running_calls()
        before = statistics()
        call = asyncio.ensure_future(self._client.call(self._method, self._payload))
        try:
            async with asyncio.timeout(PATIENCE):
                while statistics().calls_started == before.calls_started and not call.done():  # noqa: ASYNC110
                    await asyncio.sleep(0)
                for _ in range(SETTLING_TURNS):
                    await asyncio.sleep(0)
                at_rest = running_calls() - 1
                if call.done() or statistics().calls_running == before.calls_running:
                    raise RuntimeError(f"{self._method!r} had ended before it could be reset")
                began = time.perf_counter()
                call.cancel()
                # Poll, because no event exists to wait for: the handler belongs to the user and stays
                # unchanged.
                while running_calls() > at_rest:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                took = time.perf_counter() - began
        except TimeoutError:
            raise RuntimeError(
                f"{self._method!r} did not start or did not end within {PATIENCE:g} s"
            ) from None
        finally:
            call.cancel()
            await asyncio.wait([call])
        if statistics().calls_reset != before.calls_reset + 1:
            raise RuntimeError(f"{self._method!r} ended by itself, not by its reset")
        return took

    def _running_calls(self) -> Callable[[], int]:
        """Return a function for the number of running calls; its time is measured too, so it is cheap."""
        try:
            (connection,) = self._server._service.connections
        except (AttributeError, ValueError):
            # This is another version, or there are connections besides ours.
            return lambda: self._server.statistics().calls_running
        return lambda: connection.load[0]


class Loopback:
    """A server and its client in one loop; made by `Bench.loopback`.

    Attributes:
        server: The running `sockrpc.Server`.
        client: A `sockrpc.Client` that is connected to it.
        uri: The URI of the server.
    """

    def __init__(self, server: sockrpc.Server, uri: str, stack: contextlib.AsyncExitStack) -> None:
        self.server = server
        self.uri = uri
        self.client: sockrpc.Client
        self._stack = stack

    async def connect(self, **options: Any) -> sockrpc.Client:
        """Connect one more client, closed at the end of the block; takes the options of `sockrpc.connect`."""
        import sockrpc

        # A ping in the middle of a round would distort its time.
        options.setdefault("ping_interval", None)
        return await self._stack.enter_async_context(sockrpc.connect(self.uri, **options))

    async def calls(self, count: int, method: str, payload: str | bytes = b"") -> list[bytes]:
        """Make `count` calls at once and return their answers. Cancelling this resets them.

        Raises:
            ConnectionLost: The connection was lost.
        """
        call = self.client.call
        return await asyncio.gather(*(call(method, payload) for _ in range(count)))

    def resets(self, method: str, payload: str | bytes = b"") -> Resets:
        """Return an operation that calls the method and resets the call once its handler waits.

        Its result is the seconds from there until the work has ended, unwinding and undo hooks included.

        The handler stays unchanged; it has to run until it is reset, or `RuntimeError` is raised.
        """
        return Resets(self.server, self.client, method, payload)


class Bench:
    """The argument of benchmarks that have one, and the value of the fixture `bench`."""

    @contextlib.asynccontextmanager
    async def loopback(self, app: Any, **options: Any) -> AsyncIterator[Loopback]:
        """Serve an `App`, or a coroutine function of one socket, on a free port, with a client connected.

        Args:
            app: The app for `sockrpc.serve`.
            options: Further arguments of `sockrpc.serve`, limits included; pings are off by default.
        """
        import sockrpc

        options.setdefault("ping_interval", None)
        async with sockrpc.serve(app, "127.0.0.1", 0, **options) as server:
            port = server.sockets[0].getsockname()[1]
            # Close the clients first, so that their calls in flight are aborted instead of waited for.
            async with contextlib.AsyncExitStack() as stack:
                here = Loopback(server, f"ws://127.0.0.1:{port}{options.get('path') or '/'}", stack)
                here.client = await here.connect()
                yield here

    def self_timed(self, function: Callable[[], Any]) -> SelfTimed:
        """Make an operation whose result in seconds counts as its time; the function may be async."""
        return SelfTimed(function)

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine to its end on a loop of its own, for plain test functions."""
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(coroutine)
