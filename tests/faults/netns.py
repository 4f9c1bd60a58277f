"""Two hosts in network namespaces: a server's and a client's, and the line between them.

The client's host is where this very thread creates its sockets while `Network.entered` lasts; the server
is a process. Two lines lead from one to the other: a veth pair (loss by nftables, rate by tbf) and a pair
of TUN devices that `forwarder.py` joins (delay). Unix sockets know no network, so the server is watched
through one whatever the line does.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

import sockrpc
from tests.kit.processes import ROOT
from tests.kit.support import PATIENCE

CLONE_NEWNET = 0x40000000
PREFIX = "sockrpc"
SERVER, CLIENT = "10.98.0.1", "10.98.0.2"
DELAYED_SERVER, DELAYED_CLIENT = "10.99.0.1", "10.99.0.2"
PROGRAMS = Path(__file__).parent

numbers = itertools.count()


def missing() -> str | None:
    """What this machine lacks for two hosts of its own; None if nothing."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    if not os.path.exists("/dev/net/tun"):
        return "there is no /dev/net/tun"
    tools = [tool for tool in ("ip", "tc", "nft") if tool_path(tool) is None]
    if tools:
        return f"there is no {', '.join(tools)} (Debian: apt-get install iproute2 nftables)"
    made = try_namespace()
    return f"this machine makes no network namespaces: {made}" if made else None


def tool_path(tool: str) -> str | None:
    return shutil.which(tool, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")


@functools.cache
def try_namespace() -> str:
    """Why the system lets nobody make a namespace, such as in a container; empty if it does."""
    name = f"{PREFIX}-{os.getpid()}-try"
    done = subprocess.run(
        [str(tool_path("ip")), "netns", "add", name], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        run("ip", "netns", "del", name)
    return done.stderr.strip()


def needs_namespaces() -> pytest.MarkDecorator:
    lacks = missing()
    return pytest.mark.skipif(lacks is not None, reason=str(lacks))


def run(tool: str, *arguments: str, given: str = "") -> str:
    """Run a tool of the system, which must succeed."""
    done = subprocess.run(
        [str(tool_path(tool)), *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{tool} {' '.join(arguments)}: {done.stderr}{given}"
    return done.stdout


def enter(namespace: int) -> None:
    """Let this thread create its sockets in another network namespace, given by its descriptor."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class Host:
    """One of the two hosts: a namespace with its end of the veth pair."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.device = f"{name[-1]}-veth"
        self.address = address

    def ip(self, *arguments: str) -> str:
        return run("ip", "-netns", self.name, *arguments)

    def nft(self, rules: str) -> None:
        run("ip", "netns", "exec", self.name, str(tool_path("nft")), "-f", "-", given=rules)

    def drop_incoming(self, condition: str = "") -> None:
        """Drop what arrives, all or what nftables' expression names, and nothing else any more."""
        self.restore_incoming()
        # Not what leaves: the sender would be told.
        chain = "type filter hook input priority 0; policy accept;"
        self.nft(f"table inet faults {{\nchain input {{\n{chain}\n{condition} drop\n}}\n}}\n")

    def restore_incoming(self) -> None:
        self.nft("flush ruleset\n")

    def limit_rate(self, rate: str) -> None:
        """Send at most so fast, in tc's words such as "1mbit", with a queue of 0.15 s."""
        tbf = ("tbf", "rate", rate, "burst", "5kb", "latency", "150ms")
        run("tc", "-netns", self.name, "qdisc", "replace", "dev", self.device, "root", *tbf)


class Network:
    """Two hosts and the line between them; everything is gone at the end of the block.

    Attributes:
        server: The server's host.
        client: The client's.
    """

    def __init__(self) -> None:
        name = f"{PREFIX}-{os.getpid()}-{next(numbers)}"
        self.server = Host(f"{name}-s", SERVER)
        self.client = Host(f"{name}-c", CLIENT)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        remove_abandoned()
        with contextlib.ExitStack() as stack:
            for host in (self.server, self.client):
                run("ip", "netns", "add", host.name)
                stack.callback(run, "ip", "netns", "del", host.name)
            self.server.ip(
                *("link", "add", self.server.device, "type", "veth"),
                *("peer", "name", self.client.device, "netns", self.client.name),
            )
            for host, other in ((self.server, self.client), (self.client, self.server)):
                host.ip("addr", "add", f"{host.address}/24", "dev", host.device)
                host.ip("link", "set", host.device, "up")
                host.ip("link", "set", "lo", "up")
                # And waits of a second at most, where the kernel (6.15) can be told; else of minutes.
                longest = "/proc/sys/net/ipv4/tcp_rto_max_ms"
                run(
                    "ip",
                    "netns",
                    "exec",
                    host.name,
                    "sh",
                    "-c",
                    f"[ ! -e {longest} ] || echo 1000 > {longest}",
                )
                # So that loss costs a test milliseconds; the system's own least is 200.
                route = ("dev", host.device, "src", host.address, "rto_min", "20ms")
                host.ip("route", "replace", f"{other.address}/32", *route)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be on the client's host."""
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{self.client.name}") as there:
            enter(there.fileno())
            try:
                yield
            finally:
                enter(home.fileno())

    def lose(self, percent: int) -> None:
        """Lose that share of all packets, at random, in both directions."""
        for host in (self.server, self.client):
            host.drop_incoming(f"numgen random mod 100 < {percent}")

    def die(self) -> None:
        """Lose everything, without a word to anybody."""
        for host in (self.server, self.client):
            host.drop_incoming()

    def restore(self) -> None:
        """Lose nothing any more."""
        for host in (self.server, self.client):
            host.restore_incoming()

    @contextlib.contextmanager
    def delayed(self, seconds: float, jitter: float = 0.0) -> Iterator[None]:
        """A second line, between DELAYED_SERVER and DELAYED_CLIENT, on which each way takes so long."""
        hosts = (f"{self.server.name}={DELAYED_SERVER}", f"{self.client.name}={DELAYED_CLIENT}")
        with program("forwarder.py", str(seconds), str(jitter), *hosts) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            for host, address in (hosts[0].split("="), hosts[1].split("=")):
                run("ip", "-netns", host, "addr", "add", f"{address}/24", "dev", "tun0")
                run("ip", "-netns", host, "link", "set", "tun0", "up")
            yield

    @contextlib.asynccontextmanager
    async def serving(self, folder: Path, **options: Any) -> AsyncIterator[FarServer]:
        """The server of `line_server.py` on the server's host; limits and the like are keywords."""
        watched = str(folder / "watch")
        given = json.dumps(options)
        with program("line_server.py", watched, given, namespace=self.server.name) as process:
            assert process.stdout is not None
            port = int(await asyncio.to_thread(process.stdout.readline))
            async with sockrpc.connect("ws://watch/", uds=watched, ping_interval=None) as watch:
                yield FarServer(process, port, watch)


class FarServer:
    """A server on another host, and a way to look at it that does not lead over the line."""

    def __init__(self, process: subprocess.Popen[str], port: int, watch: sockrpc.Client) -> None:
        self.process = process
        self.port = port
        self.watch = watch

    def uri(self, address: str = SERVER) -> str:
        return f"ws://{address}:{self.port}/socket"

    async def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(await self.watch.call("report", timeout=PATIENCE))
        return report

    async def until(self, condition: Any, patience: float = PATIENCE) -> dict[str, Any]:
        """The first report of which `condition` holds."""
        async with asyncio.timeout(patience):
            while True:
                report = await self.report()
                if condition(report):
                    return report

    async def settled(self) -> dict[str, Any]:
        """Wait until it has noticed the end of every line and of all work; hold it to its sums."""
        report = await self.until(lambda report: report["attached"] == 0 and report["calls_running"] == 0)
        assert report["calls_in_flight"] == report["procedures_waiting"] == report["connections"] == 0
        aborted = sum(report[f"calls_{reason}"] for reason in ("reset", "lost", "timed_out", "stopped"))
        ended = report["calls_answered"] + report["calls_failed"] + aborted
        assert report["calls_started"] <= ended, report
        assert report["errors"] == [], report
        # Each work that was cancelled was cancelled once.
        assert report["cancels"] == [1] * len(report["cancels"]), report
        return report

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)


@contextlib.contextmanager
def program(name: str, *arguments: str, namespace: str | None = None) -> Iterator[subprocess.Popen[str]]:
    """A program of this folder as a process, in a network namespace; killed at the end of the block."""
    inside = [] if namespace is None else [str(tool_path("ip")), "netns", "exec", namespace]
    command = [*inside, sys.executable, "-P", "-W", "error", str(PROGRAMS / name), *arguments]
    # Programs import tests.kit; the folder of the sources would hide the package that was built.
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=environ
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def remove_abandoned() -> None:
    """Remove the namespaces of test runs that were killed: no process has the number in their name."""
    for line in run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        parts = name.split("-")
        if parts[0] == PREFIX and len(parts) > 1 and not os.path.exists(f"/proc/{parts[1]}"):
            subprocess.run([str(tool_path("ip")), "netns", "del", name], capture_output=True, check=False)
