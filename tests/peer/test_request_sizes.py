"""A call is as large as what the peer takes in a message, to the byte, and no larger."""

from __future__ import annotations

from typing import Any

import pytest

from sockrpc import App, Code, Outcome, RPCError, testing

LARGEST = 200


@pytest.mark.parametrize(
    ("options", "head"),
    [
        # Opcode, id and the length of the name.
        ({}, 6),
        # Flags and the time.
        ({"timeout": 60.0}, 6 + 1 + 4),
        # Flags, and a length before the metadata: each entry has three bytes beside key and value.
        ({"metadata": {"a": "b"}}, 6 + 1 + 2 + 5),
        ({"metadata": {"a": "b"}, "timeout": 60.0}, 6 + 1 + 4 + 2 + 5),
        ({"items": ()}, 6 + 1),
    ],
)
async def test_a_call_of_exactly_the_largest_message_is_sent(options: dict[str, Any], head: int) -> None:
    app = App()
    app.method("size")(lambda call: str(len(call.payload)))
    room = LARGEST - head - len("size")
    async with testing.connect(app, protocols=("sockrpc.v1",), max_message_bytes=LARGEST) as client:
        assert await client.call("size", bytes(room), **options) == str(room).encode()
        with pytest.raises(RPCError, match=f"the call has {LARGEST + 1} bytes") as raised:
            await client.call("size", bytes(room + 1), **options)
        assert (raised.value.code, raised.value.outcome) == (Code.RESOURCE_EXHAUSTED, Outcome.NOT_STARTED)
        # Nothing of it was sent, and the connection lives on.
        assert client.server.statistics().calls_started == 1
        assert await client.call("size") == b"0"
