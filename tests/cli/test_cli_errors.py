"""How `sockrpc call` tells that a call has failed, and what it can send beside a payload."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.kit.command import PATIENCE, POSIX, Command, Served, failure, only_line, run_command, run_main

pytestmark = pytest.mark.newest

V0 = ("--protocol", "websocket.io-rpc-v0.1")

SERVER = r"""
import asyncio
import sockrpc
from sockrpc import Code, RPCError

app = sockrpc.App()
app.method("echo")(lambda call: call.payload)

@app.on_connect
def let_in(socket):
    if socket.metadata and socket.metadata.get("authorization") == b"wrong":
        raise RPCError(Code.UNAUTHENTICATED, "who are you?")

@app.method("missing")
def missing(call):
    raise RPCError(Code.NOT_FOUND, "no such user", details=b'{"user": 7}')

@app.method("binary")
def binary(call):
    raise RPCError(200, "\x1b[31mred\nline", details=b"\xff\x00")

@app.method("busy")
def busy(call):
    raise RPCError(Code.UNAVAILABLE, "", retry_after=1.5)

@app.method("bug")
def bug(call):
    raise LookupError("secret")

@app.method("sleep")
async def sleep(call):
    await asyncio.sleep(600)

@app.method("late")
def late(call):
    raise RPCError(Code.DEADLINE_EXCEEDED, "a database took too long")

@app.method("metadata")
def metadata(call):
    return repr({key: call.metadata[key] for key in sorted(call.metadata)})

@app.method("hello")
def hello(call):
    return call.socket.metadata["token"]

@app.method("sum")
async def total(call):
    return str(sum([int(item) async for item in call.items()]))

@app.method("lines")
async def lines(call):
    return repr([item async for item in call.items()])

@app.method("first")
async def first(call):
    async for item in call.items():
        return item

@app.method("never")
async def never(call):
    async for item in call.items():
        print("item", item.decode(), flush=True)
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "served.py").write_text(SERVER, encoding="utf-8")
    with Served("serve", "served:app", cwd=folder) as server:
        yield server


def told(done: subprocess.CompletedProcess[bytes], code: int = 3) -> str:
    """What a failed call has said on standard error, and nothing on its output."""
    assert (done.returncode, done.stdout) == (code, b""), done
    return done.stderr.decode()


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("missing", "NOT_FOUND: no such user\n"),
        ("busy", "UNAVAILABLE\n"),
        ("bug", "INTERNAL: internal error\n"),
        ("absent", "UNIMPLEMENTED: nobody serves 'absent' here\n"),
        ("binary", "200: \\x1b[31mred\\nline\n"),
    ],
)
def test_an_error_is_its_code_and_its_message_and_the_exit_code_is_3(
    served: Served, method: str, text: str
) -> None:
    assert told(run_main("call", served.uri, method)) == text


@pytest.mark.parametrize(
    ("method", "lines"),
    [
        ("missing", ["NOT_FOUND: no such user", "outcome: partial", 'details: {"user": 7}']),
        ("busy", ["UNAVAILABLE", "outcome: partial", "retry_after: 1.5"]),
        ("absent", ["UNIMPLEMENTED: nobody serves 'absent' here", "outcome: not_started"]),
        ("binary", ["200: \\x1b[31mred\\nline", "outcome: partial", "details_base64: /wA="]),
    ],
)
def test_details_are_lines_behind_it(served: Served, method: str, lines: list[str]) -> None:
    assert told(run_main("call", served.uri, method, "--details")).splitlines() == lines


def test_in_json_an_error_is_one_object_with_everything(served: Served) -> None:
    found = json.loads(told(run_main("call", served.uri, "missing", "--json")))
    assert found == {
        "code": "NOT_FOUND",
        "message": "no such user",
        "outcome": "partial",
        "details": '{"user": 7}',
    }
    found = json.loads(told(run_main("call", served.uri, "busy", "--json")))
    assert found == {"code": "UNAVAILABLE", "message": "", "outcome": "partial", "retry_after": 1.5}


def test_the_end_of_the_time_by_the_clock_of_either_side_exits_with_124(served: Served) -> None:
    assert told(run_main("call", served.uri, "late"), 124) == "DEADLINE_EXCEEDED: a database took too long\n"
    assert told(run_main("call", served.uri, "sleep", "--timeout", "0.2"), 124).startswith(
        "DEADLINE_EXCEEDED: "
    )


def test_in_the_old_protocol_a_time_out_says_where_a_failure_is_told(served: Served) -> None:
    old = told(run_main("call", served.uri, "missing", "--timeout", "0.2", *V0), 124)
    text = "DEADLINE_EXCEEDED: no answer to 'missing' within 0.2 s; the call was reset"
    assert old == f"{text} (if it failed, the server's log says why, as this protocol cannot)\n"


def test_a_connection_that_the_application_refuses_is_an_error_too(served: Served) -> None:
    done = run_main("call", served.uri, "echo", "--hello", "authorization=wrong")
    assert told(done) == "UNAUTHENTICATED: who are you?\n"


def test_metadata_goes_with_the_call_and_hello_with_the_connection(served: Served) -> None:
    done = run_main("call", served.uri, "metadata", "--metadata", "b=x=y", "--metadata", "a=1, 2")
    assert (done.returncode, done.stdout) == (0, b"{'a': b'1, 2', 'b': b'x=y'}\n")
    done = run_main("call", served.uri, "hello", "--hello", "token=secret")
    assert (done.returncode, done.stdout) == (0, b"secret\n")


@pytest.mark.parametrize("flags", [("--metadata", "a=1"), ("--items",)], ids=" ".join)
def test_what_the_old_protocol_lacks_is_told_with_its_name(served: Served, flags: tuple[str, ...]) -> None:
    done = run_command("call", served.uri, "echo", *flags, *V0, given=b"item\n")
    assert told(done).startswith("UNIMPLEMENTED: the peer speaks websocket.io-rpc-v0.1, which has no ")


# Items


def test_each_line_of_standard_input_is_an_item(served: Served) -> None:
    done = run_command("call", served.uri, "lines", "--items", given=b"one\n\nthree \xff\r\nlast")
    assert (done.returncode, done.stdout) == (0, b"[b'one', b'', b'three \\xff\\r', b'last']\n")
    done = run_command("call", served.uri, "lines", "--items", given=b"")
    assert (done.returncode, done.stdout) == (0, b"[]\n")


def test_more_items_than_a_window_are_sent_in_order(served: Served) -> None:
    numbers = range(50_000)
    done = run_command("call", served.uri, "sum", "--items", given="\n".join(map(str, numbers)).encode())
    assert (done.returncode, done.stdout) == (0, b"%d\n" % sum(numbers))


def test_a_method_that_takes_no_more_items_ends_the_command(served: Served) -> None:
    """Although its standard input goes on."""
    given = b"item\n" * 200_000
    done = run_command("call", served.uri, "first", "--items", given=given)
    assert (done.returncode, done.stdout) == (0, b"item\n")


def test_an_item_that_is_larger_than_the_window_is_a_usage_error(served: Served) -> None:
    done = run_command("call", served.uri, "lines", "--items", given=b"x" * 70_000)
    assert failure(done, 2) == "sockrpc: an item has at most 65536 bytes here, this one 70000"


@POSIX
def test_ctrl_c_while_items_are_awaited_resets_the_call(served: Served) -> None:
    reading, writing = os.pipe()
    try:
        with Command("call", served.uri, "never", "--items", given=reading) as calling:
            os.write(writing, b"1\n2\nunfinished")
            assert [served.line() for _ in range(2)] == ["item 1", "item 2"]
            calling.interrupt()
            assert (calling.rest(), calling.end()) == (b"", 130)
            assert calling.log == ["sockrpc: interrupted; the call was reset, outcome partial"]
    finally:
        os.close(reading)
        os.close(writing)


@POSIX
def test_a_closed_standard_input_has_no_items(served: Served) -> None:
    command = f'exec "$0" -W error -m sockrpc call {served.uri} lines --items <&-'
    done = subprocess.run(
        ["/bin/sh", "-c", command, sys.executable], capture_output=True, timeout=PATIENCE, check=False
    )
    assert failure(done, 1) == "sockrpc: OSError: [Errno 9] standard input is closed"


def test_an_answer_in_json_is_on_one_line(served: Served) -> None:
    done = run_main("call", served.uri, "echo", "hi", "--json")
    assert json.loads(only_line(done.stdout)) == {"method": "echo", "payload": "hi"}
