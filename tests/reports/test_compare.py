"""The gate: what it calls a loss, what it lets pass, what it cannot tell, and what it refuses."""

import copy
import json
from dataclasses import replace

import pytest

from harness.errors import RequestError
from harness.types import RunData
from reports.compare import compare
from tests.reports.synthetic import entry, failed, ok, rich, run_data


def needle(wrong, n=500, lengths=(256,), tasks=("keys1",), **changes):
    """A run in which the first `wrong` samples of each cell are wrong; by (task, length), or of all."""
    cells = [entry("yarn", "needle", task, length, n) for task in tasks for length in lengths]

    def answer(cell, i):
        w = wrong[cell["task"], cell["seq_len"]] if isinstance(wrong, dict) else wrong
        return ok(cell, i, float(i >= w), output=f"{i >= w}")

    return run_data(cells, answer, **changes)


def likelihood(nll, n=8):
    cells = [entry("yarn", "perplexity", "docs", 256, n)]

    def answer(cell, i):
        sums = {"nll": nll(i), "n_scored_tokens": 200}
        return ok(cell, i, 0.05, measures=sums)

    return run_data(cells, answer)


def only(rows):
    (row,) = rows
    return row


def test_the_same_records_are_untouched():
    found = compare(rich(), rich())
    assert (found.outcome, found.exit_code) == ("pass", 0)
    assert {row.verdict for row in (*found.cells, *found.sums)} == {"untouched"}
    assert all((row.gained, row.lost, row.change.low, row.change.high) == (0, 0, 0, 0) for row in found.cells)
    assert all(row.n_same == row.n_pairs - row.n_failed[0] for row in found.cells)
    assert found.mismatches == found.notes == ()


def test_a_loss_of_five_points_fails():
    found = compare(needle(10), needle(35))
    row = only(found.cells)
    assert (found.outcome, found.exit_code, row.verdict) == ("regressed", 1, "regressed")
    assert (row.gained, row.lost, row.n_pairs) == (0, 25, 500)
    assert row.change.value == pytest.approx(-0.05)
    assert row.change.high < 0
    assert row.mcnemar == pytest.approx(2 * 0.5**25)
    assert (row.base_score, row.new_score) == (0.98, 0.93)


def test_a_gain_passes_as_an_improvement():
    found = compare(needle(35), needle(10))
    assert (found.outcome, only(found.cells).verdict) == ("pass", "improved")


def test_a_certain_loss_within_the_margin_passes():
    found = compare(needle(0, n=2000), needle(20, n=2000))
    assert (found.outcome, only(found.cells).verdict) == ("pass", "untouched")
    assert compare(needle(0, n=2000), needle(20, n=2000), margin=0.005).outcome == "regressed"


def test_a_loss_too_few_samples_show_is_inconclusive_and_says_how_many_would():
    found = compare(needle(0, n=20), needle(2, n=20))
    row = only(found.cells)
    assert (found.outcome, found.exit_code, row.verdict) == ("inconclusive", 3, "inconclusive")
    assert row.blocks
    assert 20 < row.samples_needed < 500


def test_equal_scores_of_other_answers_prove_nothing_with_few_samples():
    base, new = needle(0, n=20), needle(0, n=20)
    (key,) = new.records
    new = RunData(
        manifest=new.manifest, records={key: [replace(r, output=r.output + ", and more") for r in new.records[key]]}
    )
    assert compare(base, new).outcome == "inconclusive"
    assert 60 < only(compare(base, new).cells).samples_needed < 200
    assert compare(needle(0), needle(0)).outcome == "pass"


def test_small_cells_pass_together_what_none_of_them_can_alone():
    places = [(task, length) for task in ("keys1", "keys4") for length in (256, 512, 1024)]
    tasks, lengths = ("keys1", "keys4"), (256, 512, 1024)
    base = needle(dict.fromkeys(places, 5), 60, lengths, tasks)
    moved = needle(dict.fromkeys(places, 5) | {places[0]: 6, places[1]: 4}, 60, lengths, tasks)
    found = compare(base, moved)
    verdicts = {row.verdict for row in found.cells}
    assert found.outcome == "pass"
    assert verdicts == {"inconclusive", "untouched"}
    assert only(found.sums).verdict == "untouched"


def test_one_cell_that_looks_worse_keeps_the_gate_from_passing():
    places = [("keys1", length) for length in (256, 512, 1024, 2048)]
    base = needle(dict.fromkeys(places, 5), 100, (256, 512, 1024, 2048))
    found = compare(base, needle(dict.fromkeys(places, 5) | {places[2]: 8}, 100, (256, 512, 1024, 2048)))
    assert only(found.sums).verdict == "untouched"
    assert found.outcome == "inconclusive"
    assert [row.seq_len for row in found.cells if row.blocks] == [1024]


def test_a_sum_can_regress_where_no_cell_can():
    places = [("keys1", length) for length in (256, 512, 1024, 2048)]
    found = compare(
        needle(dict.fromkeys(places, 5), 100, (256, 512, 1024, 2048)),
        needle(dict.fromkeys(places, 9), 100, (256, 512, 1024, 2048)),
    )
    assert {row.verdict for row in found.cells} == {"inconclusive"}
    assert (only(found.sums).verdict, found.outcome) == ("regressed", "regressed")


def test_likelihoods_are_compared_by_their_ratio():
    worse = compare(likelihood(lambda i: 600 + i), likelihood(lambda i: 610 + i + i % 2))
    row = only(worse.cells)
    assert (worse.outcome, row.scale, row.verdict) == ("regressed", "ratio", "regressed")
    assert row.change.value == pytest.approx(2.718281828 ** -(10.5 / 200) - 1, rel=1e-3)
    assert (row.lost, row.gained, row.mcnemar) == (8, 0, None)
    better = compare(likelihood(lambda i: 610 + i + i % 2), likelihood(lambda i: 600 + i))
    assert (better.outcome, only(better.cells).verdict) == ("pass", "improved")


def test_rounding_is_no_change():
    found = compare(likelihood(lambda i: 600 + i), likelihood(lambda i: (600 + i) * (1 + 5e-6 * (i % 2))))
    assert (found.outcome, only(found.cells).n_same) == ("pass", 8)
    assert only(found.cells).change.low == 0
    one = compare(likelihood(lambda i: 600, n=1), likelihood(lambda i: 600.001, n=1))
    assert one.outcome == "pass"


def test_one_document_that_moved_decides_nothing():
    found = compare(likelihood(lambda i: 600, n=1), likelihood(lambda i: 700, n=1))
    row = only(found.cells)
    assert (found.outcome, row.reason, row.blocks) == ("inconclusive", "one document gives no interval", True)


def failing(run, statuses):
    """The run with its first samples failed in new: index -> status, or None for not recorded."""
    records = {}
    for key, found in run.records.items():
        kept = [r for i, r in enumerate(found) if statuses.get(i, "ok") is not None]
        records[key] = [
            failed({"key": key}, int(r.example_id), statuses[int(r.example_id)])
            if statuses.get(int(r.example_id), "ok") != "ok"
            else r
            for r in kept
        ]
    return RunData(manifest=run.manifest, records=records)


def test_failures_in_new_count_as_wrong():
    found = compare(needle(10), failing(needle(10), dict.fromkeys(range(100, 130), "oom")))
    row = only(found.cells)
    assert (found.outcome, row.lost, row.n_failed) == ("regressed", 30, (0, 30))


def test_a_cell_that_only_fails_now_has_regressed_whatever_its_size():
    found = compare(needle(0, n=3), failing(needle(0, n=3), dict.fromkeys(range(3), "oom")))
    assert found.outcome == "regressed"
    assert only(found.cells).reason == "new failed every sample that base answered: 3 oom"
    documents = compare(likelihood(lambda i: 600), failing(likelihood(lambda i: 600), dict.fromkeys(range(8), "oom")))
    assert (documents.outcome, only(documents.cells).verdict) == ("regressed", "regressed")


def test_what_new_has_not_run_is_inconclusive():
    part = compare(needle(0), failing(needle(0), dict.fromkeys(range(100), None)))
    assert (part.outcome, only(part.cells).n_missing) == ("inconclusive", 100)
    none = compare(needle(0), failing(needle(0), dict.fromkeys(range(500), None)))
    assert (none.outcome, only(none.cells).reason) == ("inconclusive", "new has no record of it")
    unplanned = compare(needle(0, lengths=(256, 512)), needle(0))
    assert (unplanned.outcome, [row.blocks for row in unplanned.cells]) == ("inconclusive", [False, True])


def test_a_broken_base_passes_nothing():
    base = failing(needle(0), dict.fromkeys(range(50), "error"))
    found = compare(base, needle(0))
    assert (found.outcome, only(found.cells).blocks) == ("inconclusive", True)
    assert only(found.cells).change.low < -0.02


def test_what_failed_in_both_is_untouched():
    run = failing(needle(0), dict.fromkeys(range(50), "oom"))
    assert compare(run, run).outcome == "pass"


def test_what_base_never_answered_is_not_judged():
    base = failing(needle(0, lengths=(256, 512)), {})
    key = base.manifest["cells"][1]["key"]
    base = RunData(manifest=base.manifest, records={k: v for k, v in base.records.items() if k != key})
    found = compare(base, needle(0, lengths=(256, 512)))
    assert (found.outcome, found.only_in_new) == ("pass", ("tiny/yarn/needle/keys1/512",))


def test_a_prefix_of_the_samples_is_compared():
    found = compare(needle(10), needle(10, n=100))
    assert (found.outcome, only(found.cells).n_pairs, only(found.cells).n_missing) == ("pass", 100, 0)


CHANGES = {
    "samples": lambda m: m["suites"]["needle"].update(version=2),
    "model": lambda m: m["models"]["tiny"].update(rope_theta=500_000.0),
    "dtype": lambda m: m["cells"][0].update(dtype="bfloat16"),
    "attention": lambda m: m["cells"][0].update(attention="eager"),
}


def changed(run, change):
    manifest = copy.deepcopy(dict(run.manifest))
    change(manifest)
    return RunData(manifest=manifest, records=run.records)


@pytest.mark.parametrize("kind", CHANGES)
def test_runs_that_differ_in_what_they_measure_are_refused_unless_told(kind):
    base, new = needle(0), changed(needle(0), CHANGES[kind])
    found = compare(base, new)
    assert (found.outcome, found.exit_code, found.cells) == ("not comparable", 4, ())
    assert {difference.kind for difference in found.mismatches} == {kind}
    assert compare(base, new, allow=[k for k in CHANGES if k != kind]).outcome == "not comparable"
    allowed = compare(base, new, allow=[kind])
    assert (allowed.outcome, len(allowed.mismatches)) == ("pass", 1)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda m: m["suites"]["needle"]["params"].update(depths=5), "suite needle: depths"),
        (lambda m: m["cells"][0].update(seed=1), "seed"),
        (lambda m: m["cells"][0].update(artifacts={"haystack": "ab" * 32}), "needle/keys1: haystack"),
        (lambda m: m["cells"][0].update(artifacts={"tokenizer": "ab" * 32}), "model tiny: tokenizer and chat template"),
        (lambda m: m["cells"][0].update(artifacts={"weights": "ab" * 32}), "model tiny: weights"),
        (lambda m: m["metrics"]["needle"]["keys1"].update(chance=0.5), "needle/keys1: metric"),
    ],
)
def test_what_differs_is_named(change, what):
    found = compare(needle(0), changed(needle(0), change))
    assert found.outcome == "not comparable"
    assert [difference.what for difference in found.mismatches] == [what]
    assert all(len(difference.new) <= 64 for difference in found.mismatches)


def test_the_attention_that_ran_counts_where_records_say_it():
    def ran(backend):
        run = needle(0)
        return RunData(
            manifest=run.manifest,
            records={key: [replace(r, attention=backend) for r in found] for key, found in run.records.items()},
        )

    found = compare(ran("cudnn"), ran("math"))
    (difference,) = found.mismatches
    assert (found.outcome, difference.kind) == ("not comparable", "attention")
    assert (difference.base, difference.new) == ("cudnn", "math")
    assert compare(ran("cudnn"), ran("cudnn")).outcome == "pass"
    assert compare(needle(0), ran("math")).outcome == "pass"


def test_a_method_may_change_and_it_is_said():
    def change(manifest):
        manifest["methods"]["yarn"].update(version=2, params={"beta_fast": 16})
        manifest["cells"][0]["artifacts"] = {"factors": "ab" * 32}
        manifest["methods"]["yarn"]["artifacts"] = {"factors": "ab" * 32}
        manifest["environment"] = {"packages": {"torch": "2.14.0"}}

    found = compare(needle(0), changed(needle(0), change))
    assert found.outcome == "pass"
    assert "method yarn: version 1 in BASE, 2 in NEW" in found.notes
    assert "method yarn: beta_fast none in BASE, 16 in NEW" in found.notes
    assert "environment: packages.torch 2.13.0 in BASE, 2.14.0 in NEW" in found.notes


def test_runs_without_a_cell_in_common_are_refused():
    found = compare(needle(0), needle(0, tasks=("keys4",)))
    assert (found.outcome, found.exit_code, found.mismatches) == ("not comparable", 4, ())


@pytest.mark.parametrize("margin", [-0.1, 1.0, float("nan")])
def test_a_margin_that_is_none_is_refused(margin):
    with pytest.raises(RequestError, match=r"--margin = .*: it should be a fraction"):
        compare(needle(0), needle(0), margin=margin)


def test_the_order_of_records_moves_nothing():
    from reports.compare_views import as_json

    base, new = rich(), rich(methods=("vanilla", "yarn"))
    turned = RunData(manifest=new.manifest, records={k: list(reversed(v)) for k, v in reversed(new.records.items())})
    assert json.dumps(as_json(compare(base, new))) == json.dumps(as_json(compare(base, turned)))
