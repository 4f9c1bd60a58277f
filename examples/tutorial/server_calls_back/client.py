import asyncio

import sockrpc
from sockrpc import RPCError

mine = sockrpc.App()
shown = asyncio.Event()


@mine.method("confirm")
async def confirm(call: sockrpc.Call) -> str:
    print(call.text)
    return "yes" if "draft" in call.text else "no"


@mine.method("show")
def show(call: sockrpc.Call) -> None:
    print(call.text)
    shown.set()


async def main() -> None:
    uri = "ws://127.0.0.1:3000/socket"
    try:
        await sockrpc.connect(uri)
    except RPCError as error:
        print(error)

    async with sockrpc.connect(uri, app=mine, metadata={"authorization": "alices-token"}) as client:
        await client.notify("ready")
        await shown.wait()
        print(await client.call("delete", "draft.txt"))
        try:
            await client.call("delete", "thesis.txt")
        except RPCError as error:
            print(error)


asyncio.run(main())
