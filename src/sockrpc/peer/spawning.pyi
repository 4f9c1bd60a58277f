import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from sockrpc.peer.work import Work

_T = TypeVar("_T")

class Spawning(Work):
    def spawn_and_abort_on_reset(self, coroutine: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]: ...
    async def abort_on_reset(self, coroutine: Coroutine[Any, Any, _T]) -> _T | None: ...
    async def wait_reset(self) -> None: ...
