"""The judgement over Autobahn's reports: that it can fail, and at what."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.judging import (
    CASES,
    INFORMATIONAL,
    NON_STRICT,
    Results,
    complaints,
    read_results,
    summary,
)

pytestmark = pytest.mark.newest

OUTCOMES = [
    "FAILED",
    "UNCLEAN",
    "WRONG CODE",
    "FAILED BY CLIENT",
    "UNIMPLEMENTED",
    "NON-STRICT",
    "INFORMATIONAL",
    "",
]


def good_results() -> Results:
    """What a report must say, as far as it is judged."""
    results = {case: result("OK", "OK") for case in CASES}
    results |= {case: result("INFORMATIONAL", "INFORMATIONAL") for case in INFORMATIONAL}
    return results | {case: result("NON-STRICT", "OK") for case in NON_STRICT}


def result(behavior: str, closing: str) -> dict[str, Any]:
    return {"behavior": behavior, "behaviorClose": closing, "duration": 1, "remoteCloseCode": 1000}


def test_the_cases_are_those_of_the_suite() -> None:
    # As "Autobahn Testsuite 0.8.2" lists them: nothing can go missing from this side.
    assert len(CASES) == len(set(CASES)) == 517
    sections = [int(case.partition(".")[0]) for case in CASES]
    counts = {section: sections.count(section) for section in sorted(set(sections))}
    assert counts == {1: 16, 2: 11, 3: 7, 4: 10, 5: 20, 6: 145, 7: 37, 9: 54, 10: 1, 12: 90, 13: 126}
    assert set(CASES) >= NON_STRICT | INFORMATIONAL


def test_a_good_report_is_good() -> None:
    assert complaints(good_results(), CASES) == []
    # The suite writes either for what it does not judge.
    results = good_results() | {case: result("OK", "OK") for case in INFORMATIONAL}
    assert complaints(results, CASES) == []


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("case", ["1.1.1", "6.4.2", "13.7.18"])
def test_any_other_outcome_is_a_complaint(case: str, outcome: str) -> None:
    for doctored in (result(outcome, "OK"), result("OK", outcome), result(outcome, outcome)):
        (complaint,) = complaints(good_results() | {case: doctored}, CASES)
        assert complaint.startswith(f"{case}: ")
        assert outcome in complaint


@pytest.mark.parametrize("outcome", ["FAILED", "UNCLEAN", "WRONG CODE", "UNIMPLEMENTED"])
@pytest.mark.parametrize("case", sorted(NON_STRICT | INFORMATIONAL))
def test_an_exception_is_no_licence_to_fail(case: str, outcome: str) -> None:
    as_it_is = good_results()[case]
    for key in ("behavior", "behaviorClose"):
        assert len(complaints(good_results() | {case: as_it_is | {key: outcome}}, CASES)) == 1


def test_a_missing_case_and_one_too_many_are_complaints() -> None:
    results = good_results()
    del results["5.7"]
    assert complaints(results, CASES) == ["5.7: missing"]
    assert complaints(good_results() | {"14.1": result("OK", "OK")}, CASES) == ["14.1: was not asked for"]
    assert len(complaints({}, CASES)) == 517
    assert complaints(good_results() | {"2.1": {}}, CASES) == ["2.1: None, its close None (code None)"]


def test_an_exception_that_is_none_any_more_is_a_complaint() -> None:
    for case in NON_STRICT:
        results = good_results() | {case: result("OK", "OK")}
        assert complaints(results, CASES) == [f"{case}: is listed as non-strict, and is strict"]


def test_reports_are_read_together(tmp_path: Path) -> None:
    def write(name: str, report: object, dump: Callable[[object], str] = json.dumps) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "index.json").write_text(dump(report))
        return folder

    one = write("one", {"sockrpc": {"1.1.1": result("OK", "OK")}})
    two = write("two", {"sockrpc": {"9.1.1": result("FAILED", "OK")}})
    results, wrong = read_results([one, two], "sockrpc")
    assert (sorted(results), wrong) == (["1.1.1", "9.1.1"], [])
    assert summary("server", results) == (
        "server role, 2 cases\n  section  1: 1 OK\n  section  9: 1 FAILED\n"
    )

    other = write("other", {"websockets": {"1.1.2": result("OK", "OK")}})
    broken = write("broken", "{", str)
    results, wrong = read_results([one, other, broken, tmp_path / "none"], "sockrpc")
    assert sorted(results) == ["1.1.1"]
    assert [line.partition(":")[0] for line in wrong] == ["other", "broken", "none"]
