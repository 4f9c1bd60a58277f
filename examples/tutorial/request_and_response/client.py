import asyncio

import sockrpc


async def main() -> None:
    async with sockrpc.connect("ws://127.0.0.1:3000/socket") as client:
        print(await client.call("uppercase", "hello"))  # a payload is bytes; text is sent as UTF-8
        slow = asyncio.create_task(client.call("slowly", "first asked, second answered"))
        await asyncio.sleep(0)
        print(await client.call("uppercase", "second asked, first answered"))
        print(await slow)
        try:
            await client.call("divide", "1/0")
        except sockrpc.RPCError as error:
            print(error)


asyncio.run(main())
