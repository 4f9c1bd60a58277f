import asyncio

import sockrpc


async def main() -> None:
    async with sockrpc.connect("ws://127.0.0.1:3000/socket") as client:
        try:
            await client.call("long_running_task", timeout=0.5)
        except TimeoutError:
            print("gave up, and so did the server")

        task = asyncio.create_task(client.call("long_running_task"))
        await asyncio.sleep(0.5)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            print("cancelled, here and there")

        print(await client.call("long_running_task"))


asyncio.run(main())
