"""Scores again from recorded outputs: the same while the scoring is, and every difference is told."""

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from harness.errors import RequestError
from harness.types import Metric, RunData, Score, content_hash
from reports.compare import compare
from reports.rescore import render_text, rescore
from reports.tables import summary
from tests.reports import hostile
from tests.reports.synthetic import entry, failed, ok, run_data

ANSWER = "1234567"


@dataclass(frozen=True, kw_only=True)
class Strict:
    """A suite that scores a text as right when it is the answer to the letter."""

    version: ClassVar[int] = 3
    lenient: bool = False
    strict: ClassVar[bool] = True

    def metric(self, task):
        return Metric(name="equal", kind="binary")

    def artifacts(self, task):
        return {"rows": content_hash("today's rows")}

    def score(self, task, example, output):
        if output.text == "boom":
            raise ValueError("no <score>")
        return Score(value=float(output.text == example.answers[0]), measures={"length": len(output.text)})


def recorded(outputs, scores, name="needle", task="keys1_noise", **fields):
    """A run of one suite with these outputs and scores; a score of None failed."""
    cells = [entry("yarn", "needle", "keys1", 256, len(outputs)) | {"task": task}]

    def answer(cell, i):
        if scores[i] is None:
            return replace(failed(cell, i, "error", "ValueError: then"), output=outputs[i], answers=(ANSWER,))
        return ok(cell, i, scores[i], output=outputs[i], answers=(ANSWER,), n_new_tokens=7, **fields)

    run = run_data(cells, answer)
    suites = {"needle": {"name": name, "version": 1, "params": {}}}
    metrics = {"needle": {task: {"name": "string_match_all", "kind": "binary", "chance": 0.0}}}
    return RunData(manifest={**run.manifest, "suites": suites, "metrics": metrics}, records=run.records)


STRICT = f"{Strict.__module__}:Strict"


def test_scores_that_the_scoring_still_gives_do_not_change():
    run = recorded([f" {ANSWER}.", "nothing"], [1.0, 0.0])
    again, found = rescore(run)
    assert (found.changes, found.unscored, found.n_rescored, found.n_samples) == ((), (), 2, 2)
    assert summary(again)["scores"] == summary(run)["scores"]
    assert render_text(found) == "2 of 2 samples scored again, 0 scores differ\n"


def test_a_scorer_that_changed_shows_in_a_table_with_its_versions():
    run = recorded([ANSWER, f" {ANSWER}."], [1.0, 1.0], name=STRICT)
    again, found = rescore(run)
    (change,) = found.changes
    assert (change.old, change.new, change.version_then, change.version_now) == (1.0, 0.0, 1, 3)
    assert (change.cell, change.example_id) == ("tiny/yarn/needle/keys1_noise/256", "0001")
    assert "1           0  1 to 3     tiny/yarn/needle/keys1_noise/256: 0001" in render_text(found)
    assert summary(again)["scores"][0]["score"] == 0.5
    assert again.manifest["suites"]["needle"]["version"] == 3
    assert again.manifest["metrics"]["needle"]["keys1_noise"]["name"] == "equal"
    assert next(iter(again.records.values()))[0].measures == {"length": 7}
    assert run.manifest["suites"]["needle"]["version"] == 1


def test_an_output_that_ended_with_its_score_is_pointed_out():
    _, found = rescore(recorded([f" {ANSWER}."], [1.0], name=STRICT, stopped="settled"))
    assert found.changes[0].settled
    assert "(its output ends where the old score was settled)" in render_text(found)


def test_a_rescored_run_can_be_compared_with_its_own():
    run = recorded([f" {ANSWER}"] * 30, [1.0] * 30)
    again, _ = rescore(
        RunData(
            manifest={**run.manifest, "suites": {"needle": {"name": STRICT, "version": 3, "params": {}}}},
            records=run.records,
        )
    )
    assert compare(run, again, allow=["samples"]).outcome == "regressed"


def test_a_failed_scorer_is_forgiven_when_it_works_now_and_named_when_it_fails():
    run = recorded([ANSWER, "boom"], [None, 1.0], name=STRICT)
    again, found = rescore(run)
    forgiven, broken = next(iter(again.records.values()))
    assert (forgiven.status, forgiven.score, forgiven.error) == ("ok", 1.0, None)
    assert (broken.status, broken.score, broken.error) == ("error", None, "ValueError: no <score>")
    assert [(c.old, c.new) for c in found.changes] == [(None, 1.0), (1.0, None)]
    assert "(ValueError: no <score>)" in render_text(found)


def test_a_sample_without_an_output_stays_failed():
    run = recorded(["", ANSWER], [None, 1.0])
    assert rescore(run)[1].changes == ()


def test_likelihoods_are_computed_from_the_recorded_sums():
    sums = {"nll": 300.0, "n_scored_tokens": 100}
    cells = [entry("yarn", "perplexity", "docs", 256, 2) | {"task": "docs_whole"}]
    run = run_data(cells, lambda cell, i: ok(cell, i, (0.049787068367863944, 0.5)[i], measures=sums))
    metrics = {"perplexity": {"docs_whole": {"name": "inverse_perplexity", "kind": "likelihood", "chance": 0.0}}}
    run = RunData(manifest={**run.manifest, "metrics": metrics}, records=run.records)
    _, found = rescore(run)
    (change,) = found.changes
    assert (change.example_id, change.old, change.new) == ("0001", 0.5, pytest.approx(0.0497870684))


def test_teacher_forced_answers_are_scored_from_their_recorded_segments():
    forced = recorded(["", ""], [1.0, 1.0], measures={"nll": 3.0, "n_scored_tokens": 7})
    suites = {"needle": {"name": "needle", "version": 1, "params": {"scoring": "teacher_forced"}}}
    answers = [((-3.0, True),), ((-9.0, False),)]
    records = {
        key: [replace(r, n_new_tokens=0, scored=s) for r, s in zip(found, answers, strict=True)]
        for key, found in forced.records.items()
    }
    again, found = rescore(RunData(manifest={**forced.manifest, "suites": suites}, records=records))
    assert [(c.old, c.new) for c in found.changes] == [(1.0, 0.0)]
    assert found.unscored == ()
    (rows,) = again.records.values()
    assert rows[0].measures == {"nll": 3.0, "n_scored_tokens": 7}


def test_what_was_not_recorded_is_named_and_stays():
    forced = recorded(["", ""], [1.0, 0.0], measures={"nll": 3.0, "n_scored_tokens": 7})
    forced = RunData(
        manifest={
            **forced.manifest,
            "suites": {"needle": {"name": "needle", "version": 1, "params": {"scoring": "teacher_forced"}}},
        },
        records={key: [replace(r, n_new_tokens=0) for r in found] for key, found in forced.records.items()},
    )
    again, found = rescore(forced)
    (kept,) = found.unscored
    assert kept.reason == "only log-likelihood sums are recorded, and this score needs each token's"
    assert again.records == forced.records
    assert "not scored again: tiny/yarn/needle/keys1_noise/256: only log-likelihood sums" in render_text(found)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("gone:Suite", "it should be an importable 'pkg.module:Class'"), ("nedle", "did you mean 'needle'?")],
)
def test_a_suite_that_is_gone_is_named(name, reason):
    run = recorded([ANSWER], [1.0], name=name)
    again, found = rescore(run)
    assert reason in found.unscored[0].reason
    assert again.records == run.records


def test_a_setting_that_is_gone_is_named():
    run = recorded([ANSWER], [1.0])
    run = RunData(
        manifest={**run.manifest, "suites": {"needle": {"name": "needle", "version": 1, "params": {"dpths": 5}}}},
        records=run.records,
    )
    assert "has no setting 'dpths'" in rescore(run)[1].unscored[0].reason


def test_other_data_than_then_are_refused():
    run = recorded([ANSWER], [1.0], name=STRICT)
    (cell,) = run.manifest["cells"]
    cell["artifacts"] = {"rows": content_hash("the rows of then")}
    _, found = rescore(run, paths={"needle": {}})
    assert found.unscored[0].reason == "the rows at the given path are not those of the run"
    cell["artifacts"] = {"rows": content_hash("today's rows")}
    assert rescore(run, paths={"needle": {}})[1].unscored == ()
    with pytest.raises(RequestError, match="this run has no suite 'nedle': it has needle"):
        rescore(run, paths={"nedle": {}})


def test_settings_come_back_from_json_as_the_suite_takes_them():
    run = recorded([ANSWER], [1.0])
    params = json.loads(json.dumps({"scoring": "generated", "depths": (0.0, 0.5), "max_new_tokens": None}))
    run = RunData(
        manifest={**run.manifest, "suites": {"needle": {"name": "needle", "version": 1, "params": params}}},
        records=run.records,
    )
    assert rescore(run)[1].n_rescored == 1


def test_hostile_outputs_are_scored_and_told_on_one_line():
    run = recorded([hostile.LONG + ANSWER, hostile.TEXT], [0.0, 1.0])
    _, found = rescore(run)
    assert [(c.old, c.new) for c in found.changes] == [(0.0, 1.0), (1.0, 0.0)]
    strange = replace(found.changes[0], cell=hostile.LONG, example_id=hostile.TEXT, error=hostile.TEXT)
    text = render_text(replace(found, changes=(strange,)))
    text.encode()
    assert len(text.splitlines()) == 4
    assert not set(text) & hostile.FORBIDDEN
