"""A server behind nginx or HAProxy, with examples/nginx.conf or examples/haproxy.cfg.

python examples/behind_a_proxy.py [PORT]

"""

import asyncio
import http
import logging
import sys

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

import sockrpc

LOG = logging.getLogger("behind_a_proxy")
# Only a proxy's word counts: anybody else could write whatever they like into the header.
PROXIES = {"127.0.0.1", "::1"}

app = sockrpc.App()


@app.method("myip")
def myip(call: sockrpc.Call) -> str:
    return str(call.socket.state.address)


@app.method("wait")
async def wait(call: sockrpc.Call) -> str:
    try:
        await asyncio.sleep(float(call.text))
    except asyncio.CancelledError:
        LOG.info("aborted: %s", call.abort_reason)
        raise
    return "done"


def process_request(socket: sockrpc.Socket, request: Request) -> Response | None:
    """Tells the proxy that this server is alive, and notes who stands behind the proxy."""
    if request.path.partition("?")[0] == "/health":
        ok = http.HTTPStatus.OK
        return Response(ok, ok.phrase, Headers({"Content-Type": "text/plain"}), b"ok\n")
    peer = socket.remote_address[0]
    # Where there are several, in one line or in more, the last is what the proxy itself has seen.
    forwarded = ",".join(request.headers.get_all("X-Forwarded-For")).rpartition(",")[2].strip()
    socket.state.address = forwarded if forwarded and peer in PROXIES else peer
    return None


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    sockrpc.run(app, "127.0.0.1", port, path="/socket", process_request=process_request)
