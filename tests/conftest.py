"""Every asynchronous test runs on asyncio and on uvloop, and leaves nothing behind on either."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _pytest.junitxml import xml_key

import sockrpc
from sockrpc._debug import is_debug, live
from sockrpc.peer.table import live_entries
from sockrpc.websocket.loop import live_contexts

# Here, so that --hypothesis-profile knows its profiles.
from tests.kit import (
    properties,  # noqa: F401
    support,
)
from tests.kit.endings import run_to_end
from tests.kit.loops import LOOPS, new_event_loop

FILES = pytest.StashKey[set[Path]]()

# What is still on its way when a test ends (done-callbacks, transports that close) gets this many
# turns of the loop; no time passes in them.
TURNS = 200


# Each has a run of its own, on one interpreter only; all are marked `once`, for the other runs to leave out.
RUNS_OF_THEIR_OWN = (
    "browser",
    "conformance",
    "docs",
    "faults",
    "hostile",
    "long",
    "node",
    "packaging",
    "soak",
    "torture",
    "tools",
    "workers",
)
ORDINARY = "tests"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("runs", "for scripts/test_all.py")
    group.addoption(
        "--write-runs", type=Path, metavar="FILE", help="write which files have tests of which run"
    )
    group.addoption("--runs", type=Path, metavar="FILE", help="what --write-runs has written")
    group.addoption(
        "--run", metavar="NAME", help="with --runs: read only the files that have tests of this run"
    )
    group.addoption("--share", metavar="I/N", help="with --runs: of these files, every Nth from the Ith on")


def pytest_configure(config: pytest.Config) -> None:
    # Set where a wheel is what has to be tested.
    if os.environ.get("SOCKRPC_INSTALLED") and "site-packages" not in Path(sockrpc.__file__).parts:
        raise pytest.UsageError(f"the tests would run on {sockrpc.__file__}, which is not installed")
    runs = config.getoption("--runs")
    if runs is not None:
        chosen = json.loads(runs.read_text()).get(config.getoption("--run"), [])
        if share := config.getoption("--share"):
            first, step = map(int, share.split("/"))
            # By name: files of one folder, which are of one kind, are spread evenly.
            chosen = sorted(chosen)[first::step]
        config.stash[FILES] = {config.rootpath / file for file in chosen}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    # To read all files takes eight seconds, which each run would spend anew.
    files = config.stash.get(FILES, None)
    if files is None or collection_path.suffix != ".py" or collection_path in files:
        return None
    return True


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses; the hooks of folders below come earlier
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.get_closest_marker(name) for name in RUNS_OF_THEIR_OWN):
            item.add_marker("once")
        if item.path.parent.name == "cli":
            item.add_marker("command")
            item.add_marker("outside")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if inspect.iscoroutinefunction(metafunc.function):
        metafunc.fixturenames.append("loop_kind")
        metafunc.parametrize("loop_kind", LOOPS)
    if metafunc.definition.get_closest_marker("both_protocols"):
        metafunc.fixturenames.append("protocol")
        protocols = [*support.V0, *support.V1]
        metafunc.parametrize("protocol", protocols, ids=["v0.1", "v1"], indirect=True)


def pytest_collection_finish(session: pytest.Session) -> None:
    target = session.config.getoption("--write-runs")
    if target is not None:
        runs: dict[str, list[str]] = {}
        for item in session.items:
            file = str(item.path.relative_to(session.config.rootpath))
            for run in {*RUNS_OF_THEIR_OWN} & {mark.name for mark in item.iter_markers()} or {ORDINARY}:
                if file not in runs.setdefault(run, []):
                    runs[run].append(file)
        target.write_text(json.dumps(runs))


@pytest.fixture
def protocol(request: pytest.FixtureRequest) -> Iterator[str]:
    """What clients offer in a test that is marked `both_protocols`."""
    support.chosen[:] = [request.param]
    yield request.param
    support.chosen.clear()


@pytest.fixture(scope="module", autouse=True)
def what_stays_is_searched_no_more() -> None:
    """Every test ends with a collection, which leaves out what all share, and reports of tests."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)  # before the report is written
def pytest_sessionfinish(session: pytest.Session) -> None:
    report = session.config.stash.get(xml_key, None)
    if report is not None:
        times = os.times()
        report.add_global_property("cpu_seconds", str(sum(times[:4])))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    before = live()
    run(pyfuncitem.callspec.params["loop_kind"], pyfuncitem.obj, arguments)
    if is_debug():
        forget_exceptions(pyfuncitem)
        deadline = time.monotonic() + 1.0
        # A thread that has handed over its answer may hold it for a moment more.
        while (left := created_and_not_freed(before)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not left, f"of what is compiled, so much was created and not freed: {left}"
    return True


def created_and_not_freed(before: dict[str, int]) -> dict[str, int]:
    gc.collect()
    return {
        name: count - before.get(name, 0) for name, count in live().items() if count > before.get(name, 0)
    }


def forget_exceptions(item: pytest.Item) -> None:
    """What pytest keeps of the log: an exception refers to the frames it went through, and to all in them."""
    plugin = item.config.pluginmanager.get_plugin("logging-plugin")
    assert plugin is not None
    for record in (*plugin.report_handler.records, *plugin.caplog_handler.records):
        record.exc_info = record.args = None


def run(kind: str, test: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Run one test on a loop of its own and look at what it left behind."""
    loop = new_event_loop(kind)
    unexpected: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unexpected.append(context))
    try:
        asyncio.set_event_loop(loop)
        run_to_end(loop, test(**arguments))
        left = loop.run_until_complete(what_is_left())
        contexts = live_contexts()
    finally:
        asyncio.set_event_loop(None)
        loop.close()
    gc.collect()
    assert not unexpected, f"exceptions reached the loop's handler: {unexpected}"
    assert not left, f"tasks were left behind: {left}"
    assert live_entries() == 0, "entries were left in a request table"
    assert contexts == 0, "connections or servers were left on the loop"


async def what_is_left() -> set[asyncio.Task[Any]]:
    """The tasks that have not ended by themselves."""
    left: set[asyncio.Task[Any]] = set()
    for _ in range(TURNS):
        left = asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]
        if not left and live_entries() == 0 and live_contexts() == 0:
            break
        await asyncio.sleep(0)
    return left


@pytest.fixture(autouse=True)
def no_unexpected_errors_in_the_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test in which sockrpc logged an error, unless it looks at the log itself (caplog)."""
    records: list[str] = []

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(self.format(record))

    recorder = Recorder(logging.ERROR)
    logger = logging.getLogger("sockrpc")
    logger.addHandler(recorder)
    try:
        yield
    finally:
        logger.removeHandler(recorder)
    if "caplog" not in request.fixturenames:
        assert not records, f"errors were logged: {records}"
