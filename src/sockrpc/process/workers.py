"""`run` with workers: checks what they are given, binds, and starts their supervisor."""

from __future__ import annotations

import pickle
import socket as socket_module
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

from sockrpc.app import App
from sockrpc.errors import UsageError
from sockrpc.limits import SERVER_KEYWORDS, make_limits
from sockrpc.listen.serve_options import ServeOptions
from sockrpc.listen.server_hooks import UNWINDING
from sockrpc.listen.unix import check_uds
from sockrpc.listen.worker_sockets import SHARES_OUT, WorkerSockets
from sockrpc.process.event_loop import LAST_CHANCE, loop_factory
from sockrpc.process.supervisor import EXTRA_PATIENCE, Supervisor
from sockrpc.process.worker import WorkerConfig
from sockrpc.server import Server, serve

__all__ = ["run_workers"]


def run_workers(
    app: str,
    workers: int,
    host: str | None = None,
    port: int | None = None,
    *,
    loop: str = "auto",
    on_started: Callable[[Server], None] | None = None,
    on_listening: Callable[[Sequence[Any]], None] | None = None,
    prepare: Callable[[], None] | None = None,
    own_listeners: bool = SHARES_OUT,
    **options: Unpack[ServeOptions],
) -> None:
    """Run several workers, as `sockrpc.run` does.

    Args:
        app: MODULE:APP.
        workers: How many.
        host: As for `run`.
        port: As for `run`.
        loop: As for `run`.
        on_started: Called in each worker.
        on_listening: Called here with the addresses when all workers serve.
        prepare: Called in each worker before it imports the app.
        own_listeners: See `WorkerSockets`.
        options: The options of `serve`.

    Raises:
        OSError: The address cannot be listened on.
        UsageError: The arguments do not fit together, or there is no such app.
        SockRPCError: A worker failed before it served, or had to be killed at the stop.
    """
    if workers < 1:
        raise UsageError(f"workers is a number of processes, at least 1, not {workers!r}")
    if options.get("uds") is None and options.get("sock") is None:
        host = "127.0.0.1" if host is None else host
        port = 3000 if port is None else port
    if "{pid}" not in (options.get("inspect_path") or "{pid}"):
        raise UsageError(
            "with workers inspect_path needs {pid}, such as top-{pid}.sock, "
            "as each process has a socket of its own"
        )
    # Errors in the arguments are reported here, once.
    serve(App(), host, port, **options)
    loop_factory(loop)
    given: dict[str, Any] = dict(options)
    uds = check_uds(given.pop("uds", None))
    sock, reuse_port = given.pop("sock", None), given.pop("reuse_port", None)
    can_be_handed_over(given | {"on_started": on_started, "prepare": prepare})
    limits = make_limits({name: value for name, value in given.items() if name in SERVER_KEYWORDS}, "server")
    patience = limits.stop_grace + limits.abort_grace + limits.close_timeout + LAST_CHANCE
    # For on_stop hooks.
    patience += limits.abort_grace + UNWINDING
    sockets = (sock,) if isinstance(sock, socket_module.socket) else tuple(sock or ())
    bound = WorkerSockets(host, port, uds, sockets, reuse_port=bool(reuse_port), own_listeners=own_listeners)
    patience += EXTRA_PATIENCE
    config = WorkerConfig(app, given, loop, bound.is_ours, on_started, prepare, patience)
    Supervisor(config, bound, workers, patience, on_listening).run()


def can_be_handed_over(options: Mapping[str, object]) -> None:
    """Workers get what they need by pickle, which knows functions by the names of their modules.

    Raises:
        UsageError: That is impossible with one of the options.
    """
    for name, value in options.items():
        try:
            pickle.dumps(value)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            hint = "a function that makes the context" if name == "ssl" else "a function of a module"
            raise UsageError(f"{name} cannot be handed to workers ({error}): pass {hint}") from None
