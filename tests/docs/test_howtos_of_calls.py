"""docs/howto: streams, deadlines, retries, and moving from elsewhere, as the pages show them."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

import pytest

import sockrpc
from sockrpc import Code, ConnectionLost, DeadlineExceeded, Outcome, RPCError
from tests.kit.command import POSIX
from tests.kit.pages import DOCS, blocks
from tests.kit.processes import reserved_port
from tests.kit.programs import load
from tests.kit.support import PATIENCE, Serving, serving, until
from tests.kit.transcript import Transcript

pytestmark = [pytest.mark.docs, POSIX]

V0 = ("websocket.io-rpc-v0.1",)


def play(page: str, folder: Path) -> list[str]:
    with reserved_port() as port:
        transcript = Transcript(DOCS / "howto" / f"{page}.md", folder, port)
        transcript.play()
    return transcript.typed


# streaming-tokens.md and uploading.md


@pytest.mark.runs("docs/howto/streaming-tokens.md", "examples/tokens/")
def test_the_stop_button_stops_the_model(tmp_path: Path) -> None:
    assert play("streaming-tokens", tmp_path)[1:] == ["python client.py"]


@pytest.mark.runs("docs/howto/uploading.md", "examples/uploading/")
def test_an_upload_shows_its_progress(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(bytes(100_000))
    assert play("uploading", tmp_path)[1:] == ["python client.py photo.jpg"]
    assert (tmp_path / "uploads" / "photo.jpg").read_bytes() == bytes(100_000)
    assert [each.name for each in (tmp_path / "uploads").iterdir()] == ["photo.jpg"]


async def test_an_upload_that_is_given_up_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = load("uploading/server")
    monkeypatch.setattr(program, "FOLDER", tmp_path)
    async with serving(program.app) as serve, serve.connect() as client:
        async with client.stream("upload", "half") as upload:
            assert await upload.send(bytes(1000))
            assert await anext(upload) == b"1000"
            assert await upload.cancel() is Outcome.PARTIAL
        assert os.listdir(tmp_path) == []
        async with client.stream("upload", "large", items=(bytes(32_768) for _ in range(1000))) as upload:
            with pytest.raises(RPCError) as refused:
                await upload.result()
        assert refused.value.code is Code.OUT_OF_RANGE
        assert os.listdir(tmp_path) == []


# deadlines.md


@asynccontextmanager
async def shop(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serving]:
    """The service in front, with the one behind."""
    async with serving(load("deadlines/stock").app) as behind:
        monkeypatch.setenv("STOCK", behind.uri)
        async with serving(load("deadlines/shop").app) as front:
            yield front


@pytest.mark.runs("examples/deadlines/")
async def test_what_is_left_of_the_time_travels(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "stock")

    def said() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == "stock"]

    async with shop(monkeypatch) as front, front.connect() as client:
        assert await client.call("order", "0", timeout=PATIENCE) == b"reserved"
        (left,) = re.findall(r"reserve: (.*) s are left", said()[0])
        assert PATIENCE - 5 < float(left) < PATIENCE - 0.1
        with pytest.raises(DeadlineExceeded):
            await client.call("order", "3600", timeout=0.5)
        await until(lambda: said()[2:] == ["reserve is aborted"])
        assert await client.call("order_or_wait", "3600", timeout=PATIENCE) == b"on the waiting list"
        with pytest.raises(RPCError) as slow:
            await client.call("order_or_wait", "3600", timeout=1.2)
        assert slow.value.code is Code.UNAVAILABLE
        assert slow.value.retry_after == 30
        assert await client.call("remember", "0", timeout=PATIENCE) == b"reserved"
        assert said()[-1] == "reserve: no deadline"


# safe-retries.md


def till(paid: list[str]) -> sockrpc.App:
    app = sockrpc.App()

    @app.method("pay")
    def pay(call: sockrpc.Call) -> str:
        if call.text == "bankrupt":
            raise RPCError(Code.RESOURCE_EXHAUSTED, "no money")
        paid.append(call.text)
        return "paid"

    @app.method("wait")
    async def wait(call: sockrpc.Call) -> None:
        await asyncio.sleep(3600)

    return app


@pytest.mark.runs("examples/safe_retries.py")
async def test_a_payment_that_was_not_started_is_sent_to_the_next_server() -> None:
    program, paid = load("safe_retries"), list[str]()
    with reserved_port() as port:
        uri = f"ws://127.0.0.1:{port}/socket"
        async with (
            sockrpc.serve(till(paid), "127.0.0.1", port, stop_grace=PATIENCE) as first,
            sockrpc.connect(uri) as client,
        ):
            # A call in flight keeps the connection of the first server open while it stops.
            waiting = client.start("wait")
            await client.call("pay", "before")
            first.close()
            await until(lambda: client.closing)
            with pytest.raises(RPCError) as refused:
                await client.call("pay", "meanwhile")
            assert refused.value.outcome is Outcome.NOT_STARTED
            async with sockrpc.serve(till(paid), "127.0.0.1", port):
                assert await program.pay(uri, "after") == b"paid"
            assert paid == ["before", "after"]
            await waiting.cancel()


async def test_a_payment_that_may_have_begun_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    program, paid = load("safe_retries"), list[str]()
    async with serving(till(paid)) as serve:
        with pytest.raises(RPCError) as failed:
            await program.pay(serve.uri, "bankrupt")
    assert (failed.value.code, failed.value.outcome) == (Code.RESOURCE_EXHAUSTED, Outcome.PARTIAL)
    app = sockrpc.App()

    @app.method("pay")
    async def pay(call: sockrpc.Call) -> None:
        paid.append(call.text)
        call.socket.notify_nowait("gone")
        await call.socket.close(1011)

    async with serving(app) as serve:
        with pytest.raises(ConnectionLost) as lost:
            await program.pay(serve.uri, "order")
    assert lost.value.outcome is Outcome.UNKNOWN
    assert paid == ["order"]


# from-v0.1.md, from-signalr.md and from-graphql-ws.md


@pytest.mark.runs("examples/migrating/from_v0.py")
async def test_one_server_answers_both_protocols() -> None:
    app = load("migrating/from_v0").app
    async with serving(app) as serve, serve.connect() as client, serve.connect(protocols=V0) as old:
        assert (client.subprotocol, old.subprotocol) == ("sockrpc.v1", *V0)
        assert await client.call("search", "x") == await old.call("search", "x") == b"X"
        with pytest.raises(RPCError) as refused:
            await client.call("search")
        assert refused.value.code is Code.INVALID_ARGUMENT
        assert await old.call("search") == b"error: what for?"


async def test_what_an_old_peer_cannot_carry_fails_clearly() -> None:
    async with serving(load("migrating/from_v0").app) as serve, serve.connect(protocols=V0) as old:
        asked: list[Callable[[], Awaitable[bytes]]] = [
            lambda: anext(old.stream("search")),
            lambda: old.call("search", metadata={"key": "value"}),
            lambda: old.call("search", items=["item"]),
        ]
        for ask in asked:
            with pytest.raises(RPCError) as refused:
                await ask()
            assert (refused.value.code, refused.value.outcome) == (Code.UNIMPLEMENTED, Outcome.NOT_STARTED)
        assert await old.start("search", "x").cancel() is not Outcome.PARTIAL


@pytest.mark.runs("examples/migrating/from_signalr.py")
async def test_what_was_a_hub() -> None:
    mine = sockrpc.App()

    @mine.method("GetMessage")
    def get_message(call: sockrpc.Call) -> str:
        return "message"

    async with serving(load("migrating/from_signalr").app) as serve, serve.connect(app=mine) as client:
        assert await client.call("Search", "x") == b"X"
        with pytest.raises(RPCError, match=r"INVALID_ARGUMENT: what for\?"):
            await client.call("Search")
        assert [item async for item in client.stream("Counter", "3")] == [b"0", b"1", b"2"]
        assert await client.call("UploadStream", items=["a", "b"]) == b"2"
        assert await client.call("WaitForMessage") == b"message"
        published = client.on("Published")
        await client.notify("Publish", "news")
        assert await anext(published) == b"news"


@pytest.fixture
def greeter() -> ModuleType:
    return load("migrating/from_graphql_ws")


@pytest.mark.runs("examples/migrating/from_graphql_ws.py")
async def test_who_says_nothing_is_turned_away(greeter: ModuleType) -> None:
    async with serving(greeter.app) as serve:
        with pytest.raises(RPCError, match="UNAUTHENTICATED: who are you"):
            await serve.connect()


async def printed(page: Path, folder: Path, port: int = 0) -> str:
    """What the only program of a page prints."""
    (code,) = [each.code for each in blocks(page) if each.language == "python" and not each.directive]
    file = folder / "program.py"
    file.write_text(code.replace(":3000", f":{port}"), encoding="utf-8")
    command = [sys.executable, str(file)]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.stderr == ""
    return done.stdout


async def test_the_greetings_go_on_behind_a_cursor(greeter: ModuleType) -> None:
    metadata = {"authorization": "alices-token"}
    async with serving(greeter.app) as serve, serve.connect(metadata=metadata) as client:
        assert await client.call("hello") == b'{"hello": "Hello Alice"}'
        async with client.stream("greetings", tracked=True) as greetings:
            assert [await anext(greetings), await anext(greetings)] == [
                b'{"greetings": "Hi"}',
                b'{"greetings": "Bonjour"}',
            ]
            after = {"resume-from": greetings.cursor or b""}
        async with client.stream("greetings", tracked=True, metadata=after) as greetings:
            assert await anext(greetings) == b'{"greetings": "Hola"}'


@pytest.mark.runs_block("docs/howto/from-graphql-ws.md", "The same server", "python")
async def test_its_client_gets_all_greetings(greeter: ModuleType, tmp_path: Path) -> None:
    async with serving(greeter.app) as serve:
        output = await printed(DOCS / "howto" / "from-graphql-ws.md", tmp_path, serve.port)
    values = re.findall(r'"(?:hello|greetings)": "(\w+).*"', output)
    assert values == ["Hello", "Hi", "Bonjour", "Hola", "Ciao", "Zdravo"]


# explanation/confirmed-cancellation.md


@pytest.mark.runs_block(
    "docs/explanation/confirmed-cancellation.md", "The life of a confirmed reset", "python"
)
async def test_the_order_is_undone_before_its_outcome_comes(tmp_path: Path) -> None:
    page = DOCS / "explanation" / "confirmed-cancellation.md"
    (code,) = [each.code for each in blocks(page) if each.language == "python"]
    assert (await printed(page, tmp_path)).splitlines() == re.findall(r"print\(.*\)  # (.*)", code)
