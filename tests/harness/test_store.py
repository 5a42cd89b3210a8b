"""A results folder survives crashes and refuses what was changed by hand."""

import json
import os

import pytest

from harness.errors import RequestError
from harness.store import Store, read_run, write_atomically
from harness.types import Record

KEY = "ab" * 32


def record(index: int, **fields) -> Record:
    return Record(
        cell_key=KEY,
        example_id=f"t-{index}",
        status="ok",
        score=1.0,
        output="a \ud800 \x00 b",
        scored=((-1.5, True),),
        **fields,
    )


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "run")
    with store.opened_for({"plan": "p", "title": "T", "cells": [{"key": KEY}]}), store.appending(KEY) as writer:
        for index in range(3):
            writer.append(record(index, measures={"nll": 0.1 + 0.2}, metadata={"depth_fraction": 0.5}))
    return store


def path(store):
    return store.folder / "cells" / KEY / "records.jsonl"


def test_records_come_back_as_they_were_written(store):
    assert store.records(KEY) == [
        record(index, measures={"nll": 0.1 + 0.2}, metadata={"depth_fraction": 0.5}) for index in range(3)
    ]


@pytest.mark.parametrize("cut", [1, 10, 100])
def test_a_torn_last_line_is_dropped_and_its_sample_written_again(store, cut):
    whole = path(store).read_bytes()
    path(store).write_bytes(whole[:-cut])
    assert [r.example_id for r in store.records(KEY)] == ["t-0", "t-1"]
    with store.appending(KEY) as writer:
        writer.append(record(2, measures={"nll": 0.1 + 0.2}, metadata={"depth_fraction": 0.5}))
    assert path(store).read_bytes() == whole


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [lines[0].replace('"score": 1.0', '"score": 0.5'), *lines[1:]],
        lambda lines: [lines[1], lines[0], lines[2]],
        lambda lines: lines[1:],
        lambda lines: [lines[0], "not json\n", lines[2]],
        lambda lines: [*lines, lines[2]],
    ],
    ids=["edited", "swapped", "first line gone", "garbage", "doubled"],
)
def test_a_line_changed_by_hand_is_refused(store, change):
    lines = path(store).read_text().splitlines(keepends=True)
    path(store).write_text("".join(change(lines)))
    with pytest.raises(RequestError, match=r"records.jsonl: line \d was changed after it was written: delete"):
        store.records(KEY)


def test_a_finished_cell_that_lost_its_last_line_is_refused(store):
    with store.appending(KEY) as writer:
        writer.finish({})
    assert store.is_finished(KEY)
    store.records(KEY)
    path(store).write_text("".join(path(store).read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(RequestError, match=r"is not the file its cell.json was written for"):
        store.records(KEY)


def test_a_folder_of_another_run_is_refused(store):
    with pytest.raises(RequestError, match=r"holds another run \('T'\): give --out"):
        Store(store.folder).check_plan("another")


def test_a_folder_that_is_no_run_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RequestError, match="is not empty and holds no run"):
        Store(tmp_path).check_plan("p")
    with pytest.raises(RequestError, match=r"holds no run: there is no run.json"):
        read_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_processes_cannot_write_one_folder(store):
    second = Store(store.folder).opened_for({"plan": "p"})
    with store.opened_for({"plan": "p"}), pytest.raises(RequestError, match="in use by another process"), second:
        pass


def test_a_manifest_that_cannot_be_read_is_named(store):
    (store.folder / "run.json").write_text("{")
    with pytest.raises(RequestError, match=r"run.json: not a readable manifest"):
        read_run(store.folder)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "summary.json"
    write_atomically(target, "old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_atomically(target, "new")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_a_full_disk_keeps_what_was_finished(store, monkeypatch):
    real, room = os.write, [20]

    def full(descriptor, data):
        if not room:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[: room.pop()])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"), store.appending(KEY) as writer:
        writer.append(record(3))
    monkeypatch.undo()
    assert [r.example_id for r in store.records(KEY)] == ["t-0", "t-1", "t-2"]
    with store.appending(KEY) as writer:
        writer.append(record(3))
    assert len(store.records(KEY)) == 4


def test_numbers_that_json_cannot_hold_are_refused_not_written(store):
    with store.appending(KEY) as writer, pytest.raises(ValueError, match="JSON"):
        writer.append(record(3, measures={"nll": float("inf")}))
    assert len(store.records(KEY)) == 3


def test_read_run_gives_the_manifest_and_all_records(store):
    data = read_run(store.folder)
    assert data.manifest["title"] == "T"
    assert [r.example_id for r in data.records[KEY]] == ["t-0", "t-1", "t-2"]
    assert json.loads((store.folder / "run.json").read_text()) == data.manifest
