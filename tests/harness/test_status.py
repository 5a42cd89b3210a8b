"""How far a run is, seen from outside."""

import json
import os
import subprocess
import sys

import pytest

import harness.status as status_module
from harness.errors import RequestError
from harness.status import StatusFile, WorkerRow, status_text
from harness.types import Record
from tests.harness.cluster.fakes import cell

CELLS = [cell("a", n=4, seq_len=10), cell("b", n=4, seq_len=30)]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(status_module, "_EVERY_S", 0.0)
    manifest = {"title": "Mine", "cells": [{"key": planned.cell.key} for planned in CELLS]}
    (tmp_path / "run.json").write_text(json.dumps(manifest))
    return tmp_path


def advance(status, planned, n, what="ok"):
    for i in range(n):
        status.advanced(planned, Record(cell_key=planned.cell.key, example_id=str(i), status=what))


def test_a_run_of_one_process(run):
    status = StatusFile(run, CELLS, executor="local")
    status.started(CELLS[0], 1)
    advance(status, CELLS[0], 1)
    advance(status, CELLS[0], 1, "oom")
    first, head, row = status_text(run).splitlines()
    assert first == "Mine: 0 of 2 cells finished"
    assert head.startswith("3 of 8 samples, 1 failed, ")
    assert "samples/s, about " in head and "left; local, 1 worker, 0 s ago" in head
    assert "    1 left  m/v/s/a/10  " in row


def test_a_row_for_each_worker(run):
    status = StatusFile(run, CELLS, executor="ray")
    rows = [
        WorkerRow(name=str(i), host=f"h{i}:1", doing=f"m/v/s/{task}/10", left=i, n_done=3, samples_per_s=0.5)
        for i, task in enumerate("ab")
    ]
    status.workers(rows)
    text = status_text(run).splitlines()
    assert "no estimate yet; ray, 2 workers" in text[1]
    assert [line.split() for line in text[2:]] == [
        ["0", "0.5/s", "0", "left", "m/v/s/a/10", "h0:1"],
        ["1", "0.5/s", "1", "left", "m/v/s/b/10", "h1:1"],
    ]


def test_a_run_whose_process_is_gone(run):
    status = StatusFile(run, CELLS, executor="local")
    status.started(CELLS[0], 0)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    path = run / "status.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": gone.pid}))
    assert status_text(run).endswith("nothing runs now: the same `run` command goes on from here")
    assert os.getpid() != gone.pid


def test_a_finished_run(run):
    for planned in CELLS:
        mark = run / "cells" / planned.cell.key / "cell.json"
        mark.parent.mkdir(parents=True)
        mark.write_text("{}")
    assert status_text(run) == "Mine: 2 of 2 cells finished"


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(RequestError, match="holds no run"):
        status_text(tmp_path)


def test_it_is_written_at_most_once_a_second(run, monkeypatch):
    monkeypatch.setattr(status_module, "_EVERY_S", 1.0)
    written = []
    monkeypatch.setattr(status_module, "write_atomically", lambda path, text: written.append(text))
    status = StatusFile(run, CELLS, executor="local")
    for _ in range(100):
        advance(status, CELLS[0], 1)
    assert len(written) == 1
