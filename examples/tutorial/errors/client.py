import asyncio

import sockrpc
from sockrpc import DeadlineExceeded, RPCError


async def main() -> None:
    async with sockrpc.connect("ws://127.0.0.1:3000/socket") as client:
        print(await client.call("divide", "6/3"))
        for method, payload in [("divide", "6"), ("divide", "6/0"), ("multiply", "6"), ("order", "milk")]:
            try:
                await client.call(method, payload)
            except RPCError as error:
                print(error, "-", error.outcome.name)

        try:
            await client.call("order", "coffee")
        except RPCError as error:
            print(error, "- again in", error.retry_after, "seconds")

        try:
            await client.call("order", "tea", timeout=0.5)
        except DeadlineExceeded:  # it is a TimeoutError too
            print("too late")

        ordering = client.start("order", "tea")
        await asyncio.sleep(0.5)
        outcome = await ordering.cancel()  # waits until the tea is back in stock
        print("cancelled:", outcome.name)


asyncio.run(main())
