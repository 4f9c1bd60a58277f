"""What Autobahn's reports must say."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

# All cases of release 0.8.2, in its order.
CASES: list[str] = json.loads(Path(__file__).with_name("cases.json").read_text())

# The suite itself does not judge these: RFC 6455 leaves their outcome open.
INFORMATIONAL = frozenset({"7.1.6", "7.13.1", "7.13.2"})

# Accepted as lenient: docs/explanation/conformance.md has the reasons, and that websockets is as lenient.
NON_STRICT = frozenset({"6.4.3", "6.4.4"})

Results = dict[str, dict[str, Any]]


def read_results(folders: Collection[Path], agent: str) -> tuple[Results, list[str]]:
    """The results of all reports together, and what is wrong with the reports."""
    results: Results = {}
    wrong = []
    for folder in folders:
        try:
            report = json.loads((folder / "index.json").read_text())
        except (OSError, ValueError) as error:
            wrong.append(f"{folder.name}: no report: {error}")
            continue
        if set(report) != {agent}:
            wrong.append(f"{folder.name}: agents {sorted(report)}, not {agent}")
        results |= report.get(agent, {})
    return results, wrong


def complaints(results: Mapping[str, Mapping[str, Any]], expected: Collection[str]) -> list[str]:
    """Whatever is not as it must be: one line each, none if all is well."""
    wrong = [f"{case}: missing" for case in expected if case not in results]
    for case, result in results.items():
        behavior, closing = result.get("behavior"), result.get("behaviorClose")
        if case not in expected:
            wrong.append(f"{case}: was not asked for")
        elif closing not in ("OK", "INFORMATIONAL") or (closing != "OK" and case not in INFORMATIONAL):
            wrong.append(f"{case}: {behavior}, its close {closing} (code {result.get('remoteCloseCode')})")
        elif behavior == "OK":
            if case in NON_STRICT:
                wrong.append(f"{case}: is listed as non-strict, and is strict")
        elif case not in {"NON-STRICT": NON_STRICT, "INFORMATIONAL": INFORMATIONAL}.get(f"{behavior}", ()):
            wrong.append(f"{case}: {behavior}")
    return wrong


def summary(role: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """The outcomes by section, for people."""
    sections: dict[int, Counter[str]] = {}
    for case, result in results.items():
        counter = sections.setdefault(int(case.partition(".")[0]), Counter())
        counter[f"{result.get('behavior')}"] += 1
    lines = [f"{role} role, {len(results)} cases"]
    for section, counter in sorted(sections.items()):
        lines.append(f"  section {section:>2}: " + ", ".join(f"{n} {what}" for what, n in counter.items()))
    return "\n".join(lines) + "\n"
