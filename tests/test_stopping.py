"""What a stop means for those who have just come: they are let in, and told to go like all others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import pytest

import sockrpc
import sockrpc.listen.server_sockets
from tests.kit.inside import is_shaking_hands, unsent_bytes
from tests.kit.latecomers import NEVER, STOPPING, accepted, is_let_in_and_told, line_to, queue_up, raw_over
from tests.kit.narrow import LINE_BYTES, serving_narrowly
from tests.kit.support import (
    CLOSE,
    PATIENCE,
    RawClient,
    frame,
    notify,
    opening,
    request,
    serving,
    started,
    until,
)
from tests.kit.tls import client_context, server_context
from tests.kit.work import Stubborn, Work


@pytest.mark.parametrize("sent_before", [0, 30, len(opening())], ids=["nothing", "a part", "all of it"])
async def test_an_opening_handshake_under_way_is_completed(sent_before: int) -> None:
    work = Work()
    async with (
        serving(work.app(), stop_grace=NEVER, close_timeout=NEVER) as here,
        await line_to(here.port) as raw,
    ):
        await accepted(here.server, 1)
        await raw.send(opening()[:sent_before])
        here.server.close()
        waiting = await started(here.server.wait_closed())
        # A call that comes with it does not start: it is after the stop.
        await raw.send(opening()[sent_before:] + request(1, "work"))
        await is_let_in_and_told(raw)
        await waiting
    assert work.calls == []


async def test_a_request_that_opens_nothing_is_answered_while_the_server_stops() -> None:
    async with (
        serving(Work().app(), path="/socket", stop_grace=NEVER) as here,
        await line_to(here.port) as raw,
    ):
        await accepted(here.server, 1)
        here.server.close()
        await raw.send(b"GET /elsewhere HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert (await raw.wait(raw.reader.read())).startswith(b"HTTP/1.1 404 ")


async def test_a_line_whose_peer_does_not_close_is_cut_when_all_graces_are_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """However much time it would have to close, once what has not ended is left behind."""
    work = Stubborn()
    limits = {"stop_grace": 0.0, "abort_grace": 0.1, "close_timeout": NEVER}
    async with serving(work.app(), **limits) as here, await here.raw() as raw:
        await raw.send(request(1, "work"))
        await until(lambda: work.calls)
        here.server.close()
        await raw.wait(here.server.wait_closed())
        assert await raw.closing() == (1001, "server stopping")
        with contextlib.suppress(ConnectionResetError):
            assert await raw.nothing_more()
        work.may_unwind.set()
        await until(lambda: work.ended == 1)
    assert "left behind" in caplog.text


async def test_a_notification_handler_that_swallows_its_cancel_is_cancelled_once_more_and_left_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = sockrpc.App()
    cancels: list[int] = []

    @app.on
    async def note(notification: sockrpc.Notification) -> None:
        while len(cancels) < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancels.append(1)

    async with serving(app, stop_grace=0.0, abort_grace=0.1) as here, await here.raw() as raw:
        await raw.send(notify("note"))
        await until(lambda: here.server.statistics().notifications_running == 1)
        here.server.close()
        await raw.wait(here.server.wait_closed())
        await until(lambda: len(cancels) == 2)
        await until(lambda: here.server.statistics().notifications_running == 0)
    assert "left behind" in caplog.text


async def test_connections_that_wait_to_be_accepted_are_let_in() -> None:
    async with serving(Work().app(), stop_grace=NEVER) as here:
        queued = queue_up(here.port, 50, opening())
        here.server.close()
        # Whoever comes now comes too late.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", here.port)).close()
        for each in queued:
            async with await raw_over(each) as raw:
                await is_let_in_and_told(raw)


async def test_not_more_than_the_backlog_is_accepted_at_the_stop() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=8) as listening:
        lines = queue_up(listening.getsockname()[1], 5, b"")
        taken = sockrpc.listen.server_sockets.accept_all(listening, 2)
        assert len(taken) == 3
        rest = sockrpc.listen.server_sockets.accept_all(listening, 2)
        assert len(rest) == 2
        for each in (*lines, *taken, *rest):
            each.close()


async def test_one_more_than_max_connections_is_refused_while_the_server_stops() -> None:
    async with serving(Work().app(), stop_grace=NEVER, max_connections=1) as here:
        queued = queue_up(here.port, 2, opening())
        here.server.close()
        heads = []
        for each in queued:
            async with await raw_over(each) as raw:
                heads.append((await raw.wait(raw.reader.readline())).split()[1])
        assert heads == [b"101", b"503"]


async def test_a_peer_that_does_not_go_on_has_close_timeout_to_do_so() -> None:
    async with (
        serving(Work().app(), stop_grace=NEVER, close_timeout=0.2) as here,
        await line_to(here.port) as silent,
        await line_to(here.port) as half,
    ):
        await half.send(opening()[:30])
        await accepted(here.server, 2)
        loop = asyncio.get_running_loop()
        began = loop.time()
        here.server.close()
        async with asyncio.timeout(PATIENCE):
            await here.server.wait_closed()
        assert loop.time() - began >= 0.1
        for raw in (silent, half):
            with contextlib.suppress(ConnectionError):
                assert await raw.wait(raw.reader.read()) == b""


async def test_a_peer_that_has_had_close_timeout_has_no_more() -> None:
    async with (
        serving(Work().app(), stop_grace=NEVER, close_timeout=0) as here,
        await line_to(here.port) as silent,
    ):
        await accepted(here.server, 1)
        here.server.close()
        async with asyncio.timeout(PATIENCE):
            await here.server.wait_closed()
        assert await silent.nothing_more()


async def test_the_application_may_take_its_time_to_let_one_in() -> None:
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def process_request(socket: sockrpc.Socket, request: Any) -> None:
        asked.set()
        await may_answer.wait()

    async with (
        serving(Work().app(), process_request=process_request, stop_grace=NEVER, close_timeout=0.01) as here,
        await line_to(here.port) as raw,
    ):
        await raw.send(opening())
        await asked.wait()
        here.server.close()
        # Longer than a peer would get.
        await asyncio.sleep(0.1)
        may_answer.set()
        await is_let_in_and_told(raw)


async def test_the_end_of_the_grace_ends_what_lets_one_in() -> None:
    cancelled = asyncio.Event()

    async def process_request(socket: sockrpc.Socket, request: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with (
        serving(Work().app(), process_request=process_request, stop_grace=0.05) as here,
        await line_to(here.port) as raw,
    ):
        await raw.send(opening())
        await accepted(here.server, 1)
        here.server.close()
        assert await raw.nothing_more()
        assert cancelled.is_set()


async def test_a_hook_that_lets_one_in_is_cancelled_by_the_stop() -> None:
    """Nothing is in flight there, so the connection is closed at once, as an idle one."""
    app = sockrpc.App()
    connecting, cancelled = asyncio.Event(), asyncio.Event()

    @app.on_connect
    async def connect(socket: sockrpc.Socket) -> None:
        connecting.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with serving(app, stop_grace=NEVER) as here, await here.raw() as raw:
        await connecting.wait()
        here.server.close()
        assert await raw.closing() == STOPPING
        assert cancelled.is_set()


@pytest.mark.parametrize("own", [False, True], ids=["by the stop", "by itself"])
async def test_a_hook_of_an_ended_connection_is_cancelled_by_the_end_of_the_grace_and_has_not_failed(
    own: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app = sockrpc.App()
    cancels: list[int] = []

    @app.on_disconnect
    async def disconnect(socket: sockrpc.Socket) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            if own:
                # Nobody has cancelled it: this is a failure like any other.
                raise asyncio.CancelledError
            await asyncio.Event().wait()
        finally:
            cancels.append(task.cancelling())

    async with serving(app, stop_grace=0.05, abort_grace=NEVER) as here:
        async with await here.raw():
            pass
        await until(lambda: not here.server.connections)
        here.server.close()
        async with asyncio.timeout(PATIENCE):
            await here.server.wait_closed()
    assert cancels == [0 if own else 1]
    assert [record.levelname for record in caplog.records] == (["ERROR"] if own else [])


# TLS


async def with_tls(raw: RawClient) -> RawClient:
    """The same line with TLS."""
    await raw.wait(raw.writer.start_tls(client_context(), server_hostname="127.0.0.1"))
    return raw


async def test_a_tls_handshake_under_way_is_completed() -> None:
    async with (
        serving(Work().app(), ssl=server_context(), stop_grace=NEVER, close_timeout=PATIENCE) as here,
        await line_to(here.port) as raw,
    ):
        await until(lambda: is_shaking_hands(here.server))
        here.server.close()
        await with_tls(raw)
        await raw.send(opening())
        await is_let_in_and_told(raw)


async def test_connections_that_wait_to_be_accepted_are_let_in_with_tls() -> None:
    async with serving(Work().app(), ssl=server_context(), stop_grace=NEVER, close_timeout=PATIENCE) as here:
        queued = queue_up(here.port, 5, b"")
        here.server.close()
        for each in queued:
            async with await raw_over(each) as raw:
                await with_tls(raw)
                await raw.send(opening())
                await is_let_in_and_told(raw)


async def test_a_tls_handshake_that_failed_does_not_hold_up_the_stop_for_long() -> None:
    async with serving(
        Work().app(), ssl=server_context(), stop_grace=NEVER, close_timeout=0.2, handshake_timeout=NEVER
    ) as here:
        for _ in range(3):
            async with await line_to(here.port) as raw:
                await raw.send(b"no TLS\r\n\r\n" * 10)
                with contextlib.suppress(ConnectionError):
                    await raw.wait(raw.reader.read())
        here.server.close()
        async with asyncio.timeout(PATIENCE):
            await here.server.wait_closed()


async def test_whoever_completes_tls_after_the_stop_is_refused() -> None:
    async with (
        serving(Work().app(), ssl=server_context(), close_timeout=0.05) as here,
        await line_to(here.port) as raw,
    ):
        await until(lambda: is_shaking_hands(here.server))
        here.server.close()
        await here.server.wait_closed()
        await with_tls(raw)
        assert (await raw.wait(raw.reader.readline())).startswith(b"HTTP/1.1 503 ")


# Answers to a slow reader


async def test_answers_are_delivered_to_a_slow_reader_as_long_as_the_grace_lasts() -> None:
    app = sockrpc.App()
    app.method("much")(lambda call: bytes(LINE_BYTES))
    async with (
        serving_narrowly(app, stop_grace=NEVER, close_timeout=0.05) as here,
        await here.narrow_raw() as raw,
    ):
        await raw.send(request(1, "much"))
        await until(lambda: here.server.connections and unsent_bytes(here.only_socket()))
        here.server.close()
        # Far longer than a peer has that has been sent everything.
        await asyncio.sleep(0.5)
        assert await raw.answer() == (1, bytes(LINE_BYTES))
        assert await raw.closing() == STOPPING
        await raw.send(frame(CLOSE))
        assert await raw.nothing_more()


async def test_a_reader_that_is_too_slow_does_not_hold_up_the_stop_after_the_grace() -> None:
    app = sockrpc.App()
    app.method("much")(lambda call: bytes(LINE_BYTES))
    async with (
        serving_narrowly(app, stop_grace=0.2, abort_grace=NEVER, close_timeout=0.05) as here,
        await here.narrow_raw() as raw,
    ):
        await raw.send(request(1, "much"))
        await until(lambda: here.server.connections and unsent_bytes(here.only_socket()))
        here.server.close()
        async with asyncio.timeout(PATIENCE):
            await here.server.wait_closed()
