"""`socket.request`: the opening request, there for as long as the socket and kept small while nobody asks."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request

import sockrpc
from sockrpc.websocket.server_handshake import pack_request, unpack_request
from tests.kit.support import serving


def requests_alive() -> int:
    gc.collect()
    return sum(isinstance(each, Request) for each in gc.get_objects())


HEADERS = [
    ("X-Twice", "one"),
    ("X-Twice", "two"),
    ("X-Name", "caf\xe9"),
    ("x-empty", ""),
    ("X-Quoted", '"\\"'),
]


@pytest.mark.parametrize("hooks", [False, True], ids=["bare", "with hooks"])
async def test_it_is_there_after_the_opening_with_everything_that_came(hooks: bool) -> None:
    app = sockrpc.App()
    seen: list[Request | None] = []
    if hooks:
        app.on_connect(lambda socket: seen.append(socket.request))
    hook: Any = (lambda socket, request: seen.append(request)) if hooks else None
    async with serving(app, process_request=hook) as here, here.connect(headers=HEADERS):
        socket = here.only_socket()
        found = socket.request
        assert found is not None
        assert (found.method, found.path, found.protocol) == ("GET", "/socket", "HTTP/1.1")
        assert found.headers.get_all("x-twice") == ["one", "two"]
        assert [each for each in found.headers.raw_items() if each in HEADERS] == HEADERS
        assert found.headers["Upgrade"] == "websocket"
        # Who has asked for it has the same one from then on.
        assert socket.request is found
        if hooks:
            assert seen[0] is seen[1]
            assert seen[0] == found


async def test_what_process_request_changed_in_it_stays_changed() -> None:
    def hook(socket: sockrpc.Socket, request: Request) -> None:
        request.path = "/rewritten"
        request.headers["X-User"] = "ada"

    async with serving(sockrpc.App(), process_request=hook) as here, here.connect():
        found = here.only_socket().request
        assert found is not None
        assert (found.path, found.headers["x-user"]) == ("/rewritten", "ada")


async def test_the_socket_form_has_it_too() -> None:
    seen: list[str] = []

    async def handle(socket: sockrpc.Socket) -> None:
        assert socket.request is not None
        seen.append(socket.request.path)
        async for _ in socket:
            pass

    async with serving(handle) as here, here.connect():
        assert seen == ["/socket"]


@pytest.mark.parametrize("hooks", [False, True], ids=["bare", "with hooks"])
async def test_an_open_connection_keeps_none_of_its_objects_until_it_is_asked(hooks: bool) -> None:
    app = sockrpc.App()
    paths: list[str] = []
    app.method("nothing")(lambda call: None)

    @app.method("path")
    def path(call: sockrpc.Call) -> str:
        assert call.socket.request is not None
        return call.socket.request.path

    def note(socket: sockrpc.Socket) -> None:
        assert socket.request is not None
        paths.append(socket.request.path)

    if hooks:
        app.on_connect(note)
    before = requests_alive()
    async with serving(app) as here, here.connect() as client, here.connect() as other:
        # Calls start when the opening is over.
        assert [await each.call("nothing") for each in (client, other)] == [b"", b""]
        assert requests_alive() == before
        assert await client.call("path") == b"/socket"
        assert requests_alive() == before + 1
    assert paths == ["/socket"] * 2 * hooks


def test_a_packed_request_is_the_same_whatever_its_parts_are() -> None:
    headers = Headers()
    for name, value in [*HEADERS, ("X-Odd", " \udc80\r\n"), ("X-ODD", "\u20ac")]:
        headers.set_insecure(name, value)
    request = Request("/a?b=%20", headers, "GET", "HTTP/1.0")
    found = unpack_request(pack_request(request))
    assert found == request
    assert list(found.headers.raw_items()) == list(headers.raw_items())


def test_a_request_that_can_not_be_packed_stays_as_it_is() -> None:
    headers = Headers()
    headers.set_insecure("X-Odd", "a\0b")
    request = Request("/", headers)
    assert unpack_request(pack_request(request)) is request
