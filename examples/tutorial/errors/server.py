import asyncio

import sockrpc
from sockrpc import Code, RPCError

app = sockrpc.App()
stock = {"tea": 2, "coffee": 0}


@app.method("divide")
def divide(call: sockrpc.Call) -> str:
    dividend, _, divisor = call.text.partition("/")
    if not divisor:
        raise RPCError(Code.INVALID_ARGUMENT, "write it as 6/3")  # reaches the caller as it stands
    return str(int(dividend) / int(divisor))  # a divisor of 0 is a bug of this handler


@app.method("order")
async def order(call: sockrpc.Call) -> str:
    item = call.text
    if item not in stock:
        raise RPCError(Code.NOT_FOUND, f"there is no {item} here")
    if not stock[item]:
        raise RPCError(Code.RESOURCE_EXHAUSTED, f"{item} is sold out", retry_after=60)
    stock[item] -= 1
    call.on_abort(give_back, item)
    await asyncio.sleep(3)  # the payment; a reset is raised here
    return f"your {item} is on its way"


def give_back(item: str) -> None:
    stock[item] += 1
