import asyncio

import sockrpc

URI = "ws://127.0.0.1:3000/socket"


async def main() -> None:
    async with sockrpc.connect(URI) as alice, sockrpc.connect(URI) as bob:
        heard = [client.on("message") for client in (alice, bob)]
        await alice.notify("broadcast", "hello, all")
        print([await anext(messages) for messages in heard])


asyncio.run(main())
