"""`--executor ray`: a plan's cells on a cluster."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from harness.cluster import pool
from harness.cluster.driver import Driver, Pool
from harness.cluster.worker import versions
from harness.config import Plan, PlannedCell, RunSettings
from harness.runner import Progress, unfinished
from harness.status import WorkerRow
from harness.store import Store


@contextmanager
def joined(address: str | None, run: RunSettings, device: str, n_cells: int) -> Iterator[Pool]:
    """The cluster at an address, until the block ends. Raises RequestError where it cannot be had or has no room."""
    pool.connect(address)
    try:
        gpus, found = pool.gpus_and_device(run, device, n_cells)
        yield pool.RayPool(run, gpus=gpus, device=found)
    finally:
        pool.disconnect()


def run_on(
    workers: Pool,
    plan: Plan,
    store: Store,
    cells: Sequence[PlannedCell],
    *,
    progress: Progress,
    shows: Callable[[Sequence[WorkerRow]], None] | None = None,
) -> None:
    """Run the unfinished cells. Each record is on disk as soon as it has come here."""
    Driver(unfinished(plan, store, cells), workers, store, progress, versions=versions(), shows=shows).run()
