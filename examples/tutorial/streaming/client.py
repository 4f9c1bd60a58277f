import asyncio

import sockrpc


async def main() -> None:
    async with sockrpc.connect("ws://127.0.0.1:3000/socket") as client:
        async for word in client.stream("generate", "one two three"):
            print(word)

        async for word in client.stream("generate", "four five six"):
            print(word)
            break  # the reset goes now

        print(await client.call("sum", items=["1", "2", "3"]))

        async with client.stream("shout", items=["hey", "you"]) as shouting:
            async for item in shouting:
                print(item)
            print(await shouting.result())

        async with client.stream("shout") as shouting:
            await shouting.send("step by step")
            print(await anext(shouting))
            await shouting.end()
            print(await shouting.result())


asyncio.run(main())
