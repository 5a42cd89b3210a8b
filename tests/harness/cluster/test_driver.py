"""A driver's results folder, whatever its workers do."""

import os
import signal

import pytest

from harness.cluster import driver as driver_module
from harness.cluster.driver import Loss
from harness.errors import RequestError
from harness.store import Store
from tests.harness.cluster.fakes import FakePool, FakeWorker, Samples, Told, cell, drive, examples

CELLS = [cell(f"t{i}", n=6, method=method) for method in "vw" for i in range(3)]


@pytest.fixture(autouse=True)
def signals():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(autouse=True)
def samples(monkeypatch):
    monkeypatch.setattr(driver_module, "SampleCache", Samples)
    monkeypatch.setattr(driver_module, "_tokenizer", lambda planned: FakeWorker()._loaded(planned).model.tokenizer)


def ids_on_disk(store: Store, cells=CELLS) -> dict[str, list[str]]:
    return {planned.path: [record.example_id for record in store.records(planned.cell.key)] for planned in cells}


def expected(cells=CELLS) -> dict[str, list[str]]:
    return {planned.path: [example.id for example in examples(planned)] for planned in cells}


@pytest.mark.parametrize("n", [1, 2, 5, 50])
def test_every_cell_is_finished_whatever_the_number_of_workers(tmp_path, n):
    store, pool = Store(tmp_path), FakePool(n)
    told = drive(CELLS, store, pool)
    found = ids_on_disk(store)
    assert {path: sorted(ids) for path, ids in found.items()} == expected()
    assert all(store.is_finished(planned.cell.key) for planned in CELLS)
    assert len(told.records) == 36
    assert pool.workers == {}


def test_a_model_is_loaded_once_by_each_worker(tmp_path):
    cells = [cell(f"t{i}", model=model) for model in "mn" for i in range(5)]
    pool = FakePool(2)
    drive(cells, Store(tmp_path), pool)
    assert sorted(loaded for worker in pool.started for loaded in worker.loaded[:1]) == ["m", "n"]
    assert all(len(worker.loaded) <= 2 for worker in pool.started)


def test_a_run_goes_on_behind_what_is_recorded(tmp_path):
    store, class_of = Store(tmp_path), type("Stopping", (Told,), {})

    def stop(self, planned, record):
        self.records.append(record)
        if len(self.records) == 10:
            raise KeyboardInterrupt

    class_of.advanced = stop
    told = class_of()
    with pytest.raises(KeyboardInterrupt):
        driver_module.Driver(CELLS, FakePool(2), store, told, versions=FakePool().versions).run()
    kept = sum(len(ids) for ids in ids_on_disk(store).values())
    assert kept >= 10
    todo = [planned for planned in CELLS if not store.is_finished(planned.cell.key)]
    again = drive(todo, store, FakePool(2))
    assert len(again.records) == 36 - kept
    assert {path: sorted(ids) for path, ids in ids_on_disk(store).items()} == expected()


def test_a_killed_worker_costs_the_sample_in_hand_only(tmp_path):
    died = []

    def dies(worker, example_id):
        if len(died) < 5 and worker == len(died) and example_id.endswith("-3"):
            died.append(example_id)
            return Loss(reason="killed")
        return None

    store, pool = Store(tmp_path), FakePool(1, dies=dies)
    told = drive(CELLS[:3], store, pool)
    assert len(died) >= 3
    assert {path: sorted(ids) for path, ids in ids_on_disk(store, CELLS[:3]).items()} == expected(CELLS[:3])
    assert [record.status for record in told.records if record.status != "ok"] == ["error"] * (len(died) - 3)


def test_a_sample_that_kills_its_worker_twice_is_an_error_with_the_reason(tmp_path):
    def dies(worker, example_id):
        return Loss(reason="out of memory") if example_id == "t1-2" else None

    store, pool = Store(tmp_path), FakePool(2, dies=dies)
    told = drive(CELLS[:3], store, pool)
    (record,) = [record for record in told.records if record.status != "ok"]
    assert (record.example_id, record.status, record.score) == ("t1-2", "error", None)
    assert "2 workers were lost" in record.error and "out of memory" in record.error
    assert (record.answers, record.n_prompt_tokens) == (("7",), 3)
    assert len(told.records) == 18
    assert len(pool.started) == 4


def test_a_lost_machine_is_no_reason_to_give_a_sample_up(tmp_path):
    n = [0]

    def dies(worker, example_id):
        if example_id == "t0-0" and n[0] < 6:
            n[0] += 1
            return Loss(reason="its node has died", blame=False)
        return None

    told = drive(CELLS[:1], Store(tmp_path), FakePool(1, dies=dies))
    assert [record.status for record in told.records] == ["ok"] * 6


def test_a_worker_that_is_asked_to_stop_finishes_the_sample_in_hand(tmp_path):
    class Preempted(FakePool):
        def events(self, timeout_s):
            found = super().events(timeout_s)
            if len(self.started) == 1 and any(getattr(event, "record", None) for _, event in found):
                os.kill(os.getpid(), signal.SIGTERM)  # the newest worker's handler
            return found

    store, pool = Store(tmp_path), Preempted(1)
    told = drive(CELLS[:1], store, pool)
    assert len(pool.started) == 2
    assert "SIGTERM" in told.said[0]
    assert ids_on_disk(store, CELLS[:1]) == expected(CELLS[:1])


@pytest.mark.parametrize("name", ["Python", "torch", "Longreach"])
def test_another_version_on_a_worker_is_refused_before_anything_runs(tmp_path, name):
    pool = FakePool(2)
    pool.versions[name] = "0.9"
    with pytest.raises(RequestError, match=f"worker on h: {name} is 0.9 there and . here"):
        drive(CELLS, Store(tmp_path), pool)
    assert not list(tmp_path.rglob("records.jsonl"))


def test_workers_that_cannot_start_end_the_run(tmp_path):
    class Broken(FakePool):
        def events(self, timeout_s):
            super().events(timeout_s)
            return [(worker, Loss(reason="No module named 'harness'")) for worker in self.workers]

    with pytest.raises(RequestError, match=r"\d workers could not start.*No module named 'harness'"):
        drive(CELLS, Store(tmp_path), Broken(3))


def test_each_worker_has_a_row(tmp_path, monkeypatch):
    rows = []
    monkeypatch.setattr(driver_module, "_SHOW_S", 0.0)
    drive(CELLS, Store(tmp_path), FakePool(2), shows=rows.extend)
    assert {row.doing for row in rows} >= {"idle", "m/v/s/t0/10", "m/w/s/t0/10"}
    assert max(row.n_done for row in rows) > 5
