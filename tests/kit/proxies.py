"""nginx and HAProxy in front of a server, by the files of examples/ but for ports and certificates."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import sockrpc
from tests.kit.processes import ROOT, is_listening, reserved_port
from tests.kit.programs import load
from tests.kit.support import until
from tests.kit.tls import authority, client_context

# Where Debian keeps what only root may call, by path.
PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
KINDS = ("nginx", "haproxy")


def missing(kind: str) -> str:
    """Why a proxy can not be run here; empty if it can."""
    if shutil.which(kind, path=PATH) is None:
        return f"there is no {kind} (Debian: apt-get install {kind}{'-light' * (kind == 'nginx')})"
    if kind == "nginx" and os.geteuid() != 0:
        return "Debian's nginx writes below /var/lib/nginx, which only root may"
    return ""


def replace(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, f"{old!r} is not in the file"
        text = text.replace(old, new)
    return text


class Proxy:
    """A proxy that runs.

    Attributes:
        server: The server behind it.
        uri: The endpoint, as clients of the proxy see it.
    """

    def __init__(self, kind: str, folder: Path, port: int, server: sockrpc.Server) -> None:
        self.kind = kind
        self.port = port
        self.server = server
        self.uri = f"wss://127.0.0.1:{port}/socket"
        self._config = folder / f"{kind}.conf"
        self._process: subprocess.Popen[bytes] | None = None

    def connect(self, **options: Any) -> sockrpc.connect:
        return sockrpc.connect(self.uri, ssl=client_context(), **options)

    def write_config(self, **times: str) -> None:
        """The file of examples/ with other ports and certificates, and with the times that a test wants."""
        folder = self._config.parent
        certificate = authority().issue_cert("127.0.0.1")
        (folder / "cert.pem").write_bytes(b"".join(each.bytes() for each in certificate.cert_chain_pems))
        (folder / "key.pem").write_bytes(certificate.private_key_pem.bytes())
        (folder / "both.pem").write_bytes(certificate.private_key_and_cert_chain_pem.bytes())
        behind = self.server.sockets[0].getsockname()[1]
        changes = {"127.0.0.1:3000": f"127.0.0.1:{behind}"}
        if self.kind == "nginx":
            changes |= {
                "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
                "/etc/ssl/rpc.example.org/": f"{folder}/",
            }
        else:
            changes |= {
                "bind :443": f"bind 127.0.0.1:{self.port}",
                "/etc/haproxy/rpc.example.org.pem": f"{folder}/both.pem",
            }
        name = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg"}[self.kind]
        text = (ROOT / "examples" / name).read_text("utf-8")
        self._config.write_text(replace(text, changes | times), encoding="utf-8")

    async def start(self) -> None:
        program = shutil.which(self.kind, path=PATH)
        assert program is not None
        main = f"daemon off; pid {self._config.parent}/pid; error_log stderr;"
        arguments = {
            "nginx": ["-c", str(self._config), "-g", main],
            "haproxy": ["-W", "-f", str(self._config), "-p", str(self._config.parent / "pid")],
        }[self.kind]
        self._process = await asyncio.to_thread(
            subprocess.Popen,
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        await until(lambda: is_listening(self.port) or self.has_ended())
        assert not self.has_ended(), self._process.communicate()

    def has_ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def stop(self) -> None:
        """Ends it at once, and what it has started with it."""
        assert self._process is not None
        self._process.terminate()
        await asyncio.to_thread(self._process.communicate, None, 10)


@contextlib.asynccontextmanager
async def behind(kind: str, folder: Path, times: dict[str, str], **options: Any) -> AsyncIterator[Proxy]:
    """The server of examples/behind_a_proxy.py, and a proxy in front of it."""
    program = load("behind_a_proxy")
    with reserved_port() as port:
        options.setdefault("process_request", program.process_request)
        async with sockrpc.serve(
            program.app, "127.0.0.1", 0, path="/socket", stop_grace=2, **options
        ) as server:
            proxy = Proxy(kind, folder, port, server)
            proxy.write_config(**times)
            await proxy.start()
            try:
                yield proxy
            finally:
                await proxy.stop()
