"""Every limit: its default, its range, and where it is a keyword."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any

import pytest

import sockrpc
from sockrpc.limits import ClientLimits, ConnectionLimits, Limits, ServerLimits
from sockrpc.listen.acceptor import descriptors_for_connections
from tests.kit.support import serving

pytestmark = pytest.mark.newest

KIB, MIB = 1024, 1024 * 1024

# The table of the API, word for word; None is what stands for the limit of descriptors.
BOTH: dict[str, float | None] = {
    "max_message_bytes": 16 * MIB,
    "output_high_bytes": 1 * MIB,
    "output_low_bytes": 256 * KIB,
    "output_max_bytes": 16 * MIB,
    "stall_timeout": 30,
    "ping_interval": 20,
    "ping_timeout": 20,
    "handshake_timeout": 10,
    "max_handshake_bytes": 64 * KIB,
    "close_timeout": 5,
}
OF_SERVERS: dict[str, float | None] = {
    "max_in_flight": 1_024,
    "max_waiting_calls": 16_384,
    "max_held_bytes": 24 * MIB,
    "max_notifications": 1_024,
    "max_connections": None,
    "stop_grace": 10,
    "abort_grace": 5,
    "blocked_warning": 1,
    "max_threads": 32,
}
OF_CLIENTS: dict[str, float | None] = {"max_listener_payloads": 4_096, "max_listener_bytes": 16 * MIB}
DEFAULTS = BOTH | OF_SERVERS | OF_CLIENTS

SECONDS = {name for name in DEFAULTS if name.endswith(("_timeout", "_interval", "_grace", "_warning"))}
COUNTS = set(DEFAULTS) - SECONDS
# What can be switched off, and what may be nothing at all.
OPTIONAL = {"stall_timeout", "ping_interval", "ping_timeout", "max_connections", "blocked_warning"}
MAY_BE_ZERO = {"stop_grace", "abort_grace", "close_timeout", "output_low_bytes", "blocked_warning"}


def limits(**values: Any) -> Limits:
    """Limits with these values; the three marks of output are kept in order around one of them."""
    for name in ("output_low_bytes", "output_high_bytes", "output_max_bytes"):
        if name in values and type(values[name]) is int and 0 < values[name] <= 2**47:
            values = dict.fromkeys(
                ("output_low_bytes", "output_high_bytes", "output_max_bytes"), values[name]
            )
    return Limits(**values)


# Defaults


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_default_is_the_documented_one(name: str) -> None:
    assert getattr(Limits(), name) == DEFAULTS[name]


def test_there_is_no_limit_beside_the_documented_ones() -> None:
    assert {field.name for field in dataclasses.fields(Limits)} == set(DEFAULTS)


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


def test_sizes_end_in_bytes_and_are_whole_numbers() -> None:
    hints = typing.get_type_hints(Limits)
    for name in COUNTS:
        assert hints[name] in (int, int | None), name
        assert type(getattr(Limits(), name)) in (int, types.NoneType), name
    for name in SECONDS:
        assert hints[name] in (float, float | None), name


# Ranges


@pytest.mark.parametrize("name", DEFAULTS)
def test_none_switches_off_what_can_be_switched_off(name: str) -> None:
    if name in OPTIONAL:
        assert getattr(limits(**{name: None}), name) is None
    else:
        with pytest.raises(sockrpc.UsageError, match=name):
            limits(**{name: None})


@pytest.mark.parametrize("name", DEFAULTS)
def test_zero_is_allowed_where_nothing_makes_sense(name: str) -> None:
    if name in MAY_BE_ZERO:
        assert getattr(limits(**{name: 0}), name) == 0
    else:
        with pytest.raises(sockrpc.UsageError, match=name):
            limits(**{name: 0})


@pytest.mark.parametrize("value", [-1, -(2**70), True, False, "1", b"1", [], 1j, object()], ids=repr)
@pytest.mark.parametrize("name", DEFAULTS)
def test_a_value_that_is_no_positive_number_is_a_usage_error(name: str, value: Any) -> None:
    with pytest.raises(sockrpc.UsageError, match=name):
        limits(**{name: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.001, 10**400], ids=lambda v: repr(v)[:9])
@pytest.mark.parametrize("name", sorted(SECONDS))
def test_a_time_that_is_no_finite_positive_number_of_seconds_is_a_usage_error(name: str, value: Any) -> None:
    with pytest.raises(sockrpc.UsageError, match=name):
        limits(**{name: value})


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


@pytest.mark.parametrize("value", [1.0, 0.5, math.nan, math.inf, 2**47 + 1, 2**63, 2**64], ids=repr)
@pytest.mark.parametrize("name", sorted(COUNTS))
def test_a_count_that_is_no_machine_integer_is_a_usage_error(name: str, value: Any) -> None:
    with pytest.raises(sockrpc.UsageError, match=name):
        limits(**{name: value})


@pytest.mark.parametrize("value", [1, 2, 2**31, 2**47])
@pytest.mark.parametrize("name", sorted(COUNTS))
def test_every_count_from_one_on_is_taken(name: str, value: int) -> None:
    assert getattr(limits(**{name: value}), name) == value


@pytest.mark.parametrize("value", [5e-324, 0.001, 1, 1.5, 1e9])
@pytest.mark.parametrize("name", sorted(SECONDS))
def test_every_time_above_zero_is_taken(name: str, value: float) -> None:
    assert getattr(limits(**{name: value}), name) == value


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


def test_keywords_and_fields_have_the_same_names_and_types() -> None:
    assert set(ConnectionLimits.__annotations__) == set(BOTH)
    hints = typing.get_type_hints(Limits)
    for keywords, names in ((ServerLimits, BOTH | OF_SERVERS), (ClientLimits, BOTH | OF_CLIENTS)):
        assert keywords.__optional_keys__ == set(names)
        assert not keywords.__required_keys__
        assert typing.get_type_hints(keywords) == {name: hints[name] for name in names}


@pytest.fixture
def app() -> sockrpc.App:
    return sockrpc.App()


@pytest.mark.parametrize("name", BOTH | OF_SERVERS)
def test_every_limit_of_servers_is_a_keyword_of_serve_and_run(app: sockrpc.App, name: str) -> None:
    # None of these begins to serve: the keywords are checked first.
    options: dict[str, Any] = {name: DEFAULTS[name]}
    assert getattr(sockrpc.serve(app, "127.0.0.1", 0, **options)._limits, name) == DEFAULTS[name]
    options = {name: -1}
    with pytest.raises(sockrpc.UsageError, match=f"{name} is"):
        sockrpc.serve(app, "127.0.0.1", 0, **options)
    with pytest.raises(sockrpc.UsageError, match=f"{name} is"):
        sockrpc.run(app, "127.0.0.1", 0, **options)


@pytest.mark.parametrize("name", BOTH | OF_CLIENTS)
def test_every_limit_of_clients_is_a_keyword_of_connect(name: str) -> None:
    options: dict[str, Any] = {name: DEFAULTS[name]}
    assert getattr(sockrpc.connect("ws://localhost/", **options)._limits, name) == DEFAULTS[name]
    options = {name: -1}
    with pytest.raises(sockrpc.UsageError, match=f"{name} is"):
        sockrpc.connect("ws://localhost/", **options)


def test_what_is_no_limit_is_a_usage_error_that_names_it(app: sockrpc.App) -> None:
    options: dict[str, Any] = {"max_inflight": 1}
    for refuse in (
        lambda: sockrpc.serve(app, "127.0.0.1", 0, **options),
        lambda: sockrpc.run(app, "127.0.0.1", 0, **options),
        lambda: sockrpc.connect("ws://localhost/", **options),
    ):
        with pytest.raises(sockrpc.UsageError, match="no such limit: max_inflight"):
            refuse()


@pytest.mark.parametrize("name", OF_SERVERS)
def test_limits_of_servers_are_no_keywords_of_connect(name: str) -> None:
    options: dict[str, Any] = {name: DEFAULTS[name]}
    with pytest.raises(sockrpc.UsageError, match=name):
        sockrpc.connect("ws://localhost/", **options)
