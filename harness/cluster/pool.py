"""Workers as actors of a Ray cluster. All that Longreach asks of Ray is here, and in `nodes`."""

import logging
import os
import shlex
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from harness.cluster.driver import Loss
from harness.cluster.losses import last_words, reason, takes_the_worker
from harness.cluster.worker import Facts, Order, Worker
from harness.errors import RequestError
from harness.interpreters import Interpreter
from harness.plan import RunSettings
from harness.startup import importing
from methods.longrope.search.measuring import Measurer, Setup
from methods.longrope.search.pooled import Task

_ANSWER_S = 10.0  # for an address
_FORM = "it should be HOST:PORT of a Ray cluster's head, or auto for the cluster that this machine belongs to"


class RayActors:
    """Actors of a Ray cluster, each a worker: what they answer, and what became of them."""

    def __init__(self, made: type, *, cpus: float = 1, gpus: float) -> None:
        import ray

        self._ray, self._cpus, self._gpus = ray, cpus, gpus
        self._class: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0, scheduling_strategy="SPREAD")(made)
        self._actors: dict[int, Any] = {}
        self._nodes: dict[int, str] = {}
        self._due: dict[int, deque[Any]] = {}  # what each worker has still to answer
        self._whose: dict[Any, int] = {}
        self._n_started = 0

    def room(self) -> int:
        """How many workers fit the nodes that are there, whoever else uses them."""
        return sum(workers_of(node["Resources"], self._gpus, self._cpus) for node in self._ray.nodes() if node["Alive"])

    def stop(self, worker: int) -> None:
        """End a worker."""
        self._forget(worker)
        self._ray.kill(self._actors.pop(worker), no_restart=True)

    def events(self, timeout_s: float) -> Sequence[tuple[int, Any]]:
        """What workers answered, each one's in its order; waits for the first."""
        refs = list(self._whose)
        if not refs:
            time.sleep(timeout_s)
            return []
        ready, rest = self._ray.wait(refs, timeout=timeout_s, fetch_local=False)
        if ready and rest:
            ready += self._ray.wait(rest, num_returns=len(rest), timeout=0, fetch_local=False)[0]
        there, found = set(ready), []
        for worker in dict.fromkeys(self._whose[ref] for ref in ready):
            due = self._due[worker]
            while due and due[0] in there:
                event = self._answer(worker, due[0])
                found.append((worker, event))
                if isinstance(event, Loss):
                    self._forget(worker)
                    self._ray.kill(self._actors.pop(worker), no_restart=True)
                    break
                del self._whose[due.popleft()]
        return found

    def _answer(self, worker: int, ref: Any) -> Any:
        from ray.exceptions import RayError, RayTaskError

        try:
            event = self._ray.get(ref)
        except RayTaskError as error:
            if isinstance(error.cause, Exception) and takes_the_worker(error.cause):
                return Loss(reason=reason(error.cause, self._host(worker)))
            raise error.cause if isinstance(error.cause, Exception) else error from None
        except RayError as error:  # its process, memory, disk, an object that went with its node
            return Loss(reason=reason(error, self._host(worker)), blame=not self._node_died(worker, str(error)))
        if isinstance(event, Facts):
            self._nodes[worker] = event.node
        return event

    def _node_died(self, worker: int, text: str) -> bool:
        alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        return (
            "node has died" in text or "node was terminated" in text or self._nodes.get(worker, "") not in {*alive, ""}
        )

    def _host(self, worker: int) -> str:
        found = (node for node in self._ray.nodes() if node["NodeID"] == self._nodes.get(worker))
        return next((str(node.get("NodeManagerHostname", "")) for node in found), "")

    def _begin(self, actor: Any) -> int:
        """A new worker; it says its facts when there is a place for it."""
        worker = self._n_started
        self._n_started += 1
        self._actors[worker] = actor
        self._due[worker] = deque()
        self._await(worker, actor.facts.remote())
        return worker

    def _await(self, worker: int, ref: Any) -> None:
        self._due[worker].append(ref)
        self._whose[ref] = worker

    def _forget(self, worker: int) -> None:
        for ref in self._due.pop(worker, ()):
            self._whose.pop(ref, None)
        self._nodes.pop(worker, None)


class RayPool(RayActors):
    """Workers that answer samples, with one CPU and the GPUs that the preset states."""

    def __init__(self, run: RunSettings, *, gpus: float, device: str) -> None:
        super().__init__(_actor_class(), gpus=gpus)
        self._run, self._device = run, device
        self._warm: list[Any] = []

    def warm(self, most: int) -> None:
        """Begin workers for the first `start`s, as far as there is room: they import while the driver still plans."""
        self._warm = [self._class.remote(self._run, self._device) for _ in range(min(most, self.room()))]

    def start(self, interpreter: Interpreter | None = None) -> int:
        """A new worker; it says its facts when there is a place for it."""
        if interpreter is None and self._warm:
            return self._begin(self._warm.pop())
        under = {} if interpreter is None else {"runtime_env": {"py_executable": shlex.quote(interpreter.path)}}
        return self._begin(self._class.options(**under).remote(self._run, self._device, interpreter is not None))

    def send(self, worker: int, order: Order | None, drops: Sequence[str]) -> None:
        """Ask a worker for a step."""
        self._await(worker, self._actors[worker].step.remote(order, tuple(drops)))


class RayMeasurers(RayActors):
    """Workers that measure a search's candidates, as its `pooled.Pool`. on_gpu: each on a GPU of its own.

    On a processor each takes as many CPUs as it has threads.
    """

    def __init__(self, setup: Setup, *, on_gpu: bool, n_threads: int) -> None:
        super().__init__(_measurer_class(), cpus=1 if on_gpu else n_threads, gpus=float(on_gpu))
        self.on_gpu = on_gpu
        self._arguments = {"setup": setup, "device": "cuda" if on_gpu else "cpu", "n_threads": n_threads}

    def start(self) -> int:
        """A new worker; it says its facts when there is a place for it."""
        return self._begin(self._class.remote(**self._arguments))

    def send(self, worker: int, task: Task | None) -> None:
        """Ask a worker for a step."""
        self._await(worker, self._actors[worker].step.remote(task))


def connect(address: str | None) -> None:
    """Join the cluster at an address, or start one on this machine. Raises RequestError."""
    try:
        import ray
    except ImportError as error:
        raise RequestError("--executor ray: Ray is not installed: pip install 'longreach[ray]'") from error
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    if where not in ("local", "auto"):
        _check_answers(where)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_worker_niceness", "0"
    )  # of workers started here: at Ray's own 15 any other work stops them
    options: dict[str, Any] = {"include_dashboard": False} if where == "local" else {}
    try:
        ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise RequestError(f"Ray cluster '{where}' cannot be joined: {last_words(error)}") from error


def disconnect() -> None:
    """Leave the cluster; one that was started here ends."""
    import ray

    ray.shutdown()


def gpus_and_device(run: RunSettings, device: str, n_cells: int) -> tuple[float, str]:
    """The GPUs of a worker, and its device. Raises RequestError for a cluster that has no room for one.

    device: what the command was given: `auto`, `cpu` or `cuda`.
    """
    import ray

    if device not in ("auto", "cpu", "cuda"):
        raise RequestError(f"device '{device}': a cluster's workers choose theirs: it should be auto, cpu or cuda")
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
    stated = run.gpus if run.gpus is not None else float(device == "cuda" or most > 0)
    gpus = 0.0 if device == "cpu" else stated
    if device == "cuda" and not gpus:
        raise RequestError("device 'cuda': the preset says [run] gpus = 0: it should be a part of a GPU, or at least 1")
    if not any(workers_of(node, gpus) for node in nodes):
        raise RequestError(
            f"each of {n_cells} cells needs 1 CPU and {gpus:g} GPUs ([run] gpus), the cluster has {len(nodes)} nodes, "
            f"and the most on one are {max((node.get('CPU', 0.0) for node in nodes), default=0.0):g} CPUs and "
            f"{most:g} GPUs"
        )
    return gpus, "cuda" if gpus else "cpu"


def measures_on_gpu(device: str, n_threads: int) -> bool:
    """Whether a search's workers have a GPU each. Raises RequestError for a cluster that has no room for one worker.

    device: what the command was given: `auto`, `cpu` or `cuda`. n_threads: that a worker on a processor computes with.
    """
    import ray

    if device not in ("auto", "cpu", "cuda"):
        raise RequestError(f"device '{device}': a cluster's workers choose theirs: it should be auto, cpu or cuda")
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = (max((node.get(name, 0.0) for node in nodes), default=0.0) for name in ("CPU", "GPU"))
    on_gpu = device == "cuda" or (device == "auto" and gpus >= 1)
    if not any(workers_of(node, float(on_gpu), 1 if on_gpu else n_threads) for node in nodes):
        needs = "1 CPU and 1 GPU" if on_gpu else f"{n_threads} CPUs, one a thread (OMP_NUM_THREADS)"
        raise RequestError(
            f"each worker of the search needs {needs}: the cluster has {len(nodes)} nodes, and the most on one are "
            f"{cpus:g} CPUs and {gpus:g} GPUs"
        )
    return on_gpu


def workers_of(resources: dict[str, float], gpus: float, cpus: float = 1) -> int:
    """How many workers a node holds."""
    by_cpu = int(resources.get("CPU", 0.0) / cpus)
    if not gpus:
        return by_cpu
    n_gpus = int(resources.get("GPU", 0.0))
    return min(by_cpu, n_gpus * int(1 / gpus + 1e-9) if gpus < 1 else int(n_gpus / gpus))


def _actor_class() -> type:
    import ray

    class RayWorker(Worker):
        """A worker that knows its node, and has imported what a model needs before it is asked for anything."""

        def __init__(self, run: RunSettings, device: str, own: bool = False) -> None:
            with importing():
                import harness.models.loading  # noqa: F401
            super().__init__(run, device, own)

        def facts(self) -> Facts:
            return replace(super().facts(), node=ray.get_runtime_context().get_node_id())

    return RayWorker


def _measurer_class() -> type:
    import ray

    class RayMeasurer(Measurer):
        """A worker that knows its node."""

        def facts(self) -> Facts:
            return replace(super().facts(), node=ray.get_runtime_context().get_node_id())

    return RayMeasurer


def _check_answers(address: str) -> None:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        raise RequestError(f"Ray cluster '{address}': {_FORM}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise RequestError(f"Ray cluster '{address}': nobody answers there ({error}): {_FORM}") from error
