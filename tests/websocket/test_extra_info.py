"""`socket.get_extra_info`: certificates, the process behind a unix socket, addresses; also after the end."""

from __future__ import annotations

import asyncio
import errno
import os
import socket as socket_module
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest

import sockrpc
import sockrpc.websocket.credentials
from sockrpc.websocket.credentials import UCRED, XUCRED, peer_credentials
from tests.kit.inside import transport_of
from tests.kit.programs import load
from tests.kit.support import PATIENCE, RawClient, opening, serving, until
from tests.kit.tls import authority, client_context, server_context

pytestmark = pytest.mark.outside

KEPT = ("peername", "sockname", "peercert", "peercred", "cipher")
GONE = ("ssl_object", "socket", "nothing")


def demanding_context(mode: ssl.VerifyMode = ssl.CERT_REQUIRED) -> ssl.SSLContext:
    context = server_context()
    authority().configure_trust(context)
    context.verify_mode = mode
    return context


def context_of(*names: str) -> ssl.SSLContext:
    context = client_context()
    if names:
        authority().issue_cert(*names).configure_cert(context)
    return context


def names_of(certificate: Any) -> list[str]:
    return [name for kind, name in certificate["subjectAltName"] if kind == "DNS"]


class Asking:
    """An app and its hook, each of which asks for everything whenever it runs."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[str, Any]] = {}
        self.app = sockrpc.App()
        self.app.on_connect(lambda socket: self.ask("on_connect", socket))
        self.app.on_disconnect(lambda socket: self.ask("on_disconnect", socket))
        self.app.method("ask")(lambda call: self.ask("handler", call.socket))
        self.sockets: list[sockrpc.Socket] = []

    def process_request(self, socket: sockrpc.Socket, request: object) -> None:
        self.sockets.append(socket)
        self.ask("process_request", socket)

    def ask(self, when: str, socket: sockrpc.Socket) -> None:
        self.seen[when] = {name: socket.get_extra_info(name) for name in (*KEPT, *GONE)}

    def kept(self, when: str) -> dict[str, Any]:
        return {name: self.seen[when][name] for name in KEPT}

    async def check(self) -> dict[str, Any]:
        """Everybody has seen the same; returns it."""
        await until(lambda: "on_disconnect" in self.seen)
        (socket,) = self.sockets
        await until(lambda: transport_of(socket) is None)
        self.ask("afterwards", socket)
        first = self.kept("process_request")
        assert [self.kept(when) for when in self.seen] == [first] * 5
        assert {name: self.seen["afterwards"][name] for name in GONE} == dict.fromkeys(GONE)
        assert socket.remote_address == first["peername"]
        return first


async def test_the_certificate_of_a_client_is_told_from_the_first_hook_to_after_the_end() -> None:
    there = Asking()
    async with serving(there.app, ssl=demanding_context(), process_request=there.process_request) as here:
        uri = here.uri.replace("ws:", "wss:")
        async with sockrpc.connect(uri, ssl=context_of("alice.example", "127.0.0.1")) as client:
            await client.call("ask")
            address = here.only_socket().remote_address
        seen = await there.check()
    assert names_of(seen["peercert"]) == ["alice.example"]
    assert seen["peername"] == address
    assert seen["sockname"] == ("127.0.0.1", here.port)
    assert seen["cipher"][1].startswith("TLS")
    assert seen["peercred"] is None


@pytest.mark.parametrize("how", ["end of file", "reset", "refused while lost"])
async def test_it_is_known_however_the_connection_was_lost(how: str) -> None:
    there = Asking()
    begun = asyncio.Event()
    ended: list[Any] = []

    async def process_request(socket: sockrpc.Socket, request: object) -> None:
        there.process_request(socket, request)
        if how == "refused while lost":
            begun.set()
            try:
                await asyncio.sleep(60)
            finally:
                ended.append({name: socket.get_extra_info(name) for name in KEPT})

    async with serving(there.app, ssl=demanding_context(), process_request=process_request) as here:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", here.port, ssl=context_of("alice.example")
        )
        raw = RawClient(reader, writer)
        await raw.send(opening())
        if how == "refused while lost":
            await begun.wait()
            raw.reset_line()
            await until(lambda: ended)
            assert ended == [there.kept("process_request")]
            return
        async with asyncio.timeout(PATIENCE):
            await reader.readuntil(b"\r\n\r\n")
        await until(lambda: "on_connect" in there.seen)
        there.ask("handler", here.only_socket())
        if how == "reset":
            raw.reset_line()
        else:
            await raw.close()
        seen = await there.check()
    assert names_of(seen["peercert"]) == ["alice.example"]
    assert seen["peername"][0] == "127.0.0.1"


@pytest.mark.parametrize("mode", [ssl.CERT_NONE, ssl.CERT_OPTIONAL])
async def test_a_client_without_a_certificate_has_an_empty_one_or_none(mode: ssl.VerifyMode) -> None:
    there = Asking()
    async with serving(there.app, ssl=demanding_context(mode), process_request=there.process_request) as here:
        async with sockrpc.connect(here.uri.replace("ws:", "wss:"), ssl=context_of()) as client:
            await client.call("ask")
            tls = here.only_socket().get_extra_info("ssl_object")
            assert tls.getpeercert(binary_form=True) is None
        assert not (await there.check())["peercert"]


@pytest.mark.parametrize("how", ["close", "end of file", "reset"])
async def test_a_plain_connection_tells_its_addresses(how: str) -> None:
    there = Asking()
    async with serving(there.app, process_request=there.process_request) as here:
        raw = await here.raw()
        await until(lambda: "on_connect" in there.seen)
        there.ask("handler", here.only_socket())
        address = raw.writer.get_extra_info("sockname")
        assert here.only_socket().remote_address == address
        if how == "close":
            await here.only_socket().close()
        if how == "reset":
            raw.reset_line()
        else:
            await raw.close()
        seen = await there.check()
    assert seen == {
        "peername": address,
        "sockname": ("127.0.0.1", here.port),
        "peercert": None,
        "peercred": None,
        "cipher": None,
    }


async def test_what_is_not_known_is_the_default() -> None:
    async with serving(sockrpc.App()) as here, await here.raw() as raw:
        socket = here.only_socket()
        for name in ("peercert", "peercred", "nothing"):
            assert socket.get_extra_info(name) is None
            assert socket.get_extra_info(name, "default") == "default"
        assert socket.get_extra_info("socket").fileno() > 0
        await raw.close()
        await until(lambda: not here.server.connections)
        assert socket.get_extra_info("peercred", "default") == "default"


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="the system does not tell")
@pytest.mark.parametrize("secure", [False, True])
async def test_the_process_behind_a_unix_socket_is_told(secure: bool, tmp_path: Path) -> None:
    there = Asking()
    path = str(tmp_path / "socket")
    tls = demanding_context() if secure else None
    async with sockrpc.serve(there.app, uds=path, ssl=tls, process_request=there.process_request):
        uri = f"{'wss' if secure else 'ws'}://localhost/"
        ours = context_of("alice.example") if secure else None
        async with sockrpc.connect(uri, uds=path, ssl=ours) as client:
            await client.call("ask")
        seen = await there.check()
    assert seen["peercred"] == (os.getpid(), os.getuid(), os.getgid())
    assert seen["peercred"].uid == os.getuid()
    assert (seen["peercert"] is not None) == secure


class Line:
    """A unix socket of another system, as far as it is asked."""

    family = getattr(socket_module, "AF_UNIX", 1)

    def __init__(self, answers: dict[tuple[int, int, int], bytes]) -> None:
        self.answers = answers

    def getsockopt(self, level: int, name: int, size: int) -> bytes:
        try:
            return self.answers[level, name, size]
        except KeyError:
            raise OSError(errno.ENOTCONN, "not connected") from None


def test_macos_tells_it_by_two_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockrpc.websocket.credentials.sys, "platform", "darwin")
    # sys/ucred.h: a version, the user, a count, and room for 16 groups.
    assert XUCRED.size == 76
    groups = [20, 12, 61] + [0] * 13
    answers = {(0, 1, 76): XUCRED.pack(0, 501, 3, *groups), (0, 2, 4): (4711).to_bytes(4, sys.byteorder)}
    assert peer_credentials(Line(answers)) == (4711, 501, 20)
    assert peer_credentials(Line({})) is None


def test_elsewhere_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for platform in ("win32", "freebsd14"):
        monkeypatch.setattr(sockrpc.websocket.credentials.sys, "platform", platform)
        assert peer_credentials(Line({})) is None


@pytest.mark.skipif(sys.platform != "linux", reason="another system's structure")
def test_a_peer_that_is_gone_is_nobody() -> None:
    # Users and groups are not signed: "nobody" may be 2**32 - 2.
    nobody = UCRED.pack(4711, 2**32 - 2, 2**32 - 1)
    assert peer_credentials(Line({(1, 17, 12): nobody})) == (4711, 4294967294, 4294967295)
    assert peer_credentials(Line({})) is None
    assert peer_credentials(None) is None


@pytest.mark.runs("examples/client_certificates.py")
async def test_the_example_knows_its_users_by_their_certificates() -> None:
    program = load("client_certificates")

    async def whoami(here: Any, *names: str) -> str:
        uri = here.uri.replace("ws:", "wss:")
        async with sockrpc.connect(uri, ssl=context_of(*names)) as client:
            return (await client.call("whoami")).decode()

    async with serving(
        program.app, ssl=demanding_context(), path="/socket", process_request=program.process_request
    ) as here:
        assert await whoami(here, "alice.example") == "alice.example"
        for names in (("127.0.0.1",), ("alice.example", "bob.example")):
            with pytest.raises(sockrpc.HandshakeError, match="one name") as raised:
                await whoami(here, *names)
            assert raised.value.status == 403
