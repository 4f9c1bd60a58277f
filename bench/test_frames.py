"""Frames: bytes to fields and back, without a connection."""

from __future__ import annotations

from typing import Any

import pytest

from bench.peer import request
from sockrpc.testing.wire import Request, Response, feed, parse_message, serialize, serialize_frame
from sockrpc.websocket.parser import Parser

SIZES = [32, 1024, 64 * 1024, 1024 * 1024]
BATCH = 1000


@pytest.mark.parametrize("size", SIZES)
def test_parse_and_unmask_one_message(measure: Any, size: int) -> None:
    data = request(1, "echo", size)
    parser = Parser("server")
    ((kind, payload),) = measure(feed, parser, data)
    assert (kind, len(payload)) == ("binary", size + 10)


def test_parse_a_thousand_messages_of_one_read(measure: Any) -> None:
    data = b"".join(request(number, "echo", 32) for number in range(BATCH))
    parser = Parser("server")
    assert len(measure(feed, parser, data)) == BATCH


@pytest.mark.parametrize("masked", [False, True], ids=["server", "client"])
@pytest.mark.parametrize("size", SIZES)
def test_serialize_one_message(measure: Any, size: int, masked: bool) -> None:
    payload = bytes(size)

    def write() -> bytes:
        return serialize("binary", payload, masked=masked)

    assert len(measure(write)) > size


def test_parse_one_request(measure: Any) -> None:
    frame = serialize_frame(Request(7, "uppercase", bytes(32)))

    def parse() -> Any:
        return parse_message(frame, receiver="server")

    assert measure(parse) == Request(7, "uppercase", bytes(32))


def test_serialize_one_response(measure: Any) -> None:
    response = Response(7, bytes(32))
    assert len(measure(serialize_frame, response)) == 37
