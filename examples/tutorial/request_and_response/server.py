import asyncio

import sockrpc

app = sockrpc.App()


@app.method("uppercase")
def uppercase(call: sockrpc.Call) -> str:
    return call.text.upper()


@app.method("myip")
def myip(call: sockrpc.Call) -> str:
    return str(call.socket.remote_address[0])


@app.method("slowly")
async def slowly(call: sockrpc.Call) -> bytes:
    await asyncio.sleep(0.5)
    return call.payload


@app.method("divide")
def divide(call: sockrpc.Call) -> str:
    dividend, divisor = call.text.split("/")
    return str(int(dividend) / int(divisor))
