"""Autobahn's test-suite, the outside judge of the WebSocket level, in both roles.

A selection in `make test`; with CONFORMANCE=all, which `make conformance` sets, every case.
"""

from __future__ import annotations

import os

import pytest

from tests.conformance.autobahn import AGENT, REPORTS, client_role, deal, server_role
from tests.conformance.judging import CASES, complaints, read_results, summary

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(7200)]

EVERYTHING = os.environ.get("CONFORMANCE") == "all"
# Whole sections but those of sizes and of compression; of these, some short ones of each kind.
QUICK_SECTIONS = frozenset({"1", "2", "3", "4", "5", "6", "7", "10"})
QUICK_CASES = frozenset(
    {"9.1.2", "9.2.2", "9.3.5", "9.4.5", "9.7.2", "9.8.2"}
    | {"12.1.1", "12.5.1", "13.1.1", "13.3.1", "13.6.1", "13.7.1"}
)
QUICK = [case for case in CASES if case.partition(".")[0] in QUICK_SECTIONS or case in QUICK_CASES]


@pytest.mark.parametrize("role", ["server", "client"])
def test_every_case_passes(role: str) -> None:
    cases = CASES if EVERYTHING else QUICK
    shares = deal(cases, 2)
    if role == "server":
        folders = server_role(shares)
    else:
        # Most of the short ones wait for a second; the long ones would keep each other waiting.
        folders = client_role(shares, at_a_time=1 if EVERYTHING else 4)
    results, wrong = read_results(folders, AGENT)
    text = summary(role, results)
    (REPORTS / f"{role}.txt").write_text(text)
    print(text)
    assert wrong + complaints(results, cases) == []
