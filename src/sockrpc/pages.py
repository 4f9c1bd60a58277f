"""Ordinary HTTP beside the endpoint: a page, the JavaScript client, a health check."""

from __future__ import annotations

import functools
import http
import mimetypes
from collections.abc import Callable, Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from sockrpc.sockets import Socket

__all__ = ["file_response", "pages", "serve_pages"]

# Pages are small and change during development; a validator would cost more than it saves.
CACHE_CONTROL = "no-cache"


def file_response(name: str, body: bytes) -> Response:
    """An HTTP response that holds a file, its type taken from its name."""
    # Not left to the system's table: Windows knows .js as text/plain, which browsers refuse as a module.
    kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0]
    kind = kind or "application/octet-stream"
    if kind.startswith("text/"):
        kind += "; charset=utf-8"
    headers = Headers(
        [("Content-Type", kind), ("Cache-Control", CACHE_CONTROL), ("X-Content-Type-Options", "nosniff")]
    )
    return Response(http.HTTPStatus.OK.value, http.HTTPStatus.OK.phrase, headers, body)


def pages(page: Path | None = None, *beside: str) -> dict[str, Callable[[], Response]]:
    """What to answer on which path: "/" with a page, "/sockrpc.js" with the client, "/health".

    Files are read anew for each request, so that editing them needs no restart.

    Args:
        page: The page.
        beside: Names of files in the page's folder that it needs.
    """
    routes: dict[str, Callable[[], Response]] = {
        "/health": functools.partial(file_response, "health.txt", b"ok\n"),
        "/sockrpc.js": functools.partial(read_response, resources.files("sockrpc") / "js" / "sockrpc.js"),
    }
    if page is not None:
        routes["/"] = functools.partial(read_response, page)
        for name in beside:
            routes[f"/{name}"] = functools.partial(read_response, page.with_name(name))
    return routes


def read_response(file: Traversable) -> Response:
    """A file as it is now."""
    return file_response(file.name, file.read_bytes())


def serve_pages(
    routes: Mapping[str, Callable[[], Response]],
) -> Callable[[Socket, Request], Response | None]:
    """A `process_request` that answers plain GET and HEAD requests of known paths."""
    # Nothing here is a closure: workers get it by pickle.
    return functools.partial(answer_page, routes)


def answer_page(
    routes: Mapping[str, Callable[[], Response]], socket: Socket, request: Request
) -> Response | None:
    """The page at the path of the request, if that is all it wants."""
    if "Upgrade" in request.headers or request.method not in ("GET", "HEAD"):
        return None
    route = routes.get(request.path.partition("?")[0])
    return None if route is None else route()
