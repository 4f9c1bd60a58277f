"""Autobahn's client loop on sockrpc's WebSocket level: `python echo_client.py URL AGENT [AT_A_TIME]`.

Asks the server at URL for the number of its cases, runs each as AGENT, and has the report written. Several
at a time save what most of them spend on waiting.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from sockrpc.process.event_loop import loop_factory
from sockrpc.websocket.loop import LoopContext, context_of_running_loop
from tests.conformance.peers import connect, echo


async def count_cases(url: str, context: LoopContext) -> int:
    answers: list[str | bytes] = []
    connection = await connect(f"{url}/getCaseCount", lambda _, message: answers.append(message), context)
    await connection.wait_lost()
    return int(answers[0])


async def visit(url: str, context: LoopContext) -> None:
    await (await connect(url, echo, context)).wait_lost()


async def main(url: str, agent: str, at_a_time: int) -> None:
    context = context_of_running_loop()
    context.acquire()
    count = await count_cases(url, context)
    numbers = iter(range(1, count + 1))

    async def run_some() -> None:
        for number in numbers:
            await visit(f"{url}/runCase?case={number}&agent={agent}", context)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_a_time):
            group.create_task(run_some())
    await visit(f"{url}/updateReports?agent={agent}", context)
    context.release()
    print(f"{count} cases", flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory("auto")) as runner:
        runner.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if sys.argv[3:] else 1))
