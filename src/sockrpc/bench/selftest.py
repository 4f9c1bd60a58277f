"""Proves on this machine that the guard finds a slowdown and does not report noise as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sockrpc.bench.comparison import Plan, compare
from sockrpc.bench.verdict import Outcome
from sockrpc.errors import UsageError

__all__ = ["prove"]


def prove(plan: Plan, *, slow: float, unchanged: int, say: Callable[[str], None]) -> Outcome:
    """Compare equals, then a slowed head, then a base that differs from itself.

    A slowed process works like an ordinary one and then keeps the processor busy for the additional time,
    which is measured too.

    Returns:
        OK if all outcomes are as expected, SLOWER if the guard is wrong, INCONCLUSIVE if noise prevented an
        answer.
    """
    if slow <= plan.limit:
        raise UsageError("the slowdown to inject has to be above the limit")
    cases = [
        *(("unchanged", {}, Outcome.OK) for _ in range(unchanged)),
        (f"head slowed by {slow * 100:g} %", {"head": slow}, Outcome.SLOWER),
        ("base differs from itself", {"control": slow}, Outcome.INCONCLUSIVE),
    ]
    proof = Outcome.OK
    for index, (text, slowed, wanted) in enumerate(cases):
        # The order differs each time, and yet is reproducible from the seed.
        comparison = compare(replace(plan, slow=slowed, seed=plan.seed + index))
        got = comparison.outcome
        worst = max(max(result.attempts[0].change) for result in comparison.results)
        say(f"{text}: {got}, wanted {wanted}; the greatest change is {(worst - 1) * 100:+.1f} %")
        missed = [result.name for result in comparison.results if result.outcome is not wanted]
        if wanted is Outcome.SLOWER and got is Outcome.SLOWER and missed:
            say(f"  not found in {', '.join(missed)}")
            proof = Outcome.SLOWER
        elif got is wanted:
            continue
        elif got is Outcome.INCONCLUSIVE:
            proof = Outcome.INCONCLUSIVE if proof is Outcome.OK else proof
        else:
            proof = Outcome.SLOWER
    return proof
