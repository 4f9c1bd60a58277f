"""The inspector from inside: how often it looks for a viewer, and what it holds for one."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

import sockrpc
from sockrpc.observe import inspector as inspection
from tests.kit.looking import Looking, looked_at
from tests.kit.support import serving, until
from tests.kit.work import Work

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no unix sockets here")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "inspect.sock"


async def test_without_a_path_there_is_none() -> None:
    async with serving(Work().app()) as here:
        assert here.server._inspector is None


@pytest.mark.parametrize("interval", ["-1", "0", "1e-9", "1e999", "NaN", "true"])
async def test_an_interval_is_brought_into_its_bounds(interval: str, path: Path) -> None:
    line = b'{"interval": %s}\n' % interval.encode()
    async with looked_at(path, Work().app()) as here, await Looking.at(path, line) as viewer:
        await viewer.told()
        (found,) = here.server._inspector.viewers
        assert 0.5 <= found._interval <= 3600


@pytest.mark.parametrize("before", [b"", b'{"interval": 1}\n'])
async def test_who_sends_more_than_a_line_may_have_is_dropped(before: bytes, path: Path) -> None:
    limit = inspection.MAX_REQUEST_BYTES
    async with looked_at(path, Work().app()) as here:
        async with await Looking.at(path, before + b"x" * (limit - len(before))) as viewer:
            await until(lambda: [each for each in here.server._inspector.viewers if each._received == limit])
            viewer.writer.write(b"x")
            assert await viewer.is_dropped()
        assert not here.server._inspector.viewers


async def test_a_viewer_that_does_not_read_misses_snapshots_and_is_dropped_in_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "SHORTEST_INTERVAL", 0.001)
    monkeypatch.setattr(inspection, "PATIENCE", 0.2)
    # Large snapshots, so that the system's buffers are full soon.
    app = sockrpc.App()
    for number in range(50):
        app.method(f"{number:03}" + "ü" * 120)(lambda call: call.payload)
    async with looked_at(path, app) as here:
        line = socket.socket(socket.AF_UNIX)
        line.connect(str(path))
        line.sendall(b'{"interval": 0.001}\n')
        inspector = here.server._inspector
        await until(lambda: inspector.viewers)
        (viewer,) = inspector.viewers
        await until(lambda: viewer._transport.get_write_buffer_size() > 0)
        held = viewer._transport.get_write_buffer_size()
        # Not a byte more is kept for it than the rest of one snapshot.
        assert held <= len(inspector.line())
        async with here.connect() as client:
            assert await client.call("000" + "ü" * 120, b"x") == b"x"
        assert viewer._transport.get_write_buffer_size() <= held
        await until(lambda: not inspector.viewers)
        line.close()
