"""examples/behind_a_proxy.py without a proxy: whom it takes a client for, whatever the headers are."""

from __future__ import annotations

import pytest

import sockrpc
from tests.kit.http_peer import ask
from tests.kit.programs import load
from tests.kit.support import serving

pytestmark = pytest.mark.newest


async def address(*values: str, proxies: tuple[str, ...] = ("127.0.0.1",)) -> str:
    program = load("behind_a_proxy")
    program.PROXIES = set(proxies)
    headers = [("X-Forwarded-For", value) for value in values]
    async with (
        serving(program.app, path="/socket", process_request=program.process_request) as here,
        sockrpc.connect(here.uri, headers=headers) as client,
    ):
        return (await client.call("myip")).decode()


@pytest.mark.parametrize(
    "values",
    [
        ("192.0.2.7",),
        (" 192.0.2.7 ",),
        ("10.0.0.1, 192.0.2.7",),
        ("10.0.0.1", "192.0.2.7"),
        ("evil, 10.0.0.1", "10.0.0.2,192.0.2.7"),
    ],
)
async def test_the_proxy_s_own_word_is_the_last_one(values: tuple[str, ...]) -> None:
    assert await address(*values) == "192.0.2.7"
    assert await address(*values, proxies=("192.0.2.1",)) == "127.0.0.1"


@pytest.mark.parametrize("values", [(), ("",), (",",), ("", "")])
async def test_without_a_word_the_client_is_who_connects(values: tuple[str, ...]) -> None:
    assert await address(*values) == "127.0.0.1"


@pytest.mark.parametrize("target", ["/health", "/health?from=probe", "http://x/health", "/%68ealth"])
@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
async def test_the_proxy_learns_that_the_server_is_alive(target: str, protocol: str) -> None:
    program = load("behind_a_proxy")
    async with serving(program.app, path="/socket", process_request=program.process_request) as here:
        host = "Host: x\r\n" if protocol == "HTTP/1.1" else ""
        answer = await ask(here.port, f"GET {target} {protocol}\r\n{host}\r\n".encode())
        assert (answer.status, answer.body) == (200, b"ok\n")
