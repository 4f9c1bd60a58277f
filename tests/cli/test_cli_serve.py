"""`sockrpc serve`: what it serves, where it listens, and each of its flags."""

from __future__ import annotations

import json
import os
import socket
import ssl
import stat
import sys
import urllib.request
from pathlib import Path

import pytest
import trustme

from tests.kit.command import POSIX, Command, Served, failure, only_line, run_command, run_main

pytestmark = pytest.mark.newest

APP = """
import asyncio
import sockrpc

app = sockrpc.App()
app.method("echo")(lambda call: call.payload)

@app.method
def which_loop(call):
    return type(asyncio.get_running_loop()).__module__

async def handle_socket(socket):
    async for procedure in socket:
        await procedure.respond(procedure.method)

class Holder:
    app = app
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an app in it."""
    (tmp_path / "served.py").write_text(APP)
    return tmp_path


def answer(uri: str, method: str = "echo", payload: str = "hello", *options: str | Path) -> str:
    done = run_main("call", uri, method, payload, *options)
    assert (done.returncode, done.stderr) == (0, b""), done
    return only_line(done.stdout)


def refusal(uri: str, *options: str | Path) -> str:
    return failure(run_main("call", uri, "echo", *options), 4)


def test_an_app_of_the_current_folder(folder: Path) -> None:
    with Served("serve", "served:app", cwd=folder) as server:
        assert server.where == f"http://127.0.0.1:{server.port}/"
        assert answer(server.uri) == "hello"
        # Without --path every path is an endpoint, without --page there is no client for a page.
        assert answer(f"ws://127.0.0.1:{server.port}/elsewhere?query") == "hello"
        assert server.fetch("/sockrpc.js")[0] == 426


@pytest.mark.parametrize(
    ("flags", "path", "elsewhere"),
    [([], "/", 426), (["--path", "/rpc"], "/rpc", 404), (["--path", "/"], "/", 404)],
)
def test_the_address_that_is_printed_says_what_is_there(
    folder: Path, flags: list[str], path: str, elsewhere: int
) -> None:
    with Served("serve", "served:app", *flags, cwd=folder) as server:
        status, headers, body = server.fetch("/")
        assert (status, headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
        endpoint = f"ws://127.0.0.1:{server.port}{path}"
        assert f"sockrpc call {endpoint} METHOD" in body.decode()
        assert answer(endpoint) == "hello"
        status, headers, nothing = server.fetch("/?query", "HEAD")
        assert (status, nothing, headers["Content-Length"]) == (200, b"", str(len(body)))
        # A valid Host may still be a command of a shell, into which people copy the line; it is not repeated.
        assert b"ws://HOST/" in server.fetch("/", Host="a$(b)")[2]
        # For load balancers.
        assert server.fetch("/health")[::2] == (200, b"ok\n")
        assert server.fetch("/nothing")[0] == elsewhere
        if path == "/rpc":
            assert server.fetch(path)[0] == 426
        # A client of WebSocket behind a proxy that drops Upgrade must not believe that it has come to a page.
        stripped = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
        assert server.fetch(path, **stripped)[0] == 426
        assert server.fetch(path, "POST")[0] >= 400


def test_the_address_of_a_server_with_tls_names_wss(folder: Path) -> None:
    certificate = trustme.CA().issue_cert("localhost", "127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "both.pem"))
    with Served("serve", "served:app", "--ssl-certfile", "both.pem", cwd=folder) as server:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with urllib.request.urlopen(server.where, context=context) as page:
            assert f"wss://127.0.0.1:{server.port}/\n".encode() in page.read()


def test_workers_say_what_is_there_too(folder: Path) -> None:
    with Command("serve", "served:app", "--port", "0", "--workers", "2", cwd=folder) as server:
        where = server.line().partition(" ")[0]
        with urllib.request.urlopen(where) as page:
            assert where.replace("http", "ws").encode() in page.read()


def test_a_coroutine_function_of_one_socket(folder: Path) -> None:
    with Served("serve", "served:handle_socket", cwd=folder) as server:
        assert answer(server.uri, "any") == "any"


def test_an_attribute_of_an_attribute_in_a_module_of_a_package(folder: Path) -> None:
    package = folder / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (folder / "served.py").rename(package / "served.py")
    with Served("serve", "package.served:Holder.app", cwd=folder) as server:
        assert answer(server.uri) == "hello"


def test_the_address_to_listen_on(folder: Path) -> None:
    with Served("serve", "served:app", "--host", "0.0.0.0", cwd=folder) as server:
        assert server.where == f"http://0.0.0.0:{server.port}/"
        assert answer(server.uri) == "hello"


def test_an_ipv6_address_is_printed_in_brackets(folder: Path) -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("this system has no IPv6")
    with Served("serve", "served:app", "--host", "::1", cwd=folder) as server:
        assert server.where == f"http://[::1]:{server.port}/"
        assert answer(f"ws://[::1]:{server.port}/") == "hello"


def test_the_port_to_listen_on(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with Command("serve", "served:app", "--port", str(port), cwd=folder) as server:
        assert server.line() == f"http://127.0.0.1:{port}/"
        assert answer(f"ws://127.0.0.1:{port}/") == "hello"


def test_the_line_in_json(folder: Path) -> None:
    with Command("serve", "served:app", "--port", "0", "--json", cwd=folder) as server:
        told = json.loads(server.line())
        assert list(told) == ["listening"]
        assert answer(told["listening"].replace("http", "ws")) == "hello"


@POSIX
def test_a_unix_socket(folder: Path) -> None:
    # Relative, as a socket's path must be short and the folder's own may not be.
    with Command("serve", "served:app", "--uds", "here", cwd=folder) as server:
        assert server.line() == "unix:here"
        assert stat.S_ISSOCK(os.stat(folder / "here").st_mode)
        done = run_main("call", "ws://localhost/", "echo", "hello", "--uds", "here", cwd=folder)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"hello\n", b"")
        told = failure(run_command("serve", "served:app", "--uds", "here", cwd=folder), 1)
        assert "a server listens on here already" in told
        server.process.terminate()
        assert server.end() == 0
    assert not (folder / "here").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="abstract names are those of Linux")
@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["alone", "workers"])
def test_an_abstract_unix_socket(folder: Path, workers: tuple[str, ...]) -> None:
    name = f"@sockrpc-{os.getpid()}"
    with Command("serve", "served:app", "--uds", name, *workers, cwd=folder) as server:
        assert server.line() == f"unix:{name}" + (" (2 workers)" if workers else "")
        done = run_main("call", "ws://localhost/", "echo", "hello", "--uds", name, cwd=folder)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"hello\n", b"")
        told = failure(run_command("serve", "served:app", "--uds", name, *workers, cwd=folder), 1)
        assert "in use" in told
        server.process.terminate()
        assert server.end() == 0
    told = failure(run_main("call", "ws://localhost/", "echo", "hello", "--uds", name, cwd=folder), 4)
    assert "refused" in told


@POSIX
def test_a_file_where_the_unix_socket_should_be_stays(folder: Path) -> None:
    told = failure(run_command("serve", "served:app", "--uds", "served.py", cwd=folder), 1)
    assert "served.py exists and is not a socket" in told
    assert (folder / "served.py").read_text() == APP


@pytest.mark.parametrize("in_one_file", [False, True])
def test_tls(folder: Path, in_one_file: bool) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / "both.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(str(folder / "chain.pem"), append=True)
    flags = ["--ssl-certfile", "both.pem"]
    if not in_one_file:
        flags = ["--ssl-certfile", "chain.pem", "--ssl-keyfile", "key.pem"]
    with Served("serve", "served:app", *flags, cwd=folder) as server:
        assert server.where == f"https://127.0.0.1:{server.port}/"
        uri = f"wss://localhost:{server.port}/"
        if in_one_file:
            assert "CERTIFICATE_VERIFY_FAILED" in refusal(uri)
        else:
            assert answer(uri, "echo", "hello", "--cafile", folder / "ca.pem") == "hello"


def test_the_path_of_the_endpoint(folder: Path) -> None:
    with Served("serve", "served:app", "--path", "/rpc", cwd=folder) as server:
        assert answer(f"ws://127.0.0.1:{server.port}/rpc?query") == "hello"
        assert "HTTP 404" in refusal(server.uri)


def test_a_page(folder: Path) -> None:
    page = folder / "page.html"
    page.write_text("<p>first</p>")
    flags = ["--page", "page.html", "--path", "/socket"]
    with Served("serve", "served:app", *flags, cwd=folder) as server:
        status, headers, body = server.fetch("/?query")
        assert (status, body) == (200, b"<p>first</p>")
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        page.write_text("<p>second</p>")
        assert server.fetch("/")[2] == b"<p>second</p>"
        assert server.fetch("/", "HEAD")[2] == b""
        status, headers, body = server.fetch("/sockrpc.js")
        assert (status, headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
        assert b"class SocketIo" in body
        assert server.fetch("/health")[::2] == (200, b"ok\n")
        # Neither the page by its name, nor what lies beside it.
        assert server.fetch("/page.html")[0] == 404
        assert server.fetch("/served.py")[0] == 404
        assert server.fetch("/../served.py")[0] == 404
        assert answer(server.uri) == "hello"


def test_other_origins_are_let_in_when_they_are_named(folder: Path) -> None:
    here = "http://127.0.0.1:1"
    friend, stranger = "https://friend.example", "https://stranger.example"
    with Served(
        "serve", "served:app", "--origin", "https://a.example", "--origin", friend, cwd=folder
    ) as server:
        for origin in (here, friend):
            assert answer(server.uri, "echo", "hello", "--header", f"Origin: {origin}") == "hello"
        told = refusal(server.uri, "--header", f"Origin: {stranger}")
        assert "HTTP 403" in told
        assert stranger in told
        server.wait_log(stranger)
    with Served("serve", "served:app", "--origin", "*", cwd=folder) as server:
        assert answer(server.uri, "echo", "hello", "--header", f"Origin: {stranger}") == "hello"


def test_a_limit_at_its_edge(folder: Path) -> None:
    # Opcode, id, flags, time-out, length of the name and the name stand before the payload; in v0.1 without
    # flags and time-out.
    most = 100 - len(b"\x05" + bytes(4) + b"\x01" + bytes(4) + b"\x04echo")
    old = ["--protocol", "websocket.io-rpc-v0.1"]
    with Served("serve", "served:app", "--max-message-bytes", "100", cwd=folder) as server:
        assert answer(server.uri, "echo", "x" * most) == "x" * most
        done = run_main("call", server.uri, "echo", "x" * (most + 1))
        assert (done.returncode, done.stdout) == (3, b"")
        text = "the call has 101 bytes, and the peer takes 100 in a message"
        assert only_line(done.stderr) == f"RESOURCE_EXHAUSTED: {text}"
        assert answer(server.uri, "echo", "x" * (most + 5), *old) == "x" * (most + 5)
        done = run_main("call", server.uri, "echo", "x" * (most + 6), *old)
        assert failure(done, 1).startswith("sockrpc: ConnectionLost: 1009")


@pytest.mark.parametrize("kind", ["asyncio", pytest.param("uvloop", marks=POSIX)])
def test_the_event_loop(folder: Path, kind: str) -> None:
    with Served("serve", "served:app", "--loop", kind, cwd=folder) as server:
        assert answer(server.uri, "which_loop").startswith(kind)


def test_the_log_goes_to_stderr_from_the_level_on(folder: Path) -> None:
    with Served("serve", "served:app", cwd=folder) as server:
        server.wait_log("listening on")
    with Served("serve", "served:app", "--log-level", "WARNING", cwd=folder) as server:
        with Command("call", server.uri, "nonsense") as calling:
            server.wait_log("nobody registered method 'nonsense'")
            calling.process.kill()
        assert not server.logged("listening on")
