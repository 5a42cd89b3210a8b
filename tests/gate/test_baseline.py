"""The gate in use: the committed baseline is today's preset, small and free of its machine, and losses against it fail.

What `make gate` compares is a run of this checkout; here losses are planted in copies of the baseline itself.
"""

import importlib.util
import json
import socket
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import run_bench
from harness.config import load_plan
from harness.store import Store, read_run
from harness.types import Record
from tests.reports.folders import write_run

ROOT = Path(__file__).parents[2]
BASELINE = Path(__file__).parent / "baseline"
FILES = sorted(path for path in BASELINE.rglob("*") if path.is_file())
RENEW = "the preset `ci` is no longer what the baseline ran: `make gate-baseline`, and commit what it wrote"

Cell = dict[str, Any]


def test_the_baseline_is_a_whole_run_of_the_preset():
    if importlib.util.find_spec("needlehaystack") is None:
        pytest.skip("the package needlehaystack is not installed")
    run = read_run(BASELINE)
    assert run.manifest["plan"] == load_plan("ci").key, RENEW
    for cell in run.manifest["cells"]:
        assert Store(BASELINE).is_finished(cell["key"])
        assert [record.status for record in run.records[cell["key"]]] == ["ok"] * cell["n_samples"]


def test_the_baseline_has_what_is_compared_and_no_more():
    assert {path.name for path in FILES} == {"run.json", "cell.json", "records.jsonl"}
    assert sum(path.stat().st_size for path in FILES) < 700_000


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(BASELINE).as_posix())
def test_the_baseline_names_no_machine_and_no_path(path):
    text = path.read_text(encoding="utf-8")
    assert not [word for word in strings(list(map(json.loads, documents(path, text)))) if word.startswith(("/", "~"))]
    assert str(ROOT) not in text
    assert f'"{socket.gethostname()}"' not in text


def documents(path: Path, text: str) -> list[str]:
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def strings(value: Any) -> list[str]:
    """Every string in a value read from JSON, names of fields too."""
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in strings(part)]
    if isinstance(value, list):
        return [text for part in value for text in strings(part)]
    return [value] if isinstance(value, str) else []


def copy_with(folder: Path, change: Callable[[Cell, int, Record], Record]) -> Path:
    """The baseline with its records changed, written as a run writes them."""
    run = read_run(BASELINE)
    cells = {cell["key"]: cell for cell in run.manifest["cells"]}
    records = {
        key: tuple(change(cells[key], i, record) for i, record in enumerate(found))
        for key, found in run.records.items()
    }
    return write_run(replace(run, records=records), folder)


def wrong(record: Record) -> Record:
    return replace(record, output=" 0000000.", score=0.0, measures={"number_match_all": 0.0})


def likelier(record: Record, factor: float) -> Record:
    """A document's answer with its negative log-likelihood multiplied."""
    n, nll = record.measures["n_scored_tokens"], record.measures["nll"] * factor
    by_position = [[low, high, part * factor, count] for low, high, part, count in record.measures["nll_by_position"]]
    measures = {**record.measures, "nll": nll, "nll_by_position": by_position}
    return replace(record, score=2.718281828459045 ** (-nll / n), measures=measures)


def same(cell: Cell, i: int, record: Record) -> Record:
    return record


def a_broken_rope(cell: Cell, i: int, record: Record) -> Record:
    """YaRN beyond the window as if it left the frequencies alone: the needles are lost there."""
    lost = (cell["method"], cell["suite"], cell["seq_len"]) == ("yarn", "needle", 1024)
    return wrong(record) if lost else record


def a_rope_that_is_a_little_off(cell: Cell, i: int, record: Record) -> Record:
    """The needles are found all the same; the text beyond the window is less likely by a twentieth of its nats."""
    off = (cell["method"], cell["suite"], cell["seq_len"]) == ("longrope2_closed_form", "perplexity", 1024)
    return likelier(record, 1.05 + 0.001 * i) if off else record


def needles_that_are_not_there(cell: Cell, i: int, record: Record) -> Record:
    return wrong(record) if cell["suite"] == "needle" else record


def one_method_that_raises(cell: Cell, i: int, record: Record) -> Record:
    if cell["method"] != "yarn":
        return record
    return replace(record, status="error", error="ValueError: planted", score=None, output="", measures={})


def rounding(cell: Cell, i: int, record: Record) -> Record:
    return likelier(record, 1 + 2e-5 * (-1) ** i) if cell["suite"] == "perplexity" else record


def one_answer_turned(cell: Cell, i: int, record: Record) -> Record:
    here = (cell["method"], cell["task"], cell["seq_len"]) == ("yarn", "keys1_noise", 1024)
    return wrong(record) if here and i == 0 else record


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (same, 0),
        (rounding, 0),
        (one_answer_turned, 3),
        (a_broken_rope, 1),
        (a_rope_that_is_a_little_off, 1),
        (needles_that_are_not_there, 1),
        (one_method_that_raises, 1),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_the_gate_says(change, code, tmp_path, capsys):
    assert run_bench.main(["compare", str(BASELINE), str(copy_with(tmp_path / "new", change))]) == code
    assert ("regressed" in capsys.readouterr().out) == (code == 1)


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`make TARGET` with the project's Makefile, and a Python that ends as told and writes a run's files."""
    (tmp_path / "Makefile").write_bytes((ROOT / "Makefile").read_bytes())
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        """#!/bin/sh
        echo "$@" >> called
        [ "$2" = run ] || exit "$COMPARE"
        [ -e runs/gate ] || { mkdir -p runs/gate/cells/key && touch runs/gate/run.json; }
        exit "$RUN"
        """
    )
    python.chmod(0o755)
    for mark in (".installed", ".essays"):
        (tmp_path / ".venv" / mark).touch()

    def make(target: str, *, run: int = 0, compare: int = 0) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "RUN": str(run), "COMPARE": str(compare)}
        return subprocess.run(["make", target], cwd=tmp_path, env=environment, capture_output=True, text=True)

    return make


@pytest.mark.parametrize(
    ("run", "compare", "passes"),
    [(0, 0, True), (0, 1, False), (0, 2, False), (0, 3, False), (0, 4, False), (5, 0, False)],
)
def test_only_exit_code_0_passes(made, run, compare, passes):
    done = made("gate", run=run, compare=compare)
    assert (done.returncode == 0) == passes, done.stderr


def test_the_gate_compares_with_the_baseline_and_never_with_an_old_run(made, tmp_path):
    (tmp_path / "runs" / "gate").mkdir(parents=True)
    (tmp_path / "runs" / "gate" / "report.html").touch()
    assert made("gate").returncode == 0
    assert (tmp_path / "called").read_text().splitlines() == [
        "run_bench.py run ci --device cpu --out runs/gate",
        f"run_bench.py compare {BASELINE.relative_to(ROOT)} runs/gate",
    ]
    assert not (tmp_path / "runs" / "gate" / "report.html").exists()


def test_a_renewed_baseline_is_the_new_run_alone(made, tmp_path):
    baseline = tmp_path / BASELINE.relative_to(ROOT)
    (baseline / "cells" / "old").mkdir(parents=True)
    assert made("gate-baseline").returncode == 0
    assert sorted(path.relative_to(baseline).as_posix() for path in baseline.rglob("*")) == [
        "cells",
        "cells/key",
        "run.json",
    ]


def test_ci_runs_the_gate():
    checked = subprocess.run(["make", "--dry-run", "check"], cwd=ROOT, capture_output=True, text=True).stdout
    assert f"compare {BASELINE.relative_to(ROOT)} runs/gate" in checked
    assert "make check" in (ROOT / ".ci" / "run").read_text()
