"""A viewer of a server: what it is shown through the socket of the inspector."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

from tests.kit.support import PATIENCE, serving


class Looking:
    """A viewer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def at(cls, path: Path | str, line: bytes = b'{"interval": 0.5}\n') -> Self:
        viewer = cls(*await asyncio.open_unix_connection(str(path), limit=2**20))
        viewer.writer.write(line)
        return viewer

    async def told(self) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE):
            line = await self.reader.readline()
        assert line.endswith(b"\n"), line
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def is_dropped(self) -> bool:
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionError):
                while await self.reader.read(2**16):
                    pass
        return True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def looked_at(path: Path, app: Any, **options: Any) -> AsyncIterator[Any]:
    async with serving(app, inspect_path=str(path), **options) as here:
        yield here
