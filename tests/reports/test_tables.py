"""The report's arithmetic, checked by hand on runs with known scores."""

import json
import math
import random

import pytest

from harness.types import Record, RunData
from reports import tables
from reports.depths import depth_grids
from tests.reports.synthetic import METHODS, METRICS, entry, failed, ok, rich, run_data


def scored(scores):
    """An answer function from {(method, task, seq_len): one score a sample}; None is out of memory."""

    def answer(cell, index):
        score = scores[cell["method"], cell["task"], cell["seq_len"]][index]
        return failed(cell, index) if score is None else ok(cell, index, float(score))

    return answer


def needle(scores, **changes) -> RunData:
    """A run of the needle suite with these scores."""
    cells = [entry(m, "needle", task, n, len(row)) for (m, task, n), row in scores.items()]
    return run_data(cells, scored(scores), **changes)


def only(rows, **fields):
    found = [row for row in rows if all(row[name] == value for name, value in fields.items())]
    assert len(found) == 1, found
    return found[0]


def test_a_score_row_by_hand():
    run = needle({("vanilla", "keys1", 256): [1, 1, 0, None]})
    row = only(tables.summary(run)["scores"])
    assert row["score"] == 0.666667
    assert (row["n_expected"], row["n_ok"], row["n_oom"], row["n_missing"]) == (4, 3, 1, 0)
    assert row["low"] < 0.5 < 0.75 < row["high"]
    assert (row["regime"], row["seconds"], row["peak_memory_bytes"], row["reason"]) == ("original", 0.75, None, None)
    assert row["metric"] == "exact_match"
    assert "perplexity" not in row


def test_a_cell_without_answers_is_null_with_the_reason():
    cells = [entry("vanilla", "needle", "keys1", 256, 3), entry("vanilla", "needle", "keys1", 512, 2)]
    run = run_data(cells, lambda cell, i: failed(cell, i) if cell["seq_len"] == 256 and i < 2 else None)
    first, second = tables.summary(run)["scores"]
    assert (first["score"], first["low"], first["high"], first["regime"]) == (None, None, None, None)
    assert first["reason"] == "no sample was answered (2 oom, 1 missing)"
    assert second["reason"] == "no sample was answered (2 missing)"


def test_a_likelihood_row_by_hand():
    cells = [entry("vanilla", "perplexity", "docs", 256, 2)]
    nll, tokens = [200.0, 900.0], [100, 300]

    def answer(cell, i):
        return ok(cell, i, math.exp(-nll[i] / tokens[i]), measures={"nll": nll[i], "n_scored_tokens": tokens[i]})

    row = only(tables.summary(run_data(cells, answer))["scores"])
    assert row["score"] == float(f"{math.exp(-2.75):.6g}")
    assert row["perplexity"] == float(f"{math.exp(2.75):.6g}")


def test_a_regime_is_mixed_when_the_records_differ():
    cells = [entry("vanilla", "needle", "keys1", 256, 2)]
    run = run_data(cells, lambda cell, i: ok(cell, i, 1.0, regime=("original", "rescaled")[i]))
    assert only(tables.summary(run)["scores"])["regime"] == "mixed"


def test_effective_length_by_both_rules():
    most = [1] * 36 + [0] * 4  # 0.9: at the threshold by the score, below it by its lower bound
    run = needle(
        {
            ("vanilla", "keys1", 256): [1] * 40,
            ("vanilla", "keys1", 512): most,
            ("vanilla", "keys1", 1024): [0] * 40,
            ("vanilla", "keys1", 2048): [1] * 40,
        }
    )
    row = only(tables.summary(run)["effective_length"], group="needle")
    assert (row["effective_length"], row["point_rule"]) == (256, 512)
    assert row["threshold"] == {"name": "native", "value": 0.9, "share": 0.9}
    assert row["lengths"] == [256, 512, 1024, 2048]
    assert len(row["cells"]) == 4


def test_too_few_samples_reach_nothing_and_say_so():
    row = only(tables.summary(needle({("vanilla", "keys1", 256): [1] * 8}))["effective_length"])
    assert (row["effective_length"], row["point_rule"]) == (None, 256)
    assert row["reason"] == "the lower bound at the shortest tested length, 256, is 0.747"


def test_unanswered_samples_fail_both_rules():
    run = needle({("vanilla", "keys1", 256): [1] * 100, ("vanilla", "keys1", 512): [1] * 80 + [None] * 20})
    row = only(tables.summary(run)["effective_length"])
    assert (row["effective_length"], row["point_rule"]) == (256, 256)


@pytest.mark.parametrize(
    ("name", "score", "value", "reached"),
    [("ruler", 0.856, 0.856, None), ("ruler", 0.857, 0.856, 256), ("nolima", 1.0, 0.85, 256)],
)
def test_the_named_thresholds(name, score, value, reached):
    run = needle(
        {("vanilla", "keys1", 256): [1] * round(1000 * score) + [0] * (1000 - round(1000 * score))},
        report={"threshold": name},
    )
    row = only(tables.summary(run)["effective_length"])
    assert row["threshold"]["value"] == value
    assert row["point_rule"] == reached


def test_thresholds_come_from_the_base_method():
    run = needle({("vanilla", "keys1", 256): [1, 0] * 50, ("yarn", "keys1", 256): [1] * 60 + [0] * 40})
    row = only(tables.summary(run)["effective_length"], method="yarn")
    assert row["threshold"]["value"] == 0.45
    assert row["effective_length"] == 256


def test_without_the_base_score_there_is_no_threshold():
    run = needle({("vanilla", "keys1", 256): [None] * 3, ("yarn", "keys1", 256): [1] * 100})
    row = only(tables.summary(run)["effective_length"], method="yarn")
    assert (row["effective_length"], row["threshold"]["value"]) == (None, None)
    assert row["reason"] == "the base method has no score at its shortest tested length"


def test_a_suite_is_the_equal_weight_mean_of_its_tasks():
    run = needle({("vanilla", "keys1", 256): [1] * 10, ("vanilla", "keys4", 256): [0] * 40})
    analysis = tables.analyse(run)
    assert [series.group for series in analysis.series] == ["needle", "needle/keys1", "needle/keys4"]
    assert analysis.series[0].points[0].estimate.value == 0.5


def test_a_length_counts_for_a_suite_when_all_its_tasks_are_there():
    run = needle(
        {
            ("vanilla", "keys1", 256): [1] * 4,
            ("vanilla", "keys1", 512): [1] * 4,
            ("vanilla", "keys4", 512): [1] * 4,
            ("yarn", "keys1", 512): [1] * 4,
        }
    )
    rows = tables.summary(run)["effective_length"]
    assert only(rows, group="needle", method="vanilla")["lengths"] == [512]
    assert only(rows, group="needle/keys1", method="vanilla")["lengths"] == [256, 512]
    assert not [row for row in rows if row["group"] == "needle" and row["method"] == "yarn"]


def test_retention_pairs_the_same_samples_inside_the_window():
    run = needle(
        {
            ("vanilla", "keys1", 512): [1, 1, 1, 0, None],
            ("vanilla", "keys1", 1024): [1, 1, 1, 1, 1],
            ("yarn", "keys1", 512): [1, 0, None, 1, 1],
            ("yarn", "keys1", 1024): [0, 0, 0, 0, 0],
        }
    )
    rows = tables.summary(run)["retention"]
    row = only(rows, group="needle")
    assert {r["method"] for r in rows} == {"yarn"}
    assert row["retention"] == 1.0  # samples 0, 1, 3: two of three right on both sides
    assert (row["mcnemar"]["gained"], row["mcnemar"]["lost"]) == (1, 1)
    assert row["verdict"] == "undecided"
    assert len(row["cells"]) == 1
    assert only(rows, group="all")["retention"] == 1.0


def test_the_same_rope_is_retained_for_certain_and_a_rescaled_one_is_not():
    summary = tables.summary(rich())
    same = only(summary["retention"], method="dynamic_ntk", group="all")
    assert (same["retention"], same["low"], same["high"], same["verdict"]) == (1.0, 1.0, 1.0, "retained")
    other = only(summary["retention"], method="yarn", group="all")
    assert other["low"] < 0.99 < 1.01 < other["high"]
    assert only(summary["retention"], method="position_interpolation", group="all")["verdict"] == "lost"


def test_other_weights_under_the_same_rope_are_another_computation():
    """A trained checkpoint runs under the original RoPE inside the window: equal scores there prove no equality."""
    answers = [1, 1, 1, 0, 1]
    run = needle({("vanilla", "keys1", 512): answers, ("yarn", "keys1", 512): answers})
    same = only(tables.summary(run)["retention"], group="all")
    assert (same["low"], same["high"]) == (1.0, 1.0)
    for cell in run.manifest["cells"]:
        if cell["method"] == "yarn":
            cell["artifacts"] = {"checkpoint_weights": "0" * 64}
    trained = only(tables.summary(run)["retention"], group="all")
    assert trained["retention"] == 1.0
    assert trained["low"] < 1.0 < trained["high"]


def test_retention_over_all_is_the_mean_of_the_suites():
    rows = [r for r in tables.summary(rich())["retention"] if r["method"] == "yarn"]
    suites = [r["retention"] for r in rows if r["group"] != "all"]
    assert len(suites) == len(METRICS)
    assert only(rows, group="all")["retention"] == pytest.approx(sum(suites) / len(suites), abs=2e-6)


def test_chance_is_taken_off_multiple_choice():
    cells = [entry(m, "choices", "mmlu", 256, 100) for m in ("vanilla", "yarn")]
    run = run_data(cells, lambda cell, i: ok(cell, i, float(i < (60 if cell["method"] == "vanilla" else 59))))
    row = only(tables.summary(run)["retention"], group="choices")
    assert (row["retention"], row["chance_corrected"]) == (0.983333, 0.971429)


def test_a_task_the_base_only_guesses_is_left_out_of_retention_and_named():
    accuracy = {"name": "accuracy", "kind": "binary", "chance": 0.25}
    right = {("vanilla", "mmlu"): 60, ("yarn", "mmlu"): 59, ("vanilla", "arc"): 28, ("yarn", "arc"): 14}

    def retention(*tasks):
        cells = [entry(m, "choices", task, 256, 100) for m in ("vanilla", "yarn") for task in tasks]
        run = run_data(
            cells,
            lambda cell, i: ok(cell, i, float(i < right[cell["method"], cell["task"]])),
            metrics={"choices": {"mmlu": accuracy, "arc": accuracy}},
        )
        return tables.summary(run)["retention"]

    for row in retention("mmlu", "arc"):
        assert (row["retention"], row["left_out"]) == (0.983333, ["choices/arc"])
    for row in retention("arc"):
        assert (row["retention"], row["verdict"], row["left_out"]) == (None, "undecided", ["choices/arc"])
        assert row["reason"] == "vanilla is not above chance on any task"


def test_retention_without_a_short_cell_says_why():
    run = needle({("vanilla", "keys1", 1024): [1], ("yarn", "keys1", 1024): [1]})
    row = only(tables.summary(run)["retention"])
    assert (row["group"], row["retention"], row["verdict"]) == ("all", None, "undecided")
    assert row["reason"] == "no cell of this method and of vanilla at or below the original window"


def test_the_order_of_records_moves_nothing():
    run = rich()
    shuffled = {key: random.Random(key).sample(list(found), len(found)) for key, found in run.records.items()}
    again = RunData(manifest=run.manifest, records=dict(reversed(shuffled.items())))
    assert json.dumps(tables.summary(again)) == json.dumps(tables.summary(run))


def test_the_summary_is_plain_json_with_rounded_numbers():
    summary = tables.summary(rich())
    text = json.dumps(summary, allow_nan=False)
    assert json.loads(text) == summary
    assert list(summary) == ["definitions", "scores", "effective_length", "retention", "standings", "environment"]
    assert all(number == float(f"{number:.6g}") for number in _floats(summary))


def test_rows_come_in_the_order_of_the_plan():
    run = rich()
    assert [row["key"] for row in tables.summary(run)["scores"]] == [cell["key"] for cell in run.manifest["cells"]]


def test_a_manifest_read_from_sorted_json_keeps_the_order_of_the_plan():
    run = rich()
    stored = json.loads(json.dumps(run.manifest, sort_keys=True))
    again = RunData(manifest=stored, records=run.records)
    assert json.dumps(tables.summary(again)["scores"]) == json.dumps(tables.summary(run)["scores"])
    assert tables.summary(again)["effective_length"] == tables.summary(run)["effective_length"]
    assert [row["method"] for row in tables.summary(again)["effective_length"]][:4] == list(METHODS)
    assert tables.summary(again)["retention"] == tables.summary(run)["retention"]


def test_depths_by_hand():
    cells = [entry("vanilla", "needle", "keys1", 256, 5)]
    depths = [0.0, 0.0, 0.5, 0.5, 1.0]
    records = [ok(cells[0], i, float(i in (0, 2, 3)), metadata={"depth_fraction": depths[i]}) for i in range(4)]
    lost = Record(cell_key=cells[0]["key"], example_id="0004", status="oom", metadata={"depth_fraction": 1.0})
    run = RunData(manifest=run_data(cells, lambda *_: None).manifest, records={cells[0]["key"]: [*records, lost]})
    grid = only_grid(run)
    assert grid.depths == ("0", "50", "100")
    assert [(row[0].score, row[0].n_ok, row[0].n_recorded) for row in grid.cells] == [
        (0.5, 2, 2),
        (1, 2, 2),
        (None, 0, 1),
    ]


def test_many_depths_are_put_into_tenths():
    cells = [entry("vanilla", "needle", "keys1", 256, 100)]
    run = run_data(cells, lambda cell, i: ok(cell, i, 1.0, metadata={"depth_fraction": i / 99}))
    grid = only_grid(run)
    assert grid.depths[0] == "0-10"
    assert len(grid.depths) == 10
    assert sum(row[0].n_ok for row in grid.cells) == 100


def only_grid(run):
    (grid,) = depth_grids(tables.analyse(run).cells, confidence=0.95)
    return grid


def _floats(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in _floats(item)]
    return [value] if isinstance(value, float) else []
