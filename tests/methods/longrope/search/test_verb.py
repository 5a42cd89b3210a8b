"""`run_bench.py search`, from a file to a page, on the embedded model."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import run_bench
from methods.longrope.factors_file import read_factors
from tests.methods.longrope.search.test_config import SMALL, factors, write_search

ROOT = Path(__file__).parents[4]


def searched(tmp_path, *, out="out", config=None) -> tuple[int, Path]:
    folder = tmp_path / out
    code = run_bench.main(["search", config or write_search(tmp_path), "--out", str(folder), "--device", "cpu"])
    return code, folder


def numbers(folder: Path) -> dict:
    """The factors file without what depends on the time and the machine."""
    table = json.loads((folder / "factors.json").read_text())
    del table["environment"], table["search"]["seconds"]
    return table


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("finished")
    code, folder = searched(tmp_path)
    assert code == 0
    return folder


def test_factors_and_a_page_come_out_and_a_method_reads_them(finished, tmp_path):
    found = read_factors(str(finished / "factors.json"))
    assert len(found.rescale_factors) == 32
    assert (found.target_length, found.original_max_position_embeddings) == (640, 512)
    table = numbers(finished)
    assert table["losses"]["found"]["held_out"] <= min(row["held_out"] for row in table["losses"].values())
    assert table["search"]["spent"] <= 40
    assert (finished / "search.html").read_text().startswith("<!DOCTYPE html>")


def test_a_finished_search_does_nothing_and_says_so(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("harness.models.loading.load", lambda *args, **settings: pytest.fail("the model was loaded"))
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
    code, _ = searched(tmp_path, out=str(finished))
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert lines[0] == "nothing to do: the search is finished"
    assert "held out (YaRN" in lines[1]
    assert lines[2:] == [str(finished / "factors.json"), str(finished / "search.html")]
    assert {path.name: path.stat().st_mtime_ns for path in finished.iterdir()} == before


def test_a_page_that_is_gone_is_written_again_from_the_state(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("harness.models.loading.load", lambda *args, **settings: pytest.fail("the model was loaded"))
    page = (finished / "search.html").read_text()
    (finished / "search.html").unlink()
    assert searched(tmp_path, out=str(finished))[0] == 0
    assert (finished / "search.html").read_text() == page


def test_a_search_killed_at_any_time_ends_at_the_same_factors(finished, tmp_path):
    command = [sys.executable, "run_bench.py", "search", write_search(tmp_path), "--out", str(tmp_path / "out")]
    process = subprocess.Popen([*command, "--device", "cpu"], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    state, seen = tmp_path / "out" / "state.json", 0.0
    deadline = time.monotonic() + 100
    while seen < 4 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
        seen = json.loads(state.read_text())["state"]["archive"]["spent"] if state.exists() else 0.0
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    assert not (tmp_path / "out" / "factors.json").exists()
    assert searched(tmp_path)[0] == 0
    assert numbers(tmp_path / "out") == numbers(finished)


def test_documents_that_are_too_short_are_said_with_what_is_missing_before_the_model_loads(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("harness.models.loading.load", lambda *args, **settings: pytest.fail("the model was loaded"))
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "a.txt").write_text("A short book. " * 50)
    config = write_search(tmp_path, objective={"haystacks": ["book"], "books": str(tmp_path / "books")})
    code, folder = searched(tmp_path, config=config)
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "'book' is too short for documents of 640 tokens" in line
    assert "tokens are missing" in line
    assert not folder.exists()


@pytest.mark.parametrize(
    ("changes", "said"), [({"seed": 4}, "seed"), ({"model": {"rope": {"rope_theta": 20000.0}}}, "model_identity")]
)
def test_a_folder_of_another_search_is_refused_and_nothing_is_lost(changes, said, finished, tmp_path, capsys):
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    code, _ = searched(tmp_path, out=str(finished), config=write_search(tmp_path, **changes))
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "state of another search ('Small'; other: " + said in line
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before


def test_plain_perplexity_is_searched_for_and_needles_are_shown(tmp_path, capsys):
    small = {"population": 2, "iterations": 0, "n_final": 1, "critical_pair": "theoretical"}
    config = write_search(tmp_path, objective={"kind": "perplexity", "haystacks": ["docs"]}, search=small)
    code, folder = searched(tmp_path, config=config)
    assert code == 0
    losses = numbers(folder)["losses"]["found"]
    assert losses["held_out"] > 1 > losses["test"]


def test_factors_for_short_contexts_stand_beside_the_long_ones(tmp_path):
    long = factors(tmp_path)
    search = {**SMALL["search"], "algorithm": "longrope", "population": 4, "iterations": 0, "n_final": 1}
    config = write_search(tmp_path, readjusts=long, target_length=256, search=search)
    code, folder = searched(tmp_path, config=config)
    assert code == 0
    found = read_factors(str(folder / "factors.json"))
    assert (found.rescale_factors, found.attention_factor, found.target_length) == ((4.0,) * 32, 1.1, 2048)
    assert found.short_factor is not None
    assert max(found.short_factor) < 4


def test_a_device_that_is_not_there(tmp_path, capsys):
    code = run_bench.main(["search", write_search(tmp_path), "--out", str(tmp_path / "out"), "--device", "cuda:99"])
    assert code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_wrong_search_is_refused_without_torch(tmp_path):
    path = write_search(tmp_path, search={"budget": 1})
    script = f"import sys, run_bench; run_bench.main(['search', {path!r}]); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, env={**os.environ}, check=True
    )
    assert done.stdout.strip() == "False"
