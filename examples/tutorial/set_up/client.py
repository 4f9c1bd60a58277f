import asyncio

import sockrpc


async def main() -> None:
    async with sockrpc.connect("ws://127.0.0.1:3000/socket") as client:
        print(await client.call("hello", "Python"))


asyncio.run(main())
