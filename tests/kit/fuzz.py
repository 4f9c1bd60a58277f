"""Runs one target under libFuzzer: ``python -m tests.kit.fuzz TARGET [options and corpora of libFuzzer]``.

`make fuzz` (scripts/fuzz.py) builds what it takes: atheris, and the extensions with coverage counters.
"""

from __future__ import annotations

import sys

import atheris

# What is not compiled gets its counters here; the oracles are none of what is to be explored.
PYTHON = [
    "sockrpc.websocket.bodies",
    "sockrpc.websocket.client_handshake",
    "sockrpc.websocket.exchange",
    "sockrpc.websocket.headers",
    "sockrpc.websocket.server_handshake",
    "websockets.headers",
    "websockets.http11",
]


def main() -> None:
    target = sys.argv[1]
    with atheris.instrument_imports(include=PYTHON, enable_loader_override=False):
        from tests.kit.fuzz_targets import TARGETS
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
