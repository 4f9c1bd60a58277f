"""Runs jobs side by side: as many as the cores can take, and the begin of the longest chain first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass


@dataclass(eq=False)
class Job:
    """Something to do, mostly a process to run.

    Attributes:
        action: Called in a thread; True if the jobs that come after it may run.
        seconds: About how long it takes on an idle machine; it decides the order only.
        load: About how many cores it keeps busy meanwhile; most tests wait more than they work.
        after: What has to be done before.
        alone: Whether it runs when everything else has ended, with the machine to itself.
    """

    name: str
    action: Callable[[], bool]
    seconds: float = 1.0
    load: float = 1.0
    after: tuple[Job, ...] = ()
    alone: bool = False


def run_jobs(jobs: Sequence[Job], capacity: float, at_most: int) -> None:
    """Runs all jobs but those that come after one that failed.

    Args:
        jobs: Each with all that it comes after.
        capacity: What the loads of the jobs that run at a time may add up to.
        at_most: How many may run at a time, however light they are.
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
        # Rounded, as 0.7 + 0.2 + 0.1 is not 1.
        return round(job.load + sum(each.load for each in running.values()), 6) <= capacity

    with ThreadPoolExecutor(max(1, len(jobs))) as pool:
        while True:
            for job in list(waiting):
                if fits(job):
                    waiting.remove(job)
                    running[pool.submit(job.action)] = job
            if not running:
                # What waits even now comes after something that failed.
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                if future.result():
                    done.add(job)


def to_the_end(job: Job, jobs: Sequence[Job]) -> float:
    """The seconds from the job's begin to the end of the longest chain of jobs that it begins."""
    return job.seconds + max((to_the_end(each, jobs) for each in jobs if job in each.after), default=0.0)
