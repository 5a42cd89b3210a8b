"""Where cells run: in this process, in others of this machine, or on a Ray cluster."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from rich.console import Console

from harness import runner
from harness.errors import RequestError
from harness.manifest import manifest
from harness.plan import Plan, PlannedCell
from harness.progress import RunProgress
from harness.startup import importing
from harness.status import Both, StatusFile
from harness.store import Store
from harness.types import JSON

Executor = Literal["local", "ray"]


def execute(
    plan: Plan,
    store: Store,
    cells: Sequence[PlannedCell],
    *,
    executor: Executor,
    device: str,
    address: str | None,
    workers: int = 1,
    then: Callable[[], None],
) -> None:
    """Run the unfinished cells, then `then`, while the results folder is this process's. Raises RequestError.

    device: `auto`, `cpu`, `cuda`, and in this process `cuda:1`. address: of the Ray cluster, see `harness.cluster`.
    workers: processes of this machine that share its cores.
    """
    _check_workers(workers, executor)
    todo = runner.unfinished(plan, store, cells)
    apart = [planned for planned in todo if planned.method.interpreter is not None]
    if apart:
        from harness.cluster.processes import check_starts

        check_starts(apart, plan.run)
    status, bar = StatusFile(store.folder, todo, executor=executor), RunProgress(todo, Console(stderr=True))
    progress = Both(bar, status)
    if executor == "ray":
        from harness.cluster.run import joined, run_on

        # Ray takes seconds to start, and so does the import of torch and transformers: at once.
        with ThreadPoolExecutor(1) as beside:
            contents = beside.submit(_checked, plan, todo)
            with joined(address, plan.run, device, len(todo)) as pool:
                if apart:
                    from harness.cluster.nodes import check_environments

                    check_environments(apart)
                else:
                    pool.warm(sum(planned.cell.n_samples for planned in todo))
                with store.opened_for(contents.result()):
                    with bar.shown():
                        run_on(pool, plan, store, cells, progress=progress, shows=status.workers)
                    then()
        return
    checked = _checked(plan, todo)
    from harness.models.loading import check_device

    found = str(check_device(device))
    runner.check_machine(todo, found, plan.run.n_devices)
    if workers > 1 and found != "cpu":
        raise RequestError(f"--workers {workers}: on device '{found}' it should be 1, or --executor ray for many GPUs")
    elsewhere = todo if workers > 1 else apart
    with store.opened_for(checked):
        with bar.shown():
            if elsewhere:
                from harness.cluster.run import run_in_processes

                run_in_processes(
                    plan, store, elsewhere, device=found, n=workers, progress=progress, shows=status.workers
                )
                status.workers(None)
            if workers == 1:
                here = [planned for planned in cells if planned.method.interpreter is None]
                runner.run(plan, store, here, device=found, progress=progress)
        then()


def _check_workers(workers: int, executor: Executor) -> None:
    if workers < 1:
        raise RequestError(f"--workers {workers}: it should be at least 1")
    if workers > 1 and executor == "ray":
        raise RequestError(f"--workers {workers}: on a cluster they follow from its cores and GPUs: leave it out")


def _checked(plan: Plan, todo: Sequence[PlannedCell]) -> dict[str, JSON]:
    """The manifest of a plan that can be run, as far as its models' tokenizers tell."""
    with importing():
        import harness.models.loading  # noqa: F401
    contents = manifest(plan)
    runner.check_lengths(todo)
    return contents
