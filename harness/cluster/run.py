"""A plan's cells on a cluster (`--executor ray`), or in processes of this machine."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from harness.cluster import pool
from harness.cluster.driver import Driver, Pool
from harness.cluster.processes import ProcessPool
from harness.cluster.worker import versions
from harness.plan import Plan, PlannedCell, RunSettings
from harness.runner import Progress, unfinished
from harness.samples import SampleCache
from harness.status import WorkerRow
from harness.store import Store


@contextmanager
def joined(address: str | None, run: RunSettings, device: str, n_cells: int) -> Iterator[pool.RayPool]:
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


def run_in_processes(
    plan: Plan,
    store: Store,
    cells: Sequence[PlannedCell],
    *,
    device: str,
    n: int,
    progress: Progress,
    shows: Callable[[Sequence[WorkerRow]], None],
) -> None:
    """Run the unfinished cells in `n` processes at once, each under the interpreter that its method names.

    They are gone when this returns, with what they held of the device.
    """
    progress.says("building samples")
    SampleCache().prepare(cells)
    run_on(ProcessPool(plan.run, device=device, n=n), plan, store, cells, progress=progress, shows=shows)
