import logging

import sockrpc

LOG = logging.getLogger("tutorial")

app = sockrpc.App()


@app.on_connect
def greet(socket: sockrpc.Socket) -> None:
    socket.notify_nowait("welcome", "nice to see you")


@app.on("ping")
async def ping(notification: sockrpc.Notification) -> None:
    LOG.info("ping: %r", notification.text)
    await notification.socket.notify("pong", notification.payload)
