"""Benchmarks of servers, and a guard against regressions of their speed.

`python -m sockrpc.bench ab --base VENV --head VENV --script FILE` compares two environments by the
functions `bench_*` of a script. A function with a parameter gets a `Bench`: a server on the loopback
network, its clients, and an injector of resets. Tests get the same by the fixture `bench` of
`sockrpc.bench.fixtures`.
"""

from sockrpc.bench.loopback import Bench, Loopback, Resets, SelfTimed

__all__ = ["Bench", "Loopback", "Resets", "SelfTimed"]
