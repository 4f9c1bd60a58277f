"""Every kind of event of the tables, with thousands of calls behind it: scenarios for `iterations`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import sockrpc
from tests.hostile.peer import Peer, message, reset
from tests.kit.inside import has_stopped
from tests.kit.support import opening
from tests.torture.stage import Hog, Stage, staged

IN_FLIGHT = 1024
THOUSANDS = 8000
WAITING = 16_000
# No limit of a connection stands in the way.
ROOMY = {"max_waiting_calls": 100_000}

Scenario = Callable[[], Awaitable[float]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


def note(name: str) -> bytes:
    return message(b"\x01" + bytes([len(name)]) + name.encode())


@scenario
async def requests_of_a_plain_function() -> float:
    async with staged() as stage:
        hog = await stage.hog()
        with stage.measured():
            await hog.calls("echo", WAITING)
            await stage.until(lambda counts: counts.calls_answered == WAITING)
        return stage.longest


@scenario
async def requests_that_spin() -> float:
    async with staged() as stage:
        hog = await stage.hog()
        with stage.measured():
            await hog.calls("work", 500)
            await stage.until(lambda counts: counts.calls_answered == 500)
        return stage.longest


@scenario
async def requests_that_wait() -> float:
    async with staged() as stage:
        hog = await stage.hog()
        with stage.measured():
            await hog.calls("wait", THOUSANDS)
            await stage.until(lambda counts: counts.calls_in_flight == THOUSANDS)
        return stage.longest


@scenario
async def requests_of_an_unknown_method() -> float:
    async with staged() as stage:
        hog = await stage.hog()
        with stage.measured():
            await hog.calls("nobody", WAITING)
            await stage.until(lambda counts: counts.calls_failed == WAITING)
        return stage.longest


@scenario
async def resets_of_running_and_waiting_calls() -> float:
    async with staged() as stage:
        hog = await stage.hog()
        await hog.calls("wait", WAITING)
        await stage.until(lambda counts: counts.calls_in_flight == WAITING)
        with stage.measured():
            await hog.resets(0, WAITING)
            await stage.until(lambda counts: counts.calls_running == 0)
        return stage.longest


@scenario
async def resets_of_running_calls_before_some_that_spin() -> float:
    async with staged() as stage:
        hog = await stage.hog()
        await hog.calls("wait", IN_FLIGHT)
        await hog.calls("work", THOUSANDS, IN_FLIGHT)
        await stage.until(lambda counts: counts.calls_in_flight == IN_FLIGHT + THOUSANDS)
        with stage.measured():
            await hog.resets(0, IN_FLIGHT)
            await stage.until(lambda counts: counts.calls_answered > 500)
        return stage.longest


@scenario
async def notifications_of_a_plain_function() -> float:
    async with staged() as stage:
        hog = await stage.hog()
        with stage.measured():
            await hog.send(note("note") * WAITING)
            await stage.until(lambda counts: stage.ran == WAITING)
        return stage.longest


@scenario
async def notifications_end_before_some_that_spin() -> float:
    async with staged(**ROOMY) as stage:
        hog = await stage.hog()
        await hog.send(note("waiting_note") * IN_FLIGHT + note("spinning_note") * THOUSANDS)
        await stage.until(lambda counts: counts.procedures_waiting == THOUSANDS)
        with stage.measured():
            stage.open_gate()
            await stage.until(lambda counts: stage.ran > IN_FLIGHT + 500)
        return stage.longest


@scenario
async def answers_of_many_before_some_that_spin() -> float:
    async with staged() as stage:
        hog = await stage.hog()
        await hog.calls("wait", IN_FLIGHT)
        await hog.calls("work", THOUSANDS, IN_FLIGHT)
        await stage.until(lambda counts: counts.procedures_waiting == THOUSANDS)
        with stage.measured():
            stage.open_gate()
            await stage.until(lambda counts: counts.calls_answered > IN_FLIGHT + 500)
        return stage.longest


@scenario
async def answers_of_many_before_many_that_are_quick() -> float:
    async with staged() as stage:
        hog = await stage.hog()
        await hog.calls("wait", IN_FLIGHT)
        await hog.calls("echo", WAITING - 1, IN_FLIGHT)
        await stage.until(lambda counts: counts.procedures_waiting == WAITING - 1)
        with stage.measured():
            stage.open_gate()
            await stage.until(lambda counts: counts.calls_in_flight == 0)
        return stage.longest


async def many_end(method: str, trigger: Callable[[Stage], object]) -> float:
    async with staged() as stage:
        hog = await stage.hog()
        await hog.calls(method, IN_FLIGHT)
        await hog.calls("work", THOUSANDS, IN_FLIGHT)
        await stage.until(lambda counts: counts.calls_in_flight == IN_FLIGHT + THOUSANDS)
        with stage.measured():
            trigger(stage)
            await stage.until(lambda counts: counts.calls_answered > 300)
        return stage.longest


@scenario
async def many_fail() -> float:
    return await many_end("fail_later", lambda stage: stage.open_gate())


@scenario
async def many_time_out() -> float:
    return await many_end("timed", lambda stage: None)


@scenario
async def a_connection_with_calls_is_lost() -> float:
    async with staged() as stage:
        hog = await stage.hog(reads=False)
        await hog.calls("wait", WAITING)
        await stage.until(lambda counts: counts.calls_in_flight == WAITING)
        with stage.measured():
            hog.cut()
            await stage.until(lambda counts: counts.calls_running == 0 and counts.procedures_waiting == 0)
        return stage.longest


@scenario
async def a_connection_with_undo_hooks_that_spin_is_lost() -> float:
    async with staged() as stage:
        hog = await stage.hog(reads=False)
        await hog.calls("undoing", IN_FLIGHT)
        await stage.until(lambda counts: counts.calls_running == IN_FLIGHT)
        with stage.measured():
            hog.cut()
            await stage.until(lambda counts: counts.calls_running == 0)
        return stage.longest


@scenario
async def a_connection_with_notifications_that_spin_is_lost() -> float:
    async with staged(max_in_flight=1, **ROOMY) as stage:
        hog = await stage.hog(reads=False)
        await hog.calls("wait", 2)
        await hog.send(note("spinning_note") * THOUSANDS)
        await stage.until(lambda counts: counts.procedures_waiting > THOUSANDS)
        with stage.measured():
            hog.cut()
            await stage.until(lambda counts: stage.ran > 500)
        return stage.longest


@scenario
async def on_connect_ends_before_many() -> float:
    async with staged(**ROOMY) as stage:
        hog = await stage.hog("/late")
        await hog.calls("wait", 900)
        await hog.calls("echo", WAITING, 1000)
        await stage.until(lambda counts: counts.calls_in_flight == WAITING + 900)
        with stage.measured():
            stage.admitted.set_result(None)
            await stage.until(lambda counts: counts.calls_in_flight == 900)
        return stage.longest


@scenario
async def output_opens_before_many() -> float:
    async with staged(output_high_bytes=10_000, output_low_bytes=0, **ROOMY) as stage:
        hog = await stage.hog(reads=False)
        await hog.calls("echo", 300, 0, bytes(60_000))
        await hog.calls("echo", WAITING, 1000)
        await stage.until(lambda counts: counts.procedures_waiting > WAITING)
        with stage.measured():
            hog.read()
            await stage.until(lambda counts: counts.calls_in_flight == 0)
        return stage.longest


async def stopping(limits: dict[str, float], method: str, until: Callable[[Stage], bool]) -> float:
    async with staged(**{**ROOMY, **limits}) as stage:
        hogs = [await stage.hog() for _ in range(4)]
        for hog in hogs:
            await hog.calls(method, IN_FLIGHT)
            await hog.send(note("waiting_note") * IN_FLIGHT)
            await hog.calls("echo", THOUSANDS, IN_FLIGHT)
            await hog.send(note("waiting_note") * THOUSANDS)
        await stage.until(lambda counts: counts.procedures_waiting == len(hogs) * 2 * THOUSANDS)
        with stage.measured():
            stage.server.close()
            await stage.until(lambda counts: until(stage))
        return stage.longest


@scenario
async def a_stop_begins() -> float:
    return await stopping({}, "wait", lambda stage: stage.counts().calls_stopped == 4 * THOUSANDS)


@scenario
async def the_grace_of_a_stop_ends() -> float:
    return await stopping(
        {"stop_grace": 0.5}, "wait", lambda stage: stage.counts().calls_stopped == 4 * (IN_FLIGHT + THOUSANDS)
    )


@scenario
async def the_abort_grace_of_a_stop_ends() -> float:
    return await stopping(
        {"stop_grace": 0.2, "abort_grace": 0.5},
        "stubborn",
        lambda stage: has_stopped(stage.server),
    )


async def spawned(trigger: Callable[[Stage], object]) -> float:
    async with staged() as stage:
        hog = await stage.hog()
        await hog.calls("spawner", 1, 0, b"2000")
        await stage.until(lambda counts: counts.calls_started == 1)
        with stage.measured():
            trigger(stage)
            await stage.until(lambda counts: counts.calls_running == 0)
        return stage.longest


@scenario
async def spawned_tasks_end() -> float:
    return await spawned(lambda stage: stage.open_gate())


@scenario
async def spawned_tasks_are_reset() -> float:
    return await spawned(lambda stage: stage.hogs[0].peer.send(reset(0)))


@scenario
async def threads_end() -> float:
    async with staged() as stage:
        hog = await stage.hog()
        with stage.measured():
            await hog.calls("thread", IN_FLIGHT)
            await hog.calls("work", 500, IN_FLIGHT)
            await stage.until(lambda counts: counts.calls_in_flight == 0)
        return stage.longest


@scenario
async def calls_that_wait_for_threads_are_reset() -> float:
    async with staged(max_threads=1) as stage:
        hog = await stage.hog()
        await hog.calls("blocked_thread", IN_FLIGHT)
        await hog.calls("work", THOUSANDS, IN_FLIGHT)
        await stage.until(lambda counts: counts.calls_in_flight == IN_FLIGHT + THOUSANDS)
        with stage.measured():
            await hog.resets(0, IN_FLIGHT)
            await stage.until(lambda counts: counts.calls_answered > 200)
        return stage.longest


async def iterating(
    count: int, work: Callable[[Stage, sockrpc.Socket], Awaitable[None]], calls: int
) -> float:
    stages: list[Stage] = []

    async def handle(socket: sockrpc.Socket) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(work(stages[0], socket))  # type: ignore[arg-type]

    async with staged(handle) as stage:
        stages.append(stage)
        hog = await stage.hog()
        await hog.calls("echo", 1)
        await stage.until(lambda counts: counts.calls_answered == 1)
        with stage.measured():
            for n in range(calls):
                await hog.calls("echo", 1, n)
                await stage.until(lambda counts, n=n: counts.calls_answered > n + 1)  # type: ignore[misc]
            await hog.calls("echo", THOUSANDS, calls)
            await stage.until(lambda counts: counts.calls_answered > THOUSANDS + calls)
        return stage.longest


async def respond_to_all(stage: Stage, socket: sockrpc.Socket) -> None:
    async for procedure in socket:
        if isinstance(procedure, sockrpc.Call):
            await procedure.respond(procedure.payload)


@scenario
async def one_task_takes_many_calls() -> float:
    return await iterating(1, respond_to_all, 1)


@scenario
async def thousands_of_tasks_take_few_calls() -> float:
    return await iterating(3000, respond_to_all, 20)


async def many_connections(trigger: Callable[[Stage], Awaitable[None]]) -> float:
    async with staged() as stage:
        for _ in range(300):
            await stage.hog(reads=False)
        with stage.measured():
            await trigger(stage)
        return stage.longest


@scenario
async def a_broadcast_to_many() -> float:
    async def broadcast(stage: Stage) -> None:
        for _ in range(3):
            assert stage.room.broadcast("news", bytes(100)) == 300
            await asyncio.sleep(0.01)

    return await many_connections(broadcast)


@scenario
async def many_connections_are_lost() -> float:
    async def cut(stage: Stage) -> None:
        await asyncio.to_thread(lambda: [hog.cut() for hog in stage.hogs])
        await stage.until(lambda counts: counts.connections == 0)

    return await many_connections(cut)


@scenario
async def many_connect() -> float:
    async with staged() as stage:
        port = stage.server.sockets[0].getsockname()[1]

        def connect() -> None:
            # All ask before the first is answered, and none of it is this loop's work.
            stage.hogs += [Hog(Peer(port, opened=False), reads=False) for _ in range(300)]
            for hog in stage.hogs:
                hog.peer.send(opening())
            for hog in stage.hogs:
                assert hog.peer.line.recv(4096).startswith(b"HTTP/1.1 101 ")

        with stage.measured():
            await asyncio.to_thread(connect)
        return stage.longest
