"""Many runs to one static site: who stands on it, in which order, and what of a stranger's run reaches a reader."""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import pytest

from harness.errors import RequestError
from reports import leaderboard
from reports.leaderboard import build, render_refusals
from reports.standings import Rank, ranks
from reports.submissions import read_submissions
from tests.reports import hostile
from tests.reports.folders import LENGTHS, made, real, write_run
from tests.reports.synthetic import _rich_answer, entry, failed, ok, run_data
from tests.reports.test_html import Page


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("submissions")
    return [
        write_run(made(("vanilla", "yarn", "position_interpolation"), title="First"), folder / "first"),
        write_run(made(("vanilla", "yarn"), model="other", title="Second"), folder / "second"),
    ]


@pytest.fixture(scope="module")
def site(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "out"
    found = build(folders, out)
    assert (found.exit_code, found.refused) == (0, ())
    return out


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_site_has_a_page_for_everything(site):
    names = sorted(re.sub(r"-[0-9a-f]{10}", "", name) for name in files(site))
    assert names == [
        "index.html",
        "leaderboard.csv",
        "leaderboard.json",
        "methods/position-interpolation.html",
        "methods/vanilla.html",
        "methods/yarn.html",
        "models/other.html",
        "models/tiny.html",
        "runs/first/report.html",
        "runs/first/summary.json",
        "runs/second/report.html",
        "runs/second/summary.json",
    ]


def test_pages_are_whole_and_every_link_leads_to_a_file(site):
    pages = [path for path in site.rglob("*.html") if path.parent.parent.name != "runs"]
    assert len(pages) == 6
    for path in pages:
        page = Page(path.read_text())
        assert page.open == []
        assert all(table["caption"] and table["headers"] for table in page.tables)
        for _, attributes in page.tags:
            for name in ("href", "src"):
                target = attributes.get(name, "#")
                assert not re.match(r"(?i)[a-z]+:|/", target)
                if not target.startswith("#"):
                    assert (path.parent / target).is_file()
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(ids) == len(set(ids))


def test_the_same_runs_give_the_same_bytes_whatever_their_order(folders, site, tmp_path):
    build(folders[::-1], tmp_path / "out")
    assert files(tmp_path / "out") == files(site)


def test_everything_can_be_read_without_scripts(site):
    page = Page((site / "index.html").read_text())
    form = next(attributes for tag, attributes in page.tags if tag == "form")
    assert "hidden" in form  # the script shows it
    hidden = [attributes for tag, attributes in page.tags if tag != "form" and "hidden" in attributes]
    assert hidden == []
    text = " ".join(page.text.split())
    assert "Effective length in tokens as [lower-bound rule, point rule]" in text
    assert "position_interpolation" in text


def test_only_our_script_runs(site):
    import base64
    import hashlib

    html = (site / "index.html").read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    assert "default-src 'none'" in html


def rows_of(site):
    return list(csv.DictReader(io.StringIO((site / "leaderboard.csv").read_text(), newline="")))


def test_rows_are_ranked_with_ties(site):
    rows = rows_of(site)
    assert len(rows) == 5
    assert [int(row["rank_best"]) for row in rows] == sorted(int(row["rank_best"]) for row in rows)
    lowest = rows[-1]
    assert (lowest["method"], lowest["effective_length"]) == ("position_interpolation", "256")
    assert lowest["rank_worst"] == "5"
    places = {(row["rank_best"], row["rank_worst"]) for row in rows if row["method"] == "vanilla"}
    assert len(places) == 1


def test_ranks_are_ties_where_intervals_overlap():
    assert ranks([(0.9, 1.0), (0.5, 0.6), (0.55, 0.95), (0.1, 0.2)]) == [
        Rank(best=1, worst=2),
        Rank(best=2, worst=3),
        Rank(best=1, worst=3),
        Rank(best=4, worst=4),
    ]
    assert ranks([(512, 512), (512, 512)]) == [Rank(best=1, worst=2)] * 2
    assert ranks([]) == []


def test_what_no_row_beats_is_marked(folders):
    from reports.standings import _front

    assert _front([(512, 0.9), (256, 0.95), (512, 0.8), (128, 0.95), (None, 1.0), (1024, None), (512, 0.9)]) == {
        0,
        1,
        6,
    }


def test_a_leaderboard_is_written_again_in_place_and_leaves_what_is_not_its(folders, tmp_path):
    out = tmp_path / "out"
    build(folders, out)
    (out / "CNAME").write_text("bench.example")
    build(folders[:1], out)
    assert (out / "CNAME").exists()
    assert not list(out.glob("models/other*"))
    assert len(list(out.glob("runs/*/report.html"))) == 1


@pytest.mark.parametrize(
    "mark", [None, "{", '{"leaderboard": 1, "files": ["../precious"]}', '{"leaderboard": 2}', "[]"]
)
def test_a_folder_of_something_else_is_left_alone(folders, tmp_path, mark):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "precious").write_text("thesis")
    (out / "thesis.tex").write_text("precious")
    if mark is not None:
        (out / "leaderboard.json").write_text(mark)
    with pytest.raises(RequestError, match="holds no leaderboard: give --out"):
        build(folders, out)
    assert (tmp_path / "precious").exists()
    assert (out / "thesis.tex").read_text() == "precious"


def test_nothing_is_written_when_no_run_is_left(tmp_path):
    found = build([tmp_path / "gone"], tmp_path / "out")
    assert (found.exit_code, found.accepted) == (2, ())
    assert not (tmp_path / "out").exists()
    assert render_refusals(found) == "gone was refused: it holds no run: there is no run.json in it\n"


def test_refused_runs_are_listed_on_the_page(folders, tmp_path):
    write_run(made(("vanilla",), answer=lambda cell, i: _rich_answer(cell, i) if i else None), tmp_path / "part")
    found = build([*folders, tmp_path / "part"], tmp_path / "out")
    assert found.exit_code == 5
    page = (tmp_path / "out" / "index.html").read_text()
    assert "it is not complete: tiny/vanilla/needle/keys1/256 has 39 of 40 samples" in Page(page).text
    assert "part was refused: it is not complete" in render_refusals(found)


@pytest.fixture(scope="module")
def nasty(tmp_path_factory):
    """A sound run in which every free text is hostile, on a board with a refused one of a hostile name."""
    folder = tmp_path_factory.mktemp("nasty")

    def answer(cell, i):
        if i:
            return ok(cell, i, 1.0, output=hostile.TEXT, metadata={"depth_fraction": 0.5, hostile.TEXT: hostile.TEXT})
        return failed(cell, i, "error", hostile.LONG if cell["seq_len"] == 256 else hostile.TEXT)

    names = (hostile.TEXT, hostile.FORMULA)
    run = made(names, model=hostile.TEXT, title=hostile.FORMULA, n=3, of=("needle",), answer=answer,
               preset=hostile.TEXT, longreach=hostile.TEXT, environment={hostile.TEXT: hostile.TEXT},
               report={"base": hostile.TEXT})  # fmt: skip
    facts = {"environment": {"device": hostile.TEXT}}
    write_run(run, folder / "sound", facts)
    wrong = folder / "<img src=x onerror=alert(3)>"
    wrong.mkdir()
    (wrong / "run.json").write_text(json.dumps({"schema": hostile.TEXT}))
    found = build([folder / "sound", wrong], folder / "out")
    assert found.accepted == ("sound",), found.refused
    return found


def test_hostile_text_is_only_text(nasty):
    for path in nasty.out.rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert re.fullmatch(r"[A-Za-z0-9./_-]+", path.relative_to(nasty.out).as_posix())
            assert len(text) < 2_000_000
            if path.suffix == ".html":
                page = Page(text)
                assert page.open == []
                assert [tag for tag, _ in page.tags].count("script") == 1
                assert not [tag for tag, attributes in page.tags if tag in {"img", "iframe"} or "onerror" in attributes]
                assert not set(text) & hostile.FORBIDDEN


def test_the_csv_computes_nothing(nasty):
    text = (nasty.out / "leaderboard.csv").read_text(encoding="utf-8")
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert len({len(row) for row in rows}) == 1
    assert not [field for row in rows for field in row if field.startswith(("=", "+", "@"))]
    assert "'" + hostile.FORMULA in [field for row in rows for field in row]
    assert not set(text) & (hostile.FORBIDDEN - {"\r"})


def test_refusals_are_a_line_each(nasty):
    text = render_refusals(nasty)
    text.encode()
    assert len(text.splitlines()) == 1
    assert not set(text) & hostile.FORBIDDEN


def test_reports_are_made_from_records_not_copied(folders, tmp_path):
    theirs = tmp_path / "first"
    shutil.copytree(folders[0], theirs)
    (theirs / "report.html").write_text("<script>alert(1)</script>")
    build([theirs], tmp_path / "out")
    (report,) = (tmp_path / "out").glob("runs/*/report.html")
    assert "alert(1)" not in report.read_text()


def test_a_wide_board_is_quick(tmp_path):
    import time

    cells = [
        entry(f"m{i}", "needle", task, length, 5)
        for i in range(20)
        for task in ("keys1", "keys4")
        for length in LENGTHS
    ]
    run = real(run_data(cells, lambda cell, i: ok(cell, i, 1.0), report={"base": "m0"}))
    write_run(run, tmp_path / "wide")
    started = time.process_time()
    accepted, _ = read_submissions([tmp_path / "wide"])
    leaderboard._files(accepted, [])
    assert time.process_time() - started < 20


def test_paths_are_inside(tmp_path: Path):
    assert leaderboard._is_inside("runs/a/report.html")
    assert not any(map(leaderboard._is_inside, ["/etc/passwd", "a/../../b", 3]))
