"""Which protocols the command line offers, and what it says of a server that refuses an offer of two."""

from __future__ import annotations

import asyncio
import sys

import pytest

import sockrpc
from tests.kit.command import Command
from tests.kit.raw_server import Peer, RawServer

pytestmark = pytest.mark.newest

V0, V1 = "websocket.io-rpc-v0.1", "sockrpc.v1"
ADVICE = f"--protocol {V0} offers that alone"


async def refuse(peer: Peer, status: str) -> str:
    """Refuse as servers do that know nothing of the offer; the offer."""
    await peer.read_head()
    await peer.send(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno".encode())
    await peer.finish()
    return peer.fields["sec-websocket-protocol"]


@pytest.mark.parametrize(
    ("flags", "offer"),
    [([], f"{V1}, {V0}"), (["--protocol", V0], V0), (["--protocol", V1], V1)],
    ids=["by default", "the old one", "the new one"],
)
@pytest.mark.parametrize(
    "command", [["call"], ["stream"], ["notify"], ["listen"], ["bench", "--method"]], ids=lambda each: each[0]
)
def test_both_are_offered_the_new_one_first_unless_one_is_chosen(
    command: list[str], flags: list[str], offer: str
) -> None:
    async def watch() -> None:
        async with RawServer() as server:
            with Command(command[0], server.uri, *command[1:], "name", *flags) as running:
                assert await refuse(await server.peer(), "200 OK") == offer
                assert await asyncio.to_thread(running.end) == 4
                (line,) = running.log
                assert line.startswith("sockrpc: HandshakeError: HTTP 200: no")
                # Only an offer of two can be refused for that reason.
                assert (ADVICE in line) == (not flags)

    asyncio.run(watch())


@pytest.mark.parametrize(
    ("status", "advised"),
    [("200 OK", True), ("400 Bad Request", True), ("401 Unauthorized", False), ("404 Not Found", False)],
)
def test_a_refusal_for_another_reason_is_not_explained_by_the_offer(status: str, advised: bool) -> None:
    async def watch() -> None:
        async with RawServer() as server:
            with Command("call", server.uri, "name") as calling:
                await refuse(await server.peer(), status)
                assert await asyncio.to_thread(calling.end) == 4
                assert (ADVICE in calling.log[0]) == advised

    asyncio.run(watch())


def test_the_old_protocol_is_spoken_where_the_server_prefers_it() -> None:
    async def watch() -> None:
        async with RawServer() as server:
            with Command("call", server.uri, "name", "payload") as calling:
                peer = await server.accept()
                assert await peer.message() == ("request", 1, b"\x04namepayload")
                await peer.answer(1, b"done")
                await peer.receive()
                await peer.finish()
                assert await asyncio.to_thread(calling.rest) == b"done" + (
                    b"\r\n" if sys.platform == "win32" else b"\n"
                )
                assert await asyncio.to_thread(calling.end) == 0

    asyncio.run(watch())


@pytest.mark.parametrize("protocols", [(V1, V0), (V0,)], ids=["two", "one"])
async def test_in_a_program_the_error_of_an_offer_of_two_has_a_note(protocols: tuple[str, ...]) -> None:
    async with RawServer() as server:
        connecting = asyncio.ensure_future(connect(server.uri, protocols))
        await refuse(await server.peer(), "200 OK")
        with pytest.raises(sockrpc.HandshakeError) as told:
            await connecting
    note = f"a server may refuse an offer of two protocols and take {V0} alone"
    assert getattr(told.value, "__notes__", []) == ([note] if len(protocols) == 2 else [])
    assert (told.value.status, told.value.reason) == (200, "no")


async def connect(uri: str, protocols: tuple[str, ...]) -> sockrpc.Client:
    return await sockrpc.connect(uri, protocols=protocols)
