"""examples/nginx.conf: what comes of leaving out a line that its comments say is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

import sockrpc
from tests.kit.processes import ROOT
from tests.kit.proxies import behind, missing

pytestmark = [pytest.mark.docs, pytest.mark.skipif(bool(missing("nginx")), reason=missing("nginx"))]


@pytest.mark.parametrize(
    ("left_out", "status"),
    [
        (["proxy_http_version 1.1;"], 505),
        (["proxy_set_header Upgrade ", "proxy_set_header Connection "], 426),
        (["proxy_set_header Host "], 403),
    ],
    ids=["version", "upgrade", "host"],
)
async def test_without_its_lines_nobody_is_let_in(left_out: list[str], status: int, tmp_path: Path) -> None:
    text = (ROOT / "examples" / "nginx.conf").read_text("utf-8").splitlines(keepends=True)
    lines = [line for line in text if line.lstrip().startswith(tuple(left_out))]
    assert len(lines) == len(left_out)
    async with behind("nginx", tmp_path, dict.fromkeys(lines, "")) as proxy:
        with pytest.raises(sockrpc.HandshakeError) as refused:
            await proxy.connect(origin="https://127.0.0.1")
        assert refused.value.status == status
