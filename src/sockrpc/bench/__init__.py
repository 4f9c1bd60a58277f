"""Benchmarks of servers, and a guard against their getting slower.

`python -m sockrpc.bench ab --base VENV --head VENV --script FILE` compares two environments by the
functions `bench_*` of a script. One that has a parameter gets a `Bench`: a server on the loopback network,
clients of it, and an injector of resets. Tests get the same as the fixture `bench` of
`sockrpc.bench.fixtures`.
"""

from sockrpc.bench.loopback import Bench, Loopback, Resets, SelfTimed

__all__ = ["Bench", "Loopback", "Resets", "SelfTimed"]
