"""Runs jobs in parallel: as many as the cores can take, and the beginning of the longest chain first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass


@dataclass(eq=False)
class Job:
    """A job, in most cases a process to run.

    Attributes:
        action: Called in a thread; True if the jobs that come after it may run.
        seconds: Its approximate duration on an idle machine; this decides only the order.
        load: The approximate number of cores that it keeps busy; most tests wait more than they work.
        after: The jobs that have to be done before.
        alone: True if it needs the machine to itself.
    """

    name: str
    action: Callable[[], bool]
    seconds: float = 1.0
    load: float = 1.0
    after: tuple[Job, ...] = ()
    alone: bool = False


def run_jobs(jobs: Sequence[Job], capacity: float, at_most: int) -> None:
    """Run all jobs except those that come after a failed one.

    Args:
        jobs: The jobs, each with all its predecessors.
        capacity: The limit for the sum of the loads of concurrent jobs.
        at_most: The limit for the number of concurrent jobs, however light they are.
    """
    urgency = {job: to_the_end(job, jobs) for job in jobs}
    waiting = sorted(jobs, key=lambda job: (job.alone, -urgency[job]))
    running: dict[Future[bool], Job] = {}
    done: set[Job] = set()

    def fits(job: Job) -> bool:
        if not done.issuperset(job.after):
            return False
        if not running:
            return True
        if job.alone or any(each.alone for each in running.values()) or len(running) >= at_most:
            return False
        # Round the sum, as 0.7 + 0.2 + 0.1 is not 1.
        return round(job.load + sum(each.load for each in running.values()), 6) <= capacity

    with ThreadPoolExecutor(max(1, len(jobs))) as pool:
        while True:
            for job in list(waiting):
                if fits(job):
                    waiting.remove(job)
                    running[pool.submit(job.action)] = job
            if not running:
                # All remaining jobs come after one that failed.
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                if future.result():
                    done.add(job)


def to_the_end(job: Job, jobs: Sequence[Job]) -> float:
    """Return the seconds from the start of the job to the end of the longest chain that it begins."""
    return job.seconds + max((to_the_end(each, jobs) for each in jobs if job in each.after), default=0.0)
