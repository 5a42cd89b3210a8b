"""A search from its first question to its result, stopped and gone on with, over a loss that needs no model."""

import json
import math
import random
import subprocess
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from harness.errors import RequestError
from methods.longrope.search.candidate import Candidate
from methods.longrope.search.evaluator import Ask
from methods.longrope.search.progress import SearchProgress
from tests.methods.longrope.search.fakes import Bowl, Climber, Silent, problem, run

ROOT = Path(__file__).parents[4]


def numbers(outcome) -> str:
    """Everything of an outcome that should not depend on when and how often it was stopped."""
    return repr(replace(outcome, facts=None, seconds=0.0))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    evaluator = Bowl()
    return run(tmp_path_factory.mktemp("whole"), evaluator), evaluator


def test_the_result_is_the_first_of_the_ranking_and_better_than_the_closed_forms(whole):
    outcome, _ = whole
    assert outcome.best.held_out_loss < outcome.references["yarn"].held_out_loss
    assert outcome.best.test_loss < outcome.references["yarn"].test_loss
    assert outcome.best.candidate.origin == "step"
    assert outcome.held_out == problem().draw("held_out")


def test_nothing_is_measured_twice_and_what_is_measured_anew_is_paid_once(whole):
    outcome, evaluator = whole
    assert len(set(evaluator.measured)) == len(evaluator.measured)
    cost = {"loss": 1, "gradient": 3}
    assert outcome.spent == sum(cost[tried.measure] for tried in outcome.tried) <= 40
    assert [tried.forward_equivalents for tried in outcome.tried] == sorted(
        t.forward_equivalents for t in outcome.tried
    )


def test_the_report_s_documents_are_not_paid_for_and_nothing_is_chosen_by_them(whole):
    outcome, evaluator = whole
    assert {tried.draw.split for tried in outcome.tried} == {"search", "held_out"}
    on_test = [draw for _, draw, _ in evaluator.measured if draw.split == "test"]
    assert on_test
    assert {(draw.seq_len, draw.n_documents) for draw in on_test} == {(256, 3)}
    assert outcome.unpaid == pytest.approx(len(on_test) * 3 / 2 + 1)  # and PI on the held-out documents


def test_the_curve_begins_early_ends_at_the_end_and_has_about_as_many_tests_as_asked_for(whole):
    outcome, _ = whole
    spent = [point.forward_equivalents for point in outcome.curve]
    assert spent == sorted(spent)
    assert spent[-1] == outcome.spent
    tested = [point for point in outcome.curve if point.test_loss is not None]
    assert 3 <= len(tested) <= 7
    assert (tested[-1].candidate, tested[-1].test_loss) == (outcome.best.candidate, outcome.best.test_loss)


def test_a_stopped_search_goes_on_to_the_same_result_whenever_it_was_stopped(whole, tmp_path):
    outcome, evaluator = whole
    total = len(evaluator.measured)
    for stop in range(total):
        folder = tmp_path / str(stop)
        first, second = Bowl(stop_after=stop), Bowl()
        with pytest.raises(KeyboardInterrupt):
            run(folder, first)
        again = run(folder, second)
        assert numbers(again) == numbers(outcome), stop
        assert first.measured + second.measured == evaluator.measured, stop


def test_a_search_stopped_many_times_between_rare_saves_ends_at_the_same_result(whole, tmp_path):
    outcome, _ = whole
    draw = random.Random(0)
    for _ in range(40):
        try:
            found = run(tmp_path / "out", Bowl(stop_after=draw.randrange(4, 12)), save_every_s=1e9)
            break
        except KeyboardInterrupt:
            continue
    else:
        pytest.fail("no progress")
    assert numbers(found) == numbers(outcome)


def test_a_killed_process_leaves_a_state_to_go_on_from(whole, tmp_path):
    outcome, evaluator = whole
    script = (
        "import sys; from pathlib import Path; from tests.methods.longrope.search.fakes import Bowl, run\n"
        "run(Path(sys.argv[1]), Bowl(stop_after=int(sys.argv[2]), kill=True))"
    )
    for stop in (1, len(evaluator.measured) // 2):
        killed = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "out"), str(stop)], cwd=ROOT, capture_output=True
        )
        assert killed.returncode == -9
    assert numbers(run(tmp_path / "out", Bowl())) == numbers(outcome)


def test_a_finished_search_measures_nothing_again(whole, tmp_path):
    outcome, _ = whole
    run(tmp_path, Bowl())
    asleep = Bowl(stop_after=0)
    again = run(tmp_path, asleep)
    assert numbers(again) == numbers(outcome)
    assert not asleep.measured


def test_a_loss_that_is_not_a_number_ends_its_candidate_and_not_the_search(tmp_path):
    outcome = run(tmp_path, Bowl(nan_every=4))
    assert any(math.isnan(tried.loss) for tried in outcome.tried)
    assert math.isfinite(outcome.best.held_out_loss)
    assert outcome.best.held_out_loss < outcome.references["yarn"].held_out_loss
    assert numbers(run(tmp_path, Bowl())) == numbers(outcome)  # NaN outlives the file


def test_a_model_that_gives_no_number_at_all_is_said(tmp_path):
    class Broken(Bowl):
        def measure(self, ask):
            return [replace(found, loss=math.inf) for found in super().measure(ask)]

    with pytest.raises(RequestError, match=r"budget is too small|no candidate gave a finite loss"):
        run(tmp_path, Broken())


def test_a_searcher_that_asks_beyond_its_budget_is_stopped_with_its_name(tmp_path):
    class Greedy(Climber):
        def _next(self):
            return replace(super()._next(), draw=self.problem.draw(block=self.block, n_documents=200))

    with pytest.raises(RequestError, match=r"'climber' asks for \d+ forward-equivalents with 40 of 40 left"):
        run(tmp_path, Bowl(), searcher=Greedy(problem()))


def test_a_candidate_asked_for_twice_is_measured_once(tmp_path):
    class Twice(Climber):
        def _next(self):
            ask = super()._next()
            copies = [Candidate(rescale_factors=c.rescale_factors, critical_pair=3) for c in ask.candidates]
            return replace(ask, candidates=(*ask.candidates, *copies))

        def tell(self, measured):
            half = len(measured) // 2
            assert [m.loss for m in measured[:half]] == [m.loss for m in measured[half:]] or self.phase == "final"
            super().tell(measured)

    evaluator = Bowl()
    run(tmp_path, evaluator, searcher=Twice(problem(budget=60.0)), of=problem(budget=60.0))
    assert len(set(evaluator.measured)) == len(evaluator.measured)


def damaged() -> dict[str, object]:
    return {
        "cut": lambda text: text[: len(text) // 2],
        "empty": lambda text: "",
        "no JSON": lambda text: "not JSON\n",
        "a list": lambda text: "[]\n",
        "a key gone": lambda text: text.replace('"check"', '"chekc"'),
        "a number changed": lambda text: text.replace('"seconds": ', '"seconds": 1', 1),
        "another schema": lambda text: text.replace('"schema": 1', '"schema": 7'),
    }


@pytest.mark.parametrize("case", damaged())
def test_a_damaged_state_is_refused_in_one_line_and_kept(case, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Bowl(stop_after=12))
    path = tmp_path / "state.json"
    path.write_text(damaged()[case](path.read_text()))
    before = path.read_bytes()
    with pytest.raises(RequestError) as caught:
        run(tmp_path, Bowl())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"model": "another"}, "model"), ({"dtype": "bfloat16"}, "dtype"), ({"budget": 50.0}, "budget")],
)
def test_a_state_of_another_search_is_refused_with_what_differs_and_kept(changes, said, tmp_path):
    run(tmp_path, Bowl())
    before = (tmp_path / "state.json").read_bytes()
    with pytest.raises(RequestError, match=rf"state of another search \('A fake'; other: {said}\)"):
        run(tmp_path, Bowl(), key="another", **changes)
    assert (tmp_path / "state.json").read_bytes() == before


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RequestError, match="is not empty and holds no search"):
        run(tmp_path, Bowl())
    assert {path.name for path in tmp_path.iterdir() if path.name[0] != "."} == {"notes.txt"}


def test_two_processes_do_not_search_in_one_folder(tmp_path):
    class Nested(Bowl):
        def measure(self, ask):
            run(tmp_path, Bowl())

    with pytest.raises(RequestError, match="in use by another process"):
        run(tmp_path, Nested())


def test_the_state_is_plain_json_but_for_nan(tmp_path):
    run(tmp_path, Bowl())
    table = json.loads((tmp_path / "state.json").read_text())
    assert table["facts"]["algorithm"] == "climber"
    assert {"searcher", "archive", "curve", "seconds", "ending"} == set(table["state"])


def test_what_is_followed_names_losses_budget_and_stage(tmp_path):
    progress = Silent()
    run(tmp_path, Bowl(), progress=progress)
    last = progress.seen[-1]
    assert last.stage == "candidates at 256 tokens, held out"
    assert 0 < last.spent < last.budget == 40
    assert last.best_loss is not None
    assert last.yarn_test_loss > last.test_loss


def test_without_a_terminal_each_question_is_a_line(tmp_path, capsys):
    with SearchProgress(40.0, Console(stderr=True)).shown() as progress:
        run(tmp_path, Bowl(), progress=progress)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "measuring the closed forms on the test documents"
    assert "0 of 40 spent, no estimate yet: no loss yet" in lines[1]
    assert "left: best loss 0." in lines[3]
    assert "YaRN)" in lines[3]
    assert "held out" in lines[-2]


def test_in_a_terminal_the_losses_stand_beside_the_bar(tmp_path):
    followed = Silent()
    run(tmp_path, Bowl(), progress=followed)
    console = Console(force_terminal=True, width=200, record=True, file=StringIO())
    with SearchProgress(40.0, console).shown() as progress:
        progress.follows(followed.seen[-1])  # what stands when the display ends is always drawn
    assert "best loss 0." in console.export_text()


def test_a_choice_on_several_held_out_draws_is_told_over_all_of_them(tmp_path):
    class Careful(Climber):
        """Ranks on 2 held-out documents, then on 6 more."""

        again = True

        def ask(self):
            if self.phase == "done" and self.again:
                best = tuple(candidate for candidate, _ in self.best)
                return Ask(candidates=best, draw=self.problem.draw("held_out", block=1, n_documents=6))
            return super().ask()

        def tell(self, measured):
            if self.phase == "done":
                self.again = False
            else:
                super().tell(measured)

    of = problem(budget=60.0)
    outcome = run(tmp_path, Bowl(), of=of, searcher=Careful(problem()))
    best = outcome.best.candidate
    held_out = [tried for tried in outcome.tried if tried.draw.split == "held_out"]
    losses = {tried.draw.n_documents: tried.loss for tried in held_out if tried.candidate == best}
    assert set(losses) == {2, 6}
    assert outcome.best.held_out_loss == pytest.approx((2 * losses[2] + 6 * losses[6]) / 8)
    assert outcome.held_out.n_documents == 8
