import asyncio

import sockrpc


async def main() -> None:
    async with sockrpc.connect("ws://127.0.0.1:3000/socket") as client:
        pongs = client.on("pong")  # subscribed from here on
        for text in ("one", "two", "three"):
            await client.notify("ping", text)
        for _ in range(3):
            print(await anext(pongs))


asyncio.run(main())
