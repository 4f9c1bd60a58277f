import logging

import sockrpc

LOG = logging.getLogger("tutorial")

app = sockrpc.App()
everybody = sockrpc.Room()


@app.on_connect
def enter(socket: sockrpc.Socket) -> None:
    everybody.join(socket)  # it leaves by itself when the connection is lost
    LOG.info("in the room: %d", len(everybody))


@app.on_disconnect
def leave(socket: sockrpc.Socket) -> None:
    LOG.info("in the room: %d", len(everybody))


@app.on("broadcast")
def broadcast(notification: sockrpc.Notification) -> None:
    told = everybody.broadcast("message", notification.payload)
    LOG.info("told %d", told)
