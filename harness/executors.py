"""Where cells run: in this process, or on a Ray cluster."""

from collections.abc import Callable, Sequence
from typing import Literal

from rich.console import Console

from harness import runner
from harness.config import Plan, PlannedCell
from harness.manifest import manifest
from harness.models.loading import check_device
from harness.progress import RunProgress
from harness.status import Both, StatusFile
from harness.store import Store

Executor = Literal["local", "ray"]


def execute(
    plan: Plan,
    store: Store,
    cells: Sequence[PlannedCell],
    *,
    executor: Executor,
    device: str,
    address: str | None,
    then: Callable[[], None],
) -> None:
    """Run the unfinished cells, then `then`, while the results folder is this process's. Raises RequestError.

    device: `auto`, `cpu`, `cuda`, and in this process `cuda:1`. address: of the Ray cluster, see `harness.cluster`.
    """
    todo = runner.unfinished(plan, store, cells)
    contents = manifest(plan)
    runner.check_lengths(todo)
    status, bar = StatusFile(store.folder, todo, executor=executor), RunProgress(todo, Console(stderr=True))
    progress = Both(bar, status)
    if executor == "ray":
        from harness.cluster.run import joined, run_on

        with joined(address, plan.run, device, len(todo)) as pool, store.opened_for(contents):
            with bar.shown():
                run_on(pool, plan, store, cells, progress=progress, shows=status.workers)
            then()
        return
    found = str(check_device(device))
    runner.check_machine(todo, found)
    with store.opened_for(contents):
        with bar.shown():
            runner.run(plan, store, cells, device=found, progress=progress)
        then()
