"""The load for grpc.aio: nghttp2's h2load, and a client of grpc.aio for calls that are cancelled or held."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from bench.arena import ROOT, Contender, Result, alone, one_shot, python
from bench.loading import PATIENCE, Conversation, LoadError, on_core
from bench.machine import LOAD_CORE
from bench.tables import quantiles
from bench.wire import pattern

# A gRPC message on HTTP/2 has a byte for "not compressed" and its length before it.
PREFIX_BYTES = 5
SUMMARY = re.compile(r"finished in [\d.]+\w+, ([\d.]+) req/s")
OUTCOMES = re.compile(r"requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")
DATA = re.compile(r"\((\d+)\) data")


def run(command: list[str], seconds: float) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE + seconds, check=True)
    return done.stdout


class Grpc:
    """A server of `peers.grpc_server`."""

    def __init__(self, port: int) -> None:
        self.port = port

    def check(self) -> None:
        """Check that answers are right, which h2load does not do."""
        one_shot(python("peers.grpc_client", "check", str(self.port)), PATIENCE)

    def calls(self, *, connections: int, in_flight: int, seconds: float, size: int = 32) -> Result:
        """Return the result of `load calls`, measured by h2load.

        Raises:
            LoadError: A call failed, or an answer had another length than the request.
        """
        with tempfile.TemporaryDirectory() as folder:
            body, log = Path(folder, "body"), Path(folder, "log")
            body.write_bytes(b"\0" + size.to_bytes(4) + pattern(size))
            output = ""
            # The first run warms up: h2load's own option for that counts its bytes among the others.
            for duration in (0.2, seconds):
                log.unlink(missing_ok=True)
                command = [
                    "h2load",
                    *("-c", str(connections), "-m", str(in_flight), "-D", f"{int(duration * 1000)}ms"),
                    *("-d", str(body), f"--log-file={log}"),
                    *("-H", "content-type: application/grpc", "-H", "te: trailers"),
                    f"http://127.0.0.1:{self.port}/bench/plain",
                ]
                output = run(on_core(LOAD_CORE, command), seconds)
            trips = [float(line.split("\t")[2]) for line in log.read_text().splitlines()]
        return self.read(output, trips, size, connections * in_flight)

    @staticmethod
    def read(output: str, trips: list[float], size: int, in_flight: int) -> Result:
        """Extract the figures from the output of h2load.

        Raises:
            LoadError: Calls failed, or their answers had the wrong length.
        """
        rate, outcomes, data = (pattern.search(output) for pattern in (SUMMARY, OUTCOMES, DATA))
        if not rate or not outcomes or not data:
            raise LoadError(f"unexpected output of h2load:\n{output}")
        succeeded, *others = (int(count) for count in outcomes.groups())
        each = PREFIX_BYTES + size
        # Bytes of unfinished answers count too; those of calls from before its count began do not.
        if any(others) or not succeeded or abs(int(data[1]) - succeeded * each) > in_flight * each:
            raise LoadError(f"grpc.aio did not answer every call:\n{output}")
        return {"answers_per_second": float(rate[1]), "answers": succeeded, "round_trip_us": quantiles(trips)}

    def resets(self, seconds: float) -> Result:
        return one_shot(
            on_core(LOAD_CORE, python("peers.grpc_client", "reset", str(self.port), str(seconds))), seconds
        )

    @staticmethod
    def held(port: int, connections: int, calls: int) -> Conversation:
        words = ("peers.grpc_client", "hold", str(port), str(connections), str(calls))
        conversation = Conversation(on_core(LOAD_CORE, python(*words)), cwd=ROOT)
        assert conversation.hear() == "ready"
        return conversation

    @classmethod
    def more_bytes(cls, contender: Contender, connections: int, calls: int) -> float:
        with alone(contender) as server, cls.held(server.port, 1, 1):
            before = server.private_bytes()
            with cls.held(server.port, connections, calls):
                return float(server.private_bytes() - before)

    @classmethod
    def idle_bytes(cls, contender: Contender, connections: int) -> dict[str, Any]:
        return {"bytes": cls.more_bytes(contender, connections, 0) / connections, "count": connections}

    @classmethod
    def call_bytes(cls, contender: Contender, connections: int, calls: int) -> dict[str, Any]:
        count = connections * calls
        return {"bytes": cls.more_bytes(contender, connections, calls) / count, "count": count}
