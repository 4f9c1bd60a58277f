"""The tutorial's procedures, in both forms of a server.

    python examples/both_forms.py            # the App form
    python examples/both_forms.py socket     # the socket form

Then, from another terminal:

    sockrpc call ws://127.0.0.1:3000/socket uppercase hello
    sockrpc call ws://127.0.0.1:3000/socket long_runing_task     # Ctrl-C stops the server's task
"""

import asyncio
import sys

import sockrpc

app = sockrpc.App()
everybody = sockrpc.Room()
app.on_connect(everybody.join)


@app.method("myip")
def myip(call: sockrpc.Call) -> str:
    return "%s:%d" % call.socket.remote_address[:2]


@app.method("uppercase")
def uppercase(call: sockrpc.Call) -> str:
    return call.text.upper()


@app.method("long_runing_task")
async def long_running_task(call: sockrpc.Call) -> str:
    await asyncio.sleep(3)  # aborted here by a reset or a lost connection
    return "done!"


@app.on("ping")
async def ping(notification: sockrpc.Notification) -> None:
    await notification.socket.notify("pong", notification.payload)


@app.on("broadcast")
def broadcast(notification: sockrpc.Notification) -> None:
    everybody.broadcast("message", notification.payload)


async def handle_socket(socket: sockrpc.Socket) -> None:
    everybody.join(socket)
    async for procedure in socket:
        match procedure:
            case sockrpc.Notification(event="ping", payload=payload):
                await socket.notify("pong", payload)
            case sockrpc.Notification(event="broadcast", payload=payload):
                everybody.broadcast("message", payload)
            case sockrpc.Call(method="myip") as call:
                await call.respond("%s:%d" % socket.remote_address[:2])
            case sockrpc.Call(method="uppercase") as call:
                await call.respond(call.text.upper())
            case sockrpc.Call(method="long_runing_task") as call:
                call.spawn_and_abort_on_reset(long_task(call))


async def long_task(call: sockrpc.Call) -> None:
    await asyncio.sleep(3)
    await call.respond("done!")


if __name__ == "__main__":
    sockrpc.run(handle_socket if "socket" in sys.argv else app, host="127.0.0.1", port=3000)
