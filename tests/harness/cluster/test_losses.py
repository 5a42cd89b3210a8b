"""A worker that runs out of memory or disk is lost with a reason in one line, and costs its sample at most."""

import errno
import signal
import sys
from collections import deque
from itertools import pairwise
from types import ModuleType, SimpleNamespace

import pytest

from harness.cluster import driver as driver_module
from harness.cluster.driver import Loss
from harness.cluster.losses import reason
from harness.cluster.pool import RayPool
from harness.errors import RequestError
from harness.store import Store
from tests.harness.cluster.fakes import FakePool, FakeWorker, Samples, cell, drive


class RayError(Exception):
    """The names below are those of ray.exceptions; its messages are those of Ray 2.60."""


class OutOfMemoryError(RayError):
    pass


class OutOfDiskError(RayError):
    pass


class ObjectStoreFullError(RayError):
    pass


class ActorDiedError(RayError):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__("ray::RayWorker.step()")
        self.cause = cause


MEMORY = (
    "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.7, ID: 5b26) was "
    "23.10GB used / 23.54GB limit (0.981)\nOOM kill reason: Memory usage 24803540992B exceeded threshold of "
    "24012677120B (95.0% of 25276502016B limit)\nRefer to the documentation on how to address the out of memory issue: https://docs"
)
OLDER = (
    "Task was killed due to the node running low on memory.\nMemory on the node (IP: 10.0.0.7, ID: 8c5a) where the "
    "task (actor ID: f9cc, name=RayWorker.step, pid=548) was running was 23.10GB / 23.54GB (0.981), which exceeds the "
    "memory usage threshold of 0.95. Ray killed this worker"
)
DISK = (
    "01ff\nThe object cannot be created because the local object store is full and the local disk's utilization is "
    "over capacity (95% by default).Tip: Use `df` on this node to check disk usage"
)
KILLED = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: RayWorker\n\tactor_id: 5b\n\tpid: 7\n"
    "\tip: 10.0.0.7\nThe actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit "
    "detail: Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the"
)
FULL = OSError(errno.ENOSPC, "No space left on device", "/home/me/.cache/longreach/samples/ab/abc")

CASES = {
    "memory": (OutOfMemoryError(MEMORY), "out of memory on node7: 23.10GB of 23.54GB were used, and Ray ended"),
    "memory, older": (OutOfMemoryError(OLDER), "out of memory on node7: 23.10GB of 23.54GB were used, and Ray ended"),
    "disk of Ray": (OutOfDiskError(DISK), "the disk on node7 is full: Ray's object store and the disk that it spills"),
    "store": (RayTaskError(ObjectStoreFullError("it is")), "Ray's object store on node7 is full"),
    "disk": (RayTaskError(FULL), "the disk on node7 is full: No space left on device: /home/me/.cache/longreach"),
    "python": (RayTaskError(MemoryError()), "out of memory on node7"),
    "torch": (
        RayTaskError(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")),
        "out of memory on node7: DefaultCPUAllocator: can't allocate memory",
    ),
    "killed": (ActorDiedError(KILLED), "its process on node7 was killed or crashed; where memory ran out"),
}


@pytest.fixture
def ray_names(monkeypatch):
    """In place of an installed Ray."""
    exceptions = ModuleType("ray.exceptions")
    exceptions.RayError, exceptions.RayTaskError = RayError, RayTaskError
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    monkeypatch.setitem(sys.modules, "ray.exceptions", exceptions)


def pool_that_gets(error: Exception) -> RayPool:
    def get(ref):
        raise error

    pool = RayPool.__new__(RayPool)
    node = {"NodeID": "n7", "NodeManagerHostname": "node7", "Alive": True}
    pool._ray = SimpleNamespace(
        get=get, nodes=lambda: [node], wait=lambda refs, **_: (refs, []), kill=lambda actor, **_: None
    )
    pool._nodes, pool._actors = {0: "n7"}, {0: "actor"}
    pool._due, pool._whose = {0: deque(["ref"])}, {"ref": 0}
    return pool


@pytest.mark.parametrize("name", CASES)
def test_each_way_to_be_lost_is_one_clear_line_that_names_the_machine(name, ray_names):
    error, says = CASES[name]
    pool = pool_that_gets(error)
    ((worker, loss),) = pool.events(0.0)
    assert (worker, loss.blame) == (0, True)
    assert loss.reason.startswith(says)
    assert "\n" not in loss.reason and len(loss.reason) <= 300
    assert pool._actors == {}


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "No such file", "x.npy"), ValueError("the suite is wrong")])
def test_what_a_program_does_wrong_ends_the_run(error, ray_names):
    with pytest.raises(type(error), match=str(error.args[-1])):
        pool_that_gets(RayTaskError(error)).events(0.0)


def test_memory_of_a_worker_that_never_said_where_it_is():
    assert reason(OutOfMemoryError(MEMORY)).startswith("out of memory on 10.0.0.7: 23.10GB of 23.54GB")


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr(driver_module, "SampleCache", Samples)
    monkeypatch.setattr(driver_module, "_tokenizer", lambda planned: FakeWorker()._loaded(planned).model.tokenizer)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("name", ["memory", "disk", "killed"])
def test_a_sample_that_fills_its_workers_machine_twice_is_an_error_and_the_rest_goes_on(tmp_path, in_process, name):
    error = getattr(CASES[name][0], "cause", CASES[name][0])

    def dies(worker, example_id):
        return Loss(reason=reason(error, "node7")) if example_id == "t-2" else None

    told = drive([cell(n=5)], Store(tmp_path), FakePool(1, dies=dies))
    (record,) = [record for record in told.records if record.status != "ok"]
    assert (record.example_id, record.status, len(told.records)) == ("t-2", "error", 5)
    assert record.error.startswith("2 workers were lost while they answered this sample alone; the last: ")
    assert CASES[name][1].partition(":")[0] in record.error


class FullDisk(FakePool):
    """Worker 0 works; those that are started after it lie on a machine without room, and cannot begin anything."""

    bad = 1

    def events(self, timeout_s):
        found = []
        for worker, event in super().events(timeout_s):
            if worker >= self.bad and getattr(event, "ids", None) is not None:
                self.workers.pop(worker)
                event = Loss(reason=reason(FULL, "node7"))
            found.append((worker, event))
        return found


def test_one_machine_with_a_full_disk_does_not_end_the_run(tmp_path, in_process, monkeypatch):
    monkeypatch.setattr(driver_module, "_GROW_S", 0.0)  # as if much time passed between two tries
    store, pool = Store(tmp_path), FullDisk(2)
    told = drive([cell(f"t{i}", n=8) for i in range(4)], store, pool)
    assert [record.status for record in told.records] == ["ok"] * 32
    assert any("the disk on node7 is full" in line for line in told.said)


def test_a_machine_that_only_loses_workers_is_tried_less_and_less_often(tmp_path, in_process, monkeypatch):
    clock, tries = [0.0], []
    monkeypatch.setattr(driver_module.time, "monotonic", lambda: clock[0])

    class Timed(FullDisk):
        def start(self, interpreter):
            tries.append(clock[0])
            return super().start(interpreter)

        def events(self, timeout_s):
            clock[0] += 0.5
            return super().events(timeout_s)

    drive([cell(f"t{i}", n=60) for i in range(4)], Store(tmp_path), Timed(2))
    waits = [after - before for before, after in pairwise(tries[1:])]
    assert len(waits) > 3 and waits == sorted(waits) and waits[-1] >= 8


def test_full_disks_everywhere_end_the_run_with_the_reason(tmp_path, in_process):
    class Everywhere(FullDisk):
        bad = 0

    with pytest.raises(
        RequestError, match=r"model 'm': 3 workers were lost .* the last one said: the disk on node7 is full: No space"
    ):
        drive([cell()], Store(tmp_path), Everywhere(1))


@pytest.mark.parametrize(
    ("edited", "says"),
    [
        (True, "source was edited since this run began.*what is recorded is kept; the same command goes on"),
        (False, "worker on h: Longreach is 1 .source bbb. there and 1 .source aaa. here: install the same versions"),
    ],
)
def test_an_edit_during_a_run_is_told_from_another_version_on_a_node(tmp_path, in_process, monkeypatch, edited, says):
    monkeypatch.setattr(driver_module, "source_changed", lambda ours: edited)
    pool = FakePool(1, versions={"Longreach": "1 (source bbb)"})
    with pytest.raises(RequestError, match=says):
        driver_module.Driver(
            [cell()], pool, Store(tmp_path), SimpleNamespace(), versions={"Longreach": "1 (source aaa)"}
        ).run()


def test_the_source_counts_as_edited_when_it_is_not_what_the_run_began_with():
    from harness.cluster.worker import source_changed, versions

    assert not source_changed(versions()["Longreach"])
    assert source_changed("0.1.0 (source 000000000000)")
