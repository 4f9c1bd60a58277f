"""The load generator of bench/ finds wrong answers and counts right ones; the servers beside it are right."""

from __future__ import annotations

import contextlib
import json
import math
import random
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from bench.arena import Contender, alone, arena, client_does, limit, one_shot, python
from bench.loading import Held, LoadError, load, program
from bench.mass_abort import mass_abort
from bench.peer import header
from bench.tables import quantiles
from bench.wire import ACCEPTED, pattern, request_bytes

pytestmark = [
    # They are about no version of Python.
    pytest.mark.tools,
    pytest.mark.skipif(sys.platform != "linux", reason="the load generator stands on epoll"),
    pytest.mark.skipif(
        all(shutil.which(name) is None for name in ("cc", "gcc", "clang")), reason="there is no C compiler"
    ),
]

Answer = Callable[[bytes, bytes], bytes]
SHORT = {"seconds": 0.05, "warm_up": 0.01}


def message(payload: bytes, opcode: int = 2) -> bytes:
    head = header(len(payload), masked=False)
    return bytes([0x80 | opcode]) + head[1:] + payload


def response(id: bytes, payload: bytes) -> bytes:
    return message(b"\4" + id + payload)


def take(source: Any, size: int) -> bytes:
    data: bytes = source.read(size)
    if len(data) < size:
        raise ConnectionError
    return data


def take_message(source: Any) -> tuple[int, bytes]:
    """The opcode and the payload of a client's frame."""
    first, second = take(source, 2)
    size = second & 0x7F
    if size > 125:
        size = int.from_bytes(take(source, 2 if size == 126 else 8))
    mask = take(source, 4)
    data = take(source, size)
    repeated = (mask * (size // 4 + 1))[:size]
    return first & 0x0F, (int.from_bytes(data) ^ int.from_bytes(repeated)).to_bytes(size)


@contextlib.contextmanager
def answering(answer: Answer, pieces: int = 1 << 20, pongs: list[bytes] | None = None) -> Iterator[int]:
    """A server that answers each request with the bytes that `answer` makes, in pieces; its port."""

    def talk(line: socket.socket) -> None:
        with line, line.makefile("rb") as source, contextlib.suppress(ConnectionError):
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while source.readline().strip():
                pass
            line.sendall(ACCEPTED)
            while True:
                opcode, request = take_message(source)
                if opcode == 8:
                    return
                if opcode == 10:
                    assert pongs is not None
                    pongs.append(request)
                    continue
                name = 6 + request[5] if request[0] == 2 else 5
                data = answer(request[1:5], request[name:])
                for start in range(0, len(data), pieces):
                    line.sendall(data[start : start + pieces])

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = listener.accept()
                threads.append(threading.Thread(target=talk, args=(line,)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads = [threading.Thread(target=serve)]
        threads[0].start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(10)
                assert not thread.is_alive()


@pytest.mark.parametrize("dialect", ["rpc", "ready", "echo"])
@pytest.mark.parametrize("size", [0, 32, 4091, 4092, 70_000])
@pytest.mark.parametrize("pieces", [3000, 1 << 20])
def test_right_answers_are_counted(dialect: str, size: int, pieces: int) -> None:
    with answering(response, pieces) as port:
        result = load("calls", port, dialect=dialect, size=size, connections=2, in_flight=3, **SHORT)
    assert result["answers"] > 0
    assert result["round_trip_us"]["count"] == result["answers"]
    assert result["payload_bytes"] == size
    assert math.isclose(result["answers_per_second"], result["answers"] / result["seconds"], rel_tol=1e-3)
    assert (
        0 < result["round_trip_us"]["p50"] <= result["round_trip_us"]["p99"] <= result["round_trip_us"]["max"]
    )


def test_an_answer_that_comes_byte_by_byte_is_one() -> None:
    with answering(response, 1) as port:
        assert load("calls", port, in_flight=4, **SHORT)["answers"] > 0


@pytest.mark.parametrize("size", [32, 300_000])
def test_pings_are_answered_between_requests(size: int) -> None:
    pongs: list[bytes] = []

    def answer(number: bytes, payload: bytes) -> bytes:
        return message(number, 9) + response(number, payload)

    with answering(answer, pongs=pongs) as port:
        # More than the system buffers, so that a pong comes while a request is half sent.
        result = load("calls", port, size=size, in_flight=16, seconds=0.5, warm_up=0.01)
    # The last ones cross the close frame.
    assert len(pongs) >= result["answers"] > 0
    assert pongs[0] == bytes([0, 0, 0, 1])


def test_answers_out_of_order_are_right() -> None:
    waiting: list[bytes] = []

    def answer(id: bytes, payload: bytes) -> bytes:
        waiting.append(response(id, payload))
        if len(waiting) < 2:
            return b""
        data = b"".join(reversed(waiting))
        waiting.clear()
        return data

    with answering(answer) as port:
        assert load("calls", port, in_flight=2, **SHORT)["answers"] > 0


def other(id: bytes) -> bytes:
    return bytes(byte ^ 0xFF for byte in id)


WRONG: dict[str, tuple[Answer, str]] = {
    "another id": (lambda number, payload: response(other(number), payload), "which is not in flight"),
    "the same id twice": (lambda number, payload: response(number, payload) * 2, "which is not in flight"),
    "a byte less": (lambda number, payload: response(number, payload[:-1]), "not 32"),
    "a byte more": (lambda number, payload: response(number, payload + b"x"), "not 32"),
    "the last byte changed": (
        lambda number, payload: response(number, payload[:-1] + b"!"),
        "not what was sent",
    ),
    "a text": (lambda number, payload: message(b"\4" + number + payload, 1), "kind 1"),
    "a notification": (lambda number, payload: message(b"\1" + number + payload), "no answer"),
    "an empty message": (lambda number, payload: message(b""), "no answer"),
    "a close frame": (lambda number, payload: message(b"\x03\xf3bye", 8), "1011 bye"),
    "a frame with a reserved bit": (lambda number, payload: b"\xc2\x00", "no server sends"),
    "nothing": (lambda number, payload: b"", "no answer within 0.2 s"),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_wrong_answer_is_reported(how: str) -> None:
    answer, complaint = WRONG[how]
    with answering(answer) as port, pytest.raises(LoadError, match=complaint):
        load("calls", port, patience=0.2, **SHORT)


@pytest.mark.parametrize("at", [0, 35_000, 69_999])
def test_a_wrong_byte_in_a_large_answer_is_reported(at: int) -> None:
    def answer(id: bytes, payload: bytes) -> bytes:
        return response(id, payload[:at] + b"!" + payload[at + 1 :])

    with answering(answer) as port, pytest.raises(LoadError, match="not what was sent"):
        load("calls", port, size=70_000, **SHORT)


def test_a_line_that_is_cut_is_reported() -> None:
    def answer(id: bytes, payload: bytes) -> bytes:
        raise ConnectionError

    with answering(answer) as port, pytest.raises(LoadError, match=r"hung up|reset"):
        load("calls", port, **SHORT)


def test_percentiles_are_those_of_a_sorted_list() -> None:
    chance = random.Random(1)
    times = [int(chance.lognormvariate(10, 2)) for _ in range(20_000)]
    done = subprocess.run(
        [program(), "percentiles"],
        input="\n".join(map(str, times)),
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)["round_trip_us"]
    expected = quantiles([time / 1000 for time in times])
    assert found.keys() == expected.keys()
    assert found["count"] == len(times)
    for name, value in expected.items():
        # Buckets are less than 0.8 % wide, and figures have three decimals.
        assert math.isclose(found[name], value, rel_tol=0.008, abs_tol=0.001), name


PEERS = [
    Contender("sockrpc", "sockrpc_server"),
    Contender("sockrpc", "sockrpc_server", method="suspending"),
    Contender("by hand", "websockets_rpc", method="suspending"),
    Contender("websockets", "websockets_echo", "echo"),
    limit(),
]


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: f"{peer.module} {peer.method}")
def test_servers_of_the_comparison_answer_rightly(peer: Contender) -> None:
    with alone(peer) as server:
        result = load(
            "calls",
            server.port,
            dialect=peer.dialect,
            method=peer.method,
            connections=4,
            in_flight=8,
            **SHORT,
        )
    assert result["answers"] > 0
    assert server.process.returncode == 0


V1 = Contender("v1", "sockrpc_server", "v1")


def test_the_second_protocol_is_spoken() -> None:
    """Calls, with a time-out too, and errors; any other answer than the error awaited is reported."""
    with alone(V1) as server:
        speak = partial(load, "calls", server.port, dialect="v1", connections=2, in_flight=8, **SHORT)
        assert speak()["answers"] > 0
        assert speak(method="suspending", timeout=60_000)["answers"] > 0
        assert speak(method="failing", code=5)["answers"] > 0
        with pytest.raises(LoadError, match="not the error awaited"):
            speak(method="failing", code=6)
        with pytest.raises(LoadError, match="not the error awaited"):
            speak(code=5)


@pytest.mark.parametrize("size", [0, 32, 65_536])
def test_items_are_counted_either_way(size: int) -> None:
    """The load compares each item that it gets; the server says how many it has got at the end."""
    with alone(V1) as server:
        for mode, method in (("stream", "endless"), ("upload", "upload")):
            options = {"dialect": "v1", "method": method, "size": size, "connections": 2}
            # More than a window, so that credit has gone either way.
            result = load(mode, server.port, **options, seconds=0.3, warm_up=0.05)
            assert result["answers"] * (size + 64) > 2 * 65_536


def test_items_by_hand_are_counted() -> None:
    with alone(Contender("", "websockets_rpc")) as server:
        assert load("stream", server.port, method="endless", **SHORT)["answers"] > 0


def test_streams_are_held_at_the_end_of_their_credit() -> None:
    with alone(V1) as server:
        before = server.private_bytes()
        options = {"dialect": "v1", "method": "stalled", "window": 65_536, "streams": True}
        with Held(server.port, 1, 200, **options):
            assert server.private_bytes() > before


@pytest.mark.parametrize("what", ["calls", "answers", "stream-sockrpc"])
def test_a_client_in_python_is_measured(what: str) -> None:
    with alone(V1) as server:
        assert client_does(what, server.port, 0.1, 2)["answers_per_second"] > 0


def test_an_end_is_timed_in_the_second_protocol() -> None:
    with alone(V1) as server:
        result = load("reset", server.port, dialect="v1", **SHORT)
    assert result["reset_us"]["count"] > 0


@pytest.mark.parametrize("module", ["sockrpc_server", "websockets_rpc"])
def test_resets_are_timed_idle_and_under_load(module: str) -> None:
    with alone(Contender("", module)) as server:
        idle = load("reset", server.port, **SHORT)
        busy = load("reset", server.port, busy=4, in_flight=4, seconds=0.3)
    assert idle["reset_us"]["count"] > 0
    assert abs(idle["reset_us"]["count"] - idle["round_trip_us"]["count"]) <= 1
    assert busy["reset_us"]["count"] > 0
    assert busy["answers"] > 0 == idle["answers"]


@pytest.mark.parametrize(
    ("module", "dialect"), [("sockrpc_server", "rpc"), ("websockets_echo", "echo"), ("fanout_limit", "echo")]
)
def test_a_broadcast_is_received_by_all(module: str, dialect: str) -> None:
    with arena() as here:
        receivers = here.keep(here.fan_out(Contender("", module, dialect), 50))
        result = here.broadcasts(Contender("", module, dialect), receivers, 3)
    assert 0 < result["seconds"] < 10
    assert 0 < result["server_seconds"] < result["seconds"]


def test_handshakes_are_counted() -> None:
    with alone(PEERS[0]) as server:
        result = load("connect", server.port, connections=8, count=50)
    assert result["connections"] == 50
    assert math.isclose(result["per_second"], 50 / result["seconds"], rel_tol=1e-3)


def test_calls_are_held_until_the_context_ends() -> None:
    with alone(PEERS[0]) as server:
        before = server.private_bytes()
        with Held(server.port, 2, 500):
            assert server.private_bytes() > before


def test_all_calls_of_a_connection_that_is_cut_are_aborted() -> None:
    with alone(Contender("", "sockrpc_server", arguments={"raised": 1})) as server:
        for _ in range(2):
            result = mass_abort(server.port, 2000)
            assert 0 < result["longest_wait"] <= result["seconds"] < 60
            assert result["answers"] > 0


def test_a_reset_is_acted_on_in_the_next_iteration_of_the_loop() -> None:
    result = one_shot(python("reset_in_process", "200"), 0)
    assert result["us"]["count"] == 200
    assert result["iterations"] == 1


def test_the_limit_counts_what_the_load_generator_sends() -> None:
    sizes: list[int] = []

    def answer(id: bytes, payload: bytes) -> bytes:
        sizes.append(len(payload))
        return response(id, payload)

    with answering(answer) as port:
        load("calls", port, size=100, method="plain", **SHORT)
    assert set(sizes) == {100}
    # Header with a length of two bytes, mask, opcode, id, length of the name, name, payload.
    assert request_bytes("plain", 120) == 2 + 2 + 4 + 1 + 4 + 1 + 5 + 120
    assert request_bytes("plain", 32) == 2 + 4 + 1 + 4 + 1 + 5 + 32
    assert pattern(28) == b"abcdefghijklmnopqrstuvwxyzab"
