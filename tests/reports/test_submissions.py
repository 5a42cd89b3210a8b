"""Which runs may stand on a leaderboard, and what a refused one is told."""

import json
import shutil

import pytest

from reports.submissions import read_submissions
from tests.reports.folders import made, write_run
from tests.reports.synthetic import METRICS, ok


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("submissions")
    return [
        write_run(made(("vanilla", "yarn"), title="First", n=5), folder / "first"),
        write_run(made(("vanilla",), model="other", title="Second", n=5), folder / "second"),
    ]


def edited(run, change):
    text = json.loads(json.dumps(run.manifest))
    change(text)
    return type(run)(manifest=text, records=run.records)


def broken(name):
    """A folder's writer, given the folder."""

    def manifest(change):
        return lambda folder: write_run(edited(made(("vanilla",), n=5), change), folder)

    def records(change):
        def write(folder):
            write_run(made(("vanilla",), n=5), folder)
            change(next(folder.glob("cells/*/records.jsonl")))

        return write

    def score(value):
        answer = lambda cell, i: ok(cell, i, value, measures={"nll": 1.0, "n_scored_tokens": 5})  # noqa: E731
        return lambda folder: write_run(made(("vanilla",), n=5, answer=answer), folder)

    return {
        "not there": lambda folder: None,
        "no run": lambda folder: folder.mkdir(),
        "not json": lambda folder: (folder.mkdir(), (folder / "run.json").write_text("{")),
        "a list": lambda folder: (folder.mkdir(), (folder / "run.json").write_text("[]")),
        "another schema": manifest(lambda m: m.update(schema=99)),
        "no cells": manifest(lambda m: m.update(cells=[])),
        "a part missing": manifest(lambda m: m.pop("report")),
        "a wrong type": manifest(lambda m: m["cells"][0].update(seq_len="long")),
        "a truth for a number": manifest(lambda m: m["cells"][0].update(n_samples=True)),
        "a wrong margin": manifest(lambda m: m["report"].update(margin=7)),
        "an unknown threshold": manifest(lambda m: m["report"].update(threshold="mine")),
        "no base": manifest(lambda m: m["report"].update(base="gone")),
        "an edited cell": manifest(lambda m: m["cells"][0].update(dtype="bfloat16")),
        "an edited suite": manifest(lambda m: m["suites"]["needle"].update(version=9)),
        "a key outside": manifest(lambda m: m["cells"][0].update(key="../../../etc")),
        "a cell of no model": manifest(lambda m: m["cells"][0].update(model="gone")),
        "an edited record": records(lambda p: p.write_text(p.read_text().replace('"score": 1.0', '"score": 0.5'))),
        "a record less": records(lambda p: p.write_text("".join(p.read_text().splitlines(True)[:-1]))),
        "a list for a record": records(lambda p: p.write_text("[]\n")),
        "not finished": records(lambda p: (p.parent / "cell.json").unlink()),
        "a score above 1": score(1.5),
        "half a binary score": score(0.5),
    }[name]


REASONS = {
    "not there": "holds no run",
    "no run": "holds no run",
    "not json": "not a readable manifest",
    "a list": "its schema is 'none'",
    "another schema": "its schema is 99: it should be 1",
    "no cells": "it plans no cell",
    "a part missing": "report is missing",
    "a wrong type": "cells.0.seq_len should be int",
    "a truth for a number": "cells.0.n_samples should be int",
    "a wrong margin": "margin = 7",
    "an unknown threshold": "threshold = 'mine'",
    "no base": "the base method 'gone' is not among the methods",
    "an edited cell": "is not what its key says",
    "an edited suite": "is not what its key says",
    "a key outside": "is not what its key says",
    "a cell of no model": "names a model, method, suite or task that run.json does not describe",
    "an edited record": "was changed after it was written",
    "a record less": "is not the file its cell.json was written for",
    "a list for a record": "was changed after it was written",
    "not finished": "it is not complete",
    "a score above 1": "holds a value that cannot be",
    "half a binary score": "holds a value that cannot be",
}


@pytest.mark.parametrize("name", REASONS)
def test_a_submission_that_is_not_sound_is_refused_with_the_reason(name, tmp_path):
    broken(name)(tmp_path / "theirs")
    accepted, refused = read_submissions([tmp_path / "theirs"])
    assert accepted == []
    assert REASONS[name] in " ".join(refused[0].reasons)
    assert len(refused[0].reasons) <= 11


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"report": {"threshold": "ruler"}}, 'another definition of report.threshold: "ruler", the board has "native"'),
        ({"report": {"margin": 0.9}}, "another definition of report.margin: 0.9, the board has 0.985"),
        (
            {"suites": {s: {"name": s, "version": 2, "params": {}} for s in METRICS}},
            "another definition of suite needle",
        ),
    ],
)
def test_other_definitions_than_most_have_are_refused(folders, tmp_path, changes, reason):
    other = write_run(made(("vanilla",), title="Other", n=5, **changes), tmp_path / "other")
    accepted, refused = read_submissions([other, *folders])
    assert [submission.folder for submission in accepted] == ["first", "second"]
    assert reason in " ".join(refused[0].reasons)


def test_a_run_handed_in_twice_counts_once(folders, tmp_path):
    shutil.copytree(folders[0], tmp_path / "zweit")
    accepted, refused = read_submissions([tmp_path / "zweit", *folders])
    assert [submission.folder for submission in accepted] == ["first", "second"]
    assert refused[0].reasons == ("it is the same plan as first",)
