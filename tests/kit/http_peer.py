"""What a browser or a load balancer says to a server before, or instead of, WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import NamedTuple

from tests.kit.support import PATIENCE


class Answer(NamedTuple):
    """An HTTP response; names of fields are in lower case, several values of one are joined by ", "."""

    status: int
    fields: dict[str, str]
    body: bytes


def parse_answer(data: bytes) -> Answer:
    head, _, body = data.partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    version, status, _ = status_line.split(" ", 2)
    assert version == "HTTP/1.1"
    fields: dict[str, str] = {}
    for line in lines:
        name, value = line.split(": ", 1)
        fields[name.lower()] = f"{fields[name.lower()]}, {value}" if name.lower() in fields else value
    return Answer(int(status), fields, body)


@contextlib.asynccontextmanager
async def line_to(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A TCP connection on which nothing was said."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def ask(port: int, request: bytes) -> Answer:
    """Send a request and read the answer to its end; a connection that is not closed fails the test."""
    async with line_to(port) as (reader, writer):
        writer.write(request)
        async with asyncio.timeout(PATIENCE):
            answer = parse_answer(await reader.read())
    assert answer.fields["connection"] == "close"
    if not request.startswith(b"HEAD "):
        assert int(answer.fields["content-length"]) == len(answer.body)
    return answer


async def ask_to_open(port: int, request: bytes) -> Answer:
    """Send an opening request and read the answer to its blank line, or to its end if it is a refusal."""
    async with line_to(port) as (reader, writer), asyncio.timeout(PATIENCE):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 101 "):
            return parse_answer(head)
        return parse_answer(head + await reader.read())
