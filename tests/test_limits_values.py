"""Every limit: its default, its range, and where it is a keyword."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable
from typing import Any

import pytest

import sockrpc
from sockrpc._settings import Settings
from sockrpc.limits import (
    CLIENT_KEYWORDS,
    LIMITS,
    SERVER_KEYWORDS,
    ClientLimits,
    ConnectionLimits,
    Limit,
    Limits,
    ServerLimits,
    Side,
    make_limits,
)
from sockrpc.listen.acceptor import descriptors_for_connections
from tests.kit.support import serving

pytestmark = pytest.mark.newest

# That the rows say what the contract says is checked against the table of the documentation, in tests/docs.
TYPES: dict[str, type] = {"s": float, "bytes": int, "": int}
ENDINGS = {"s": ("_timeout", "_interval", "_grace", "_warning"), "bytes": ("_bytes",)}
TIMES = [5e-324, 0.001, 1, 1.5, 1e9]
COUNTS = [1, 2, 2**31, 2**47]
# These are wrong whatever the limit counts, the others for a time or for a count only.
NUMBERS_OUT_OF_RANGE = [-1, -(2**70), math.nan, math.inf, -math.inf, -0.001, 10**400, 2**47 + 1, 2**63, 2**64]
NEVER = [*NUMBERS_OUT_OF_RANGE, True, False, "1", b"1", [], 1j, object()]
FRACTIONS = [1.0, 0.5]

SIDES: tuple[Side, ...] = ("server", "client")

every_limit = pytest.mark.parametrize("limit", LIMITS.values(), ids=lambda limit: limit.name)


def limits(**values: Any) -> Limits:
    """Limits with these values; the three marks of output are kept in order around one of them."""
    for name in ("output_low_bytes", "output_high_bytes", "output_max_bytes"):
        if name in values and type(values[name]) is int and 0 < values[name] <= 2**47:
            values = dict.fromkeys(
                ("output_low_bytes", "output_high_bytes", "output_max_bytes"), values[name]
            )
    return Limits(**values)


# Rows


def test_each_row_stands_under_its_name_and_has_its_typed_line() -> None:
    assert [limit.name for limit in LIMITS.values()] == list(LIMITS)
    assert [field.name for field in dataclasses.fields(Limits)] == list(LIMITS)
    assert set(ConnectionLimits.__annotations__) == SERVER_KEYWORDS & CLIENT_KEYWORDS
    hints = typing.get_type_hints(Limits)
    for limit in LIMITS.values():
        kind = TYPES[limit.unit]
        assert hints[limit.name] == (kind | None if limit.may_be_none else kind), limit.name
    for keywords, side in ((ServerLimits, "server"), (ClientLimits, "client")):
        names = {limit.name for limit in LIMITS.values() if side in limit.sides}
        assert not keywords.__required_keys__
        assert typing.get_type_hints(keywords) == {name: hints[name] for name in names}


def test_each_side_has_its_default() -> None:
    for side in SIDES:
        found = make_limits({}, side)
        for limit in LIMITS.values():
            if side in limit.sides:
                assert getattr(found, limit.name) == limit.default_of(side)
    assert [make_limits({}, side).window_bytes for side in SIDES] == [64 * 1024, 256 * 1024]
    assert make_limits({"window_bytes": 1}, "client").window_bytes == 1


def test_the_unit_is_what_the_name_ends_in() -> None:
    for limit in LIMITS.values():
        units = [unit for unit, endings in ENDINGS.items() if limit.name.endswith(endings)]
        assert units == ([limit.unit] if limit.unit else []), limit.name


def test_c_has_the_values_of_python_and_0_for_none() -> None:
    values: dict[str, Any] = {name: 2 + number for number, name in enumerate(LIMITS)}
    # In their order, which is not that of the rows.
    values |= {"output_low_bytes": 101, "output_high_bytes": 102, "output_max_bytes": 103}
    found = Settings(Limits(**values)).values()
    assert len(found) >= 15
    assert found == {name: values[name] for name in found}
    off = {limit.name: None for limit in LIMITS.values() if limit.may_be_none}
    found = Settings(Limits(**off)).values()  # type: ignore[arg-type]
    assert {name for name, value in found.items() if not value} == off.keys() & found.keys()


def test_the_default_of_max_connections_is_the_soft_limit_of_descriptors_less_64() -> None:
    resource = pytest.importorskip("resource", reason="this platform has no limits of descriptors")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = before[1]
    try:
        for soft, expected in ((1024, 960), (500, 436), (66, 2), (65, 1), (64, 1)):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert descriptors_for_connections() == expected
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# Ranges


@every_limit
def test_a_limit_takes_what_its_row_says_and_nothing_else(limit: Limit) -> None:
    right: list[Any] = [*TIMES, *FRACTIONS] if limit.unit == "s" else [*COUNTS]
    wrong: list[Any] = [*NEVER] if limit.unit == "s" else [*NEVER, *FRACTIONS]
    (right if limit.may_be_none else wrong).append(None)
    (right if limit.may_be_zero else wrong).append(0)
    assert getattr(Limits(), limit.name) == limit.default
    for value in right:
        assert getattr(limits(**{limit.name: value}), limit.name) == value
    for value in wrong:
        with pytest.raises(sockrpc.UsageError, match=f"^{limit.name} "):
            limits(**{limit.name: value})


# No loop knows what to do with one of these; asyncio's and uvloop's would do different things.
NO_TIMES = [math.nan, math.inf, -math.inf, -0.001, -1, True, "1", 10**5000, 1j]


@pytest.mark.parametrize("value", NO_TIMES, ids=lambda value: type(value).__name__)
async def test_a_time_out_that_is_no_number_of_seconds_is_a_usage_error(value: Any) -> None:
    with pytest.raises(sockrpc.UsageError, match=r"^open_timeout is a "):
        sockrpc.connect("ws://127.0.0.1:1/", open_timeout=value)

    async def handler(call: sockrpc.Call) -> bytes:
        return b""

    with pytest.raises(sockrpc.UsageError, match=r"^timeout is a "):
        sockrpc.App().method("coroutine", timeout=value)(handler)
    with pytest.raises(sockrpc.UsageError, match=r"^timeout is a "):
        sockrpc.App().method("thread", timeout=value, thread=True)(lambda call: b"")
    app = sockrpc.App()
    app.method("echo")(lambda call: call.payload)
    async with serving(app) as here, here.connect() as client:
        with pytest.raises(sockrpc.UsageError, match=r"^timeout is a "):
            await client.call("echo", timeout=value)
        assert client.status().pending == []
        # Nothing was sent of it.
        assert await client.call("echo", b"x", timeout=1e9) == b"x"
        assert here.server.statistics().calls_started == 1


@pytest.mark.parametrize(
    ("low", "high", "most", "fits"),
    [(1, 1, 1, True), (0, 1, 2, True), (2, 1, 2, False), (1, 3, 2, False), (3, 2, 1, False), (1, 2, 2, True)],
)
def test_the_marks_of_output_are_in_order(low: int, high: int, most: int, fits: bool) -> None:
    values = {"output_low_bytes": low, "output_high_bytes": high, "output_max_bytes": most}
    if fits:
        Limits(**values)
    else:
        with pytest.raises(sockrpc.UsageError, match="output_low_bytes <= output_high_bytes"):
            Limits(**values)


def test_limits_are_keywords_and_do_not_change() -> None:
    with pytest.raises(TypeError):
        Limits(1024)  # type: ignore[call-arg]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Limits().max_in_flight = 1  # type: ignore[misc]


# Keywords


@pytest.fixture
def app() -> sockrpc.App:
    return sockrpc.App()


@every_limit
def test_a_limit_is_a_keyword_on_its_sides_and_on_no_other(app: sockrpc.App, limit: Limit) -> None:
    # None of these begins to serve or to connect: the keywords are checked first.
    makers: dict[str, list[Callable[..., Any]]] = {
        "server": [
            lambda **options: sockrpc.serve(app, "127.0.0.1", 0, **options),
            lambda **options: sockrpc.run(app, "127.0.0.1", 0, **options),
        ],
        "client": [lambda **options: sockrpc.connect("ws://localhost/", **options)],
    }
    for side, functions in makers.items():
        told = f"^{limit.name} is" if side in limit.sides else f"no such limit: {limit.name}"
        for make in functions:
            with pytest.raises(sockrpc.UsageError, match=told):
                make(**{limit.name: -1})
        if side in limit.sides:
            functions[0](**{limit.name: limit.default})


def test_what_is_no_limit_is_a_usage_error_that_names_it(app: sockrpc.App) -> None:
    options: dict[str, Any] = {"max_inflight": 1}
    for refuse in (
        lambda: sockrpc.serve(app, "127.0.0.1", 0, **options),
        lambda: sockrpc.run(app, "127.0.0.1", 0, **options),
        lambda: sockrpc.connect("ws://localhost/", **options),
    ):
        with pytest.raises(sockrpc.UsageError, match="no such limit: max_inflight"):
            refuse()
