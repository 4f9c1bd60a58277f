"""Who may connect: a bearer token for programs, a cookie or a ticket for browsers.

    python examples/authentication.py [PORT]

A program sends its token in a header:

    sockrpc call --header "Authorization: Bearer alices-token" ws://127.0.0.1:3000/socket whoami

A page can set no header of a WebSocket. http://127.0.0.1:3000/ has both ways out: a cookie, which the browser
sends by itself, and a ticket, which the page fetches with its token and shows in the URL, once and within
half a minute.
"""

import hashlib
import http
import importlib.resources
import secrets
import sys
import time
from urllib.parse import parse_qs

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

import sockrpc

# Digests, so that a copy of this table lets nobody in, and looking one up tells nothing by its timing.
USERS = {
    hashlib.sha256(b"alices-token").digest(): "alice",
    hashlib.sha256(b"bobs-token").digest(): "bob",
}
SESSIONS: dict[str, str] = {}  # what a cookie stands for
TICKETS: dict[str, tuple[str, float]] = {}  # whom it lets in, and until when
TICKET_SECONDS = 30.0

CLIENT = importlib.resources.files("sockrpc") / "js" / "sockrpc.js"

PAGE = b"""<!doctype html>
<html lang="en"><meta charset="utf-8"><link rel="icon" href="data:,"><title>Who am I?</title>
<form>
  <label>Token <input name="token" value="alices-token"></label>
  <button data-action="ticket">Connect by ticket</button>
  <button data-action="login">Connect by cookie</button>
</form>
<output></output>
<script type="module">
import { SocketIo } from "/sockrpc.js";
document.forms[0].onsubmit = async event => {
  event.preventDefault();
  const { action } = event.submitter.dataset;  // "ticket" or "login"
  const headers = { Authorization: `Bearer ${document.forms[0].token.value}` };
  const answer = await fetch(`/${action}`, { headers });
  const query = action === "ticket" ? `?ticket=${await answer.text()}` : "";
  const socket = new SocketIo(`ws://${location.host}/socket${query}`);
  const user = await socket.call("whoami").then(bytes => new TextDecoder().decode(bytes), String);
  document.querySelector("output").value = user;
  socket.close();
};
</script>"""

app = sockrpc.App()


@app.method("whoami")
def whoami(call: sockrpc.Call) -> str:
    return str(call.socket.state.user)


def process_request(socket: sockrpc.Socket, request: Request) -> Response | None:
    """Lets in who is known; everybody gets the page, and who is known a ticket."""
    # Not by urlsplit, which takes the beginning of "//name/path" for a host.
    path, _, query = request.path.partition("?")
    if path == "/":
        return page(PAGE, "text/html")
    if path == "/sockrpc.js":
        return page(CLIENT.read_bytes(), "text/javascript")
    user = by_bearer(request) or by_cookie(request) or by_ticket(parse_qs(query))
    if user is None:
        return respond(http.HTTPStatus.UNAUTHORIZED, b"Who are you?\n", {"WWW-Authenticate": "Bearer"})
    if path == "/ticket":
        return ticket(user)
    if path == "/login":
        return login(user)
    socket.state.user = user
    return None


def by_bearer(request: Request) -> str | None:
    # Where the header comes twice, `get` raises, and the answer is 400.
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return USERS.get(hashlib.sha256(token.encode()).digest()) if scheme.lower() == "bearer" else None


def by_cookie(request: Request) -> str | None:
    # Gateways from HTTP/2 may leave a line for each cookie. And not by http.cookies, for which a single
    # cookie that it does not like, of some other program perhaps, spoils all the others.
    for cookie in ";".join(request.headers.get_all("Cookie")).split(";"):
        name, _, value = cookie.strip().partition("=")
        if name == "session" and value in SESSIONS:
            return SESSIONS[value]
    return None


def by_ticket(query: dict[str, list[str]]) -> str | None:
    # Taken out: a ticket that is found in a proxy's log is of no use to anybody.
    user, until = TICKETS.pop(query.get("ticket", [""])[0], (None, 0.0))
    return user if time.monotonic() < until else None


def ticket(user: str) -> Response:
    now = time.monotonic()
    for old in [each for each, (_, until) in TICKETS.items() if until < now]:
        del TICKETS[old]
    made = secrets.token_urlsafe()
    TICKETS[made] = user, now + TICKET_SECONDS
    return respond(http.HTTPStatus.OK, made.encode())


def login(user: str) -> Response:
    session = secrets.token_urlsafe()
    SESSIONS[session] = user
    # `Secure` as well, where the server speaks TLS.
    return respond(
        http.HTTPStatus.OK, b"", {"Set-Cookie": f"session={session}; HttpOnly; SameSite=Strict; Path=/"}
    )


def page(body: bytes, kind: str) -> Response:
    return respond(http.HTTPStatus.OK, body, {"Content-Type": f"{kind}; charset=utf-8"})


def respond(status: http.HTTPStatus, body: bytes, headers: dict[str, str] | None = None) -> Response:
    fields = Headers({"Cache-Control": "no-store", **(headers or {})})
    return Response(status, status.phrase, fields, body)


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    sockrpc.run(app, "127.0.0.1", port, path="/socket", process_request=process_request)
