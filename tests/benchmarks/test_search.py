"""The benchmark of the searches: its rows are what factors.json says, and a run goes on where it was."""

import importlib
import json
import subprocess
import sys
import tomllib
from argparse import Namespace
from pathlib import Path

import pytest

from harness.errors import RequestError
from methods.longrope.search.result import write_factors
from tests.methods.longrope.search.outcomes import facts, outcome
from tests.scripts import imported

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ARGS = Namespace(
    asked=1, search_keys=None,
    algorithms=["fast", "longrope2"], lengths=[4096, 8192], seeds=[3, 1], budget=[56, 48], population=16,
    iterations=40, documents=8, test_documents=16, curve_points=4, books=None,
)  # fmt: skip


@pytest.fixture(scope="module")
def search():
    with imported(BENCHMARKS / "search.py") as module:
        yield module


@pytest.fixture
def factors(tmp_path):
    def make(**changes) -> dict:
        write_factors(outcome(facts=facts(**changes)), tmp_path / "factors.json")
        return json.loads((tmp_path / "factors.json").read_text())

    return make


def test_every_search_has_a_folder_of_its_own_and_the_same_one_again(search):
    planned = search.planned(ARGS)
    assert [(s.label, s.config["target_length"], s.config["seed"]) for s in planned[::2]] == [
        ("fast", 4096, 0), ("fast", 4096, 1), ("fast", 4096, 2), ("fast", 8192, 0)
    ]  # fmt: skip
    names = [s.name for s in planned]
    assert len(set(names)) == 8
    assert names == [s.name for s in search.planned(ARGS)]
    other = search.planned(Namespace(**{**vars(ARGS), "documents": 4}))
    assert not {s.name for s in other} & set(names)


def test_all_algorithms_meet_the_same_objective_but_for_fresh_documents(search):
    fast, paper = (s.config for s in search.planned(ARGS)[:2])
    assert fast["objective"] | {"documents": ""} == paper["objective"] | {"documents": ""}
    assert (fast["search"]["budget"], paper["search"]["budget"]) == (56, 56)
    assert paper["search"]["population"] == 16
    assert paper["search"]["n_parents"] + paper["search"]["n_mutations"] + paper["search"]["n_crossovers"] == 16
    assert "population" not in fast["search"]


def test_the_fast_search_alone_takes_its_steps_among_more_keys(search):
    fast, paper = (s.config["objective"] for s in search.planned(Namespace(**{**vars(ARGS), "search_keys": 16}))[:2])
    assert fast["search_keys"] == 16
    assert "search_keys" not in paper
    assert all((one["n_keys"], one["n_asked"]) == (4, 1) for one in (fast, paper))


def test_every_configuration_is_one_the_command_takes(search, tmp_path):
    from methods.longrope.search.config import load_search

    algorithms = ["fast", "longrope2", "longrope"]
    for one in search.planned(Namespace(**{**vars(ARGS), "algorithms": algorithms, "seeds": [1]})):
        path = tmp_path / f"{one.name}.toml"
        path.write_text(search.toml(one.config))
        assert tomllib.loads(path.read_text()) == one.config
        plan = load_search(str(path))
        assert (plan.facts.algorithm, plan.facts.target_length) == (one.label, one.config["target_length"])


def test_rows_are_the_curve_and_end_with_the_result(search, factors):
    planned, found = search.planned(ARGS)[0], factors()
    rows = search.curve_rows(planned, found)
    measured = [p for p in found["curve"] if p["test_loss"] is not None]
    assert [row["held_out_loss"] for row in rows[:-1]] == [p["test_loss"] for p in measured]
    last = rows[-1]
    assert last["held_out_loss"] == found["losses"]["found"]["test"]
    assert last["forward_equivalents"] == found["search"]["spent"]
    assert last["standard_error"] == found["losses"]["found"]["test_standard_error"]
    for row in rows:
        assert (row["algorithm"], row["target_length"], row["seed"]) == ("fast", 4096, 0)
        assert row["yarn_loss"] == found["losses"]["yarn"]["test"]


def test_the_tables_say_losses_errors_and_how_a_search_was_scaled(search, factors):
    evolution = {"population": 16, "iterations": 40, "n_mutations": 4, "n_crossovers": 4}
    found = [factors(), factors(algorithm="longrope2", settings=evolution)]
    text = search.markdown(search.planned(ARGS)[:2], found)
    loss = found[0]["losses"]["found"]
    assert f"{loss['test']:.3g} ± {loss['test_standard_error']:.2g}" in text
    assert "population 16 of 64, 64 measurements; all generations would be 336, the paper's are 1344" in text
    found[1]["losses"]["yarn"]["test"] += 0.01
    with pytest.raises(RequestError, match="the documents are not the same"):
        search.markdown(search.planned(ARGS)[:2], found)


def test_ablations_stand_beside_the_papers_numbers(search, factors):
    ablations = importlib.import_module("search_ablations")
    made = ablations.searches(ARGS, search.Search)
    assert len({json.dumps(s.config["objective"] | {"kind": ""}, sort_keys=True) for s in made}) == 1
    text = ablations.markdown(made, [factors()] * len(made))
    for printed in (
        "LLaMA3-8B Table 6, plain PPL and LongRoPE2: 78.68, 82.03",
        "Phi3-mini Table 5, YaRN and YaRN-rcd: 39.37, 44.39",
        "LLaMA3-8B Table 10, all dimensions searched and LongRoPE2: 78.07, 82.03",
    ):
        assert printed in text


def test_a_search_runs_as_a_process_and_is_not_run_again(tmp_path):
    command = [
        sys.executable, str(BENCHMARKS / "search.py"), "--algorithms", "longrope2", "--lengths", "640", "--seeds", "1",
        "--budget", "24", "--population", "2", "--documents", "1", "--test-documents", "2", "--curve-points", "1",
        "--out", str(tmp_path / "out"), "--json", str(tmp_path / "rows.json"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert set(rows[0]) == {
        "algorithm", "target_length", "seed", "forward_equivalents", "held_out_loss", "yarn_loss"
    }  # fmt: skip
    assert rows[-1]["forward_equivalents"] <= 24
    (state,) = (tmp_path / "out").glob("*/state.json")
    before = state.stat().st_mtime_ns
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert again.stdout == done.stdout
    assert state.stat().st_mtime_ns == before


def test_a_wrong_request_is_one_line(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "search.py"), "--seeds", "1", "2", "3", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert done.stderr.strip() == "--seeds: 3 values for 2 lengths: it should be one or as many"
