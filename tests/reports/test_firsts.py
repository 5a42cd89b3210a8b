"""Groups of suites, and who is first at each length, on runs whose answer is known."""

import json

import pytest

from harness.config import load_plan
from harness.manifest import manifest
from reports import firsts
from reports.html import render
from reports.submissions import read_submissions
from reports.tables import summary
from tests.presets import write_preset
from tests.reports.folders import made, write_run
from tests.reports.outline import outline
from tests.reports.synthetic import entry, failed, ok, rich, run_data
from tests.reports.test_html import Page
from tests.reports.test_tables import only

N = 40
RIGHT = {"vanilla": range(N), "yarn": range(2, N), "ntk": range(20, N)}


def race(right=RIGHT, n=N, suite="needle", task="keys1", **changes):
    """One cell a method; `right`: the samples it gets right."""
    cells = [entry(method, suite, task, 1024, n) for method in right]
    return run_data(cells, lambda cell, i: ok(cell, i, float(i in right[cell["method"]])), **changes)


def test_one_is_first_one_tied_by_a_wide_interval_and_one_behind():
    rows = summary(race())["standings"]
    first, tied, behind = (only(rows, method=method) for method in RIGHT)
    assert [row["verdict"] for row in (first, tied, behind)] == ["first", "tied", "behind"]
    assert {row["leader"] for row in rows} == {"vanilla"}
    assert [row["score"] for row in rows] == [1.0, 0.95, 0.5]
    assert [row["n"] for row in rows] == [N, N, N]
    assert (first["difference"], first["low"], first["p_value"]) == (None, None, None)
    assert tied["difference"] == pytest.approx(-0.05)
    assert tied["low"] < -0.05 < 0 < tied["high"]
    assert tied["p_value"] == 0.5  # McNemar: 0 of 2 discordant samples, two-sided
    assert behind["high"] < -0.3
    assert behind["p_value"] == pytest.approx(2 * 0.5**20, rel=1e-5)
    assert behind["p_holm"] == pytest.approx(2 * behind["p_value"], rel=1e-5)


def test_of_equal_scores_the_earlier_in_the_plan_is_first_and_the_other_tied():
    rows = summary(race({"vanilla": range(10), "yarn": range(N), "ntk": range(N)}))["standings"]
    assert [row["verdict"] for row in rows] == ["behind", "first", "tied"]


def test_what_has_no_answer_counts_as_0_for_the_first_place_and_widens_the_interval():
    cells = [entry(method, "needle", "keys1", 1024, N) for method in ("vanilla", "yarn", "ntk")]

    def answer(cell, i):
        if cell["method"] == "vanilla":
            return ok(cell, i, float(i > 3))
        return ok(cell, i, 1.0) if cell["method"] == "yarn" and i < 20 else failed(cell, i)

    first, half, none = summary(run_data(cells, answer))["standings"]
    assert (first["verdict"], half["verdict"], none["verdict"]) == ("first", "tied", None)
    assert (half["score"], half["n"], half["low"] < 0 < half["high"]) == (1.0, 20, True)
    assert none["reason"] == "no sample was answered"


def test_perplexities_are_compared_by_their_ratio():
    nll = {"vanilla": 3.0, "yarn": 2.0, "ntk": 2.001}
    cells = [entry(method, "perplexity", "docs", 1024, 8) for method in nll]

    def answer(cell, i):
        value = nll[cell["method"]] + 0.01 * i + (0.05 * (-1) ** i if cell["method"] == "ntk" else 0)
        return ok(cell, i, 2.718281828459045**-value, measures={"nll": 200 * value, "n_scored_tokens": 200})

    worst, first, tied = summary(run_data(cells, answer))["standings"]
    assert (worst["verdict"], first["verdict"], tied["verdict"]) == ("behind", "first", "tied")
    assert (worst["scale"], worst["difference"]) == ("perplexity ratio", pytest.approx(2.718281828**-1 - 1, rel=1e-5))
    assert worst["n"] == 8


def test_one_document_decides_nothing():
    cells = [entry(method, "perplexity", "docs", 1024, 1) for method in ("vanilla", "yarn")]
    nll = {"vanilla": 200.0, "yarn": 300.0}
    run = run_data(cells, lambda c, i: ok(c, i, 0.3, measures={"nll": nll[c["method"]], "n_scored_tokens": 100}))
    row = summary(run)["standings"][1]
    assert (row["verdict"], row["reason"]) == (None, "one document gives no interval")


def test_a_method_alone_is_first_of_nothing():
    assert summary(race({"vanilla": range(N)}))["standings"] == []


def test_of_many_methods_the_best_are_compared(monkeypatch):
    monkeypatch.setattr(firsts, "MOST_COMPARED", 2)
    first, second, third = summary(race())["standings"]
    assert (first["verdict"], second["verdict"], third["verdict"]) == ("first", "tied", None)
    assert third["reason"] == "not among the 2 best, which are compared"
    assert second["p_holm"] == 1.0


GROUPS = {"report": {"groups": {"retrieval": ["needle", "choices"]}}}


def uneven(**changes):
    """Two suites at 256 and 512; vanilla is perfect in one beyond 256 and lost in the other, at different lengths."""
    cells = [
        entry(m, s, t, n, 100)
        for m in ("vanilla", "yarn")
        for s, t in (("needle", "keys1"), ("choices", "mmlu"))
        for n in ((256, 512, 1024) if s == "needle" else (256, 512))
    ]
    share = {("needle", 256): 80, ("choices", 256): 100, ("needle", 512): 100, ("choices", 512): 80}

    def answer(cell, i):
        least = share.get((cell["suite"], cell["seq_len"]), 0) if cell["method"] == "yarn" else 100
        return ok(cell, i, float(i < least))

    return run_data(cells, answer, **changes)


def test_a_group_reaches_a_length_that_neither_suite_reaches_alone():
    changes = {"report": {"groups": {"retrieval": ["needle", "choices"]}, "native_share": 0.84}}
    rows = summary(uneven(**changes))["effective_length"]
    reach = {row["group"]: row["effective_length"] for row in rows if row["method"] == "yarn"}
    assert reach == {"needle": None, "choices": 256, "retrieval": 512}
    group = only(rows, group="retrieval", method="yarn")
    assert group["lengths"] == [256, 512]  # 1024 is planned for one of the suites alone
    assert len(group["cells"]) == 4


def test_a_group_has_standings_over_all_its_tasks():
    rows = summary(uneven(**GROUPS))["standings"]
    row = only(rows, group="retrieval", method="yarn", seq_len=512)
    assert (row["score"], row["n"], row["verdict"]) == (0.9, 200, "behind")


def test_a_page_shows_a_group_and_who_is_first():
    report = render(uneven(**GROUPS))
    page = Page(report)
    assert page.open == []
    text = " ".join(page.text.split())
    assert "Reach in retrieval" in text
    assert "All tasks of needle, choices, with equal weight." in text
    assert "retrieval, who is first: score in percent" in text
    assert 'id="m0-first4-yarn"' in report
    table = report[report.index('aria-label="Who is first in retrieval"') :]
    words = " ".join(Page(table[: table.index("</table>")] + "</table>").text.split())
    assert words.count("first") >= 2
    assert "behind" in words


def test_a_run_without_groups_does_not_name_them():
    plain, empty = rich(), rich()
    empty.manifest["report"].pop("groups", None)
    assert render(plain) == render(empty)
    assert "report.groups" not in outline(render(plain))


def test_the_order_of_stored_groups_moves_nothing():
    groups = {"b": ["needle"], "a": ["choices", "needle"]}
    one, two = (uneven(report={"groups": dict(order)}) for order in (groups.items(), reversed(groups.items())))
    assert json.dumps(summary(one)) == json.dumps(summary(two))


def test_groups_stand_in_run_json_and_in_the_plan_only_where_there_are_any(tmp_path):
    none, empty, some = (
        load_plan(write_preset(tmp_path, name, report=report))
        for name, report in (("none", {}), ("empty", {"groups": {}}), ("some", {"groups": {"g": ["needle"]}}))
    )
    assert none.key == empty.key != some.key
    assert "groups" not in manifest(none)["report"]
    assert manifest(some)["report"]["groups"] == {"g": ["needle"]}


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"g": ["gone"]}, "unknown suite in report.groups.g 'gone'"),
        ({"g": "needle"}, "groups.g = 'needle'"),
        ({"g": ["needle", "perplexity"]}, "whose mean means nothing"),
        (None, "groups = None"),
    ],
)
def test_a_submission_with_wrong_groups_is_refused(groups, said, tmp_path):
    folder = write_run(made(("vanilla", "yarn"), n=4, report={"groups": groups}), tmp_path / "run")
    accepted, refused = read_submissions([folder])
    assert not accepted
    assert said in refused[0].reasons[0]


def test_a_submission_with_groups_stands(tmp_path):
    folder = write_run(
        made(("vanilla", "yarn"), n=4, report={"groups": {"g": ["needle", "choices"]}}), tmp_path / "run"
    )
    accepted, _ = read_submissions([folder])
    assert [s.folder for s in accepted] == ["run"]
