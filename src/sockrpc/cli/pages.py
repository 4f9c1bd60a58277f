"""Ordinary HTTP beside the endpoint: a page, the JavaScript client, a health check."""

from __future__ import annotations

import functools
import http
import mimetypes
import re
from collections.abc import Callable, Mapping
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from sockrpc.sockets import Socket

__all__ = ["file_response", "page_routes", "plain_routes", "serve_pages"]

Route = Callable[[Request], Response]

# A Host that may be shown: a name or an address, and a port.
HOST = re.compile(r"[\w.:\[\]-]{1,300}", re.ASCII)

# Pages are small and change during development; a validator would cost more than it saves.
CACHE_CONTROL = "no-cache"


def file_response(name: str, body: bytes) -> Response:
    """An HTTP response that holds a file, its type taken from its name."""
    # The system's table is not asked: Windows has text/plain for .js, which browsers refuse as a module.
    kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0]
    kind = kind or "application/octet-stream"
    if kind.startswith("text/"):
        kind += "; charset=utf-8"
    headers = Headers(
        [("Content-Type", kind), ("Cache-Control", CACHE_CONTROL), ("X-Content-Type-Options", "nosniff")]
    )
    return Response(http.HTTPStatus.OK.value, http.HTTPStatus.OK.phrase, headers, body)


def page_routes(page: Path | None = None, *beside: str) -> dict[str, Route]:
    """Return the responses by path: "/" with a page, "/sockrpc.js" with the client, "/health".

    Files are read anew for each request, so that editing them needs no restart.

    Args:
        page: The page.
        beside: Names of files in the page's folder that it needs.
    """
    script = resources.files("sockrpc") / "js" / "sockrpc.js"
    routes: dict[str, Route] = {"/health": healthy, "/sockrpc.js": functools.partial(read_response, script)}
    if page is not None:
        routes["/"] = functools.partial(read_response, page)
        for name in beside:
            routes[f"/{name}"] = functools.partial(read_response, page.with_name(name))
    return routes


def plain_routes(path: str | None, *, secure: bool) -> dict[str, Route]:
    """Return the responses without a page: "/" with a few lines about the server, and "/health".

    Args:
        path: The path of the endpoint, None for every path.
        secure: It is reached by wss.
    """
    return {"/": functools.partial(say_what_is_here, path or "/", secure), "/health": healthy}


def healthy(request: Request) -> Response:
    """Answer the health check of a load balancer."""
    return file_response("health.txt", b"ok\n")


def read_response(file: Traversable, request: Request) -> Response:
    """A file as it is now."""
    return file_response(file.name, file.read_bytes())


def say_what_is_here(path: str, secure: bool, request: Request) -> Response:
    """Return a few lines for people who open the address of a server in a browser."""
    hosts = request.headers.get_all("Host")
    host = hosts[0] if hosts and HOST.fullmatch(hosts[0]) else "HOST"
    endpoint = f"{'wss' if secure else 'ws'}://{host}{path}"
    lines = [
        "Here is a server of sockrpc: RPC over WebSocket.",
        "",
        f"endpoint       {endpoint}",
        f"try it         sockrpc call {endpoint} METHOD",
        "health check   /health",
        "a page here    sockrpc serve --page FILE",
    ]
    where = documentation()
    if where is not None:
        lines.append(f"documentation  {where}")
    return file_response("index.txt", "\n".join([*lines, ""]).encode())


@functools.cache
def documentation() -> str | None:
    """Return the URL of the documentation, from the metadata of the installed package."""
    try:
        urls = metadata.metadata("sockrpc").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return None
    named = dict(each.split(", ", 1) for each in urls)
    return named.get("Documentation")


def serve_pages(routes: Mapping[str, Route]) -> Callable[[Socket, Request], Response | None]:
    """A `process_request` that answers plain GET and HEAD requests of known paths."""
    # Nothing here is a closure: workers get it by pickle.
    return functools.partial(answer_page, routes)


def answer_page(routes: Mapping[str, Route], socket: Socket, request: Request) -> Response | None:
    """The page at the path of the request, if that is all it wants."""
    if request.method not in ("GET", "HEAD"):
        return None
    if "Upgrade" in request.headers or "Sec-WebSocket-Key" in request.headers:
        # The second alone comes from a WebSocket client behind a proxy that drops the first: no page for it.
        return None
    route = routes.get(request.path.partition("?")[0])
    return None if route is None else route(request)
