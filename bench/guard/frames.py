"""Parser and encoder, without a connection: bytes to messages, frames to bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

try:
    from sockrpc.testing.wire import Request, Response, feed, parse_message, serialize, serialize_frame
    from sockrpc.websocket.parser import Parser
except ImportError:
    # The base of a comparison may predate this module, and the folders too.
    from sockrpc._frames import (  # type: ignore[attr-defined,no-redef]
        Request,
        Response,
        parse_message,
        serialize_frame,
    )

    try:
        from sockrpc.websocket.parser import Parser, serialize  # type: ignore[attr-defined,no-redef]
    except ImportError:
        from sockrpc._websocket import Parser, serialize  # type: ignore[import-not-found,no-redef]

    def feed(parser: Parser, data: bytes) -> list[tuple[str, bytes]]:
        return parser.feed(data)  # type: ignore[attr-defined,no-any-return]


MESSAGES = 200
PAYLOAD = bytes(range(32))


def bench_parser() -> Iterator[Callable[[], object]]:
    """Measure masked messages of one read, and one of 64 KiB, which is a loop of unmasking."""
    requests = [serialize_frame(Request(number, "echo", PAYLOAD)) for number in range(MESSAGES)]
    data = b"".join(serialize("binary", frame, masked=True) for frame in [*requests, bytes(64 * 1024)])
    parser = Parser("server")
    assert len(feed(parser, data)) == MESSAGES + 1
    yield lambda: feed(parser, data)


def bench_frames_parsed() -> Iterator[Callable[[], object]]:
    frames = [serialize_frame(Request(number, "uppercase", PAYLOAD)) for number in range(MESSAGES)]

    def parse() -> None:
        for frame in frames:
            parse_message(frame, receiver="server")

    yield parse


def bench_encoder() -> Iterator[Callable[[], object]]:
    """Measure responses as a server sends them, and requests as a client does."""
    responses = [Response(number, PAYLOAD) for number in range(MESSAGES)]
    requests = [Request(number, "uppercase", PAYLOAD) for number in range(MESSAGES)]

    def encode() -> None:
        for response in responses:
            serialize("binary", serialize_frame(response), masked=False)
        for request in requests:
            serialize("binary", serialize_frame(request), masked=True)

    yield encode
