"""The command as a user meets it: it runs, resumes after any death, and says when there is nothing to do."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.presets import write_preset

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def command(*argv: str) -> list[str]:
    return [sys.executable, str(ROOT / "run_bench.py"), *argv]


def bench(*argv: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(command(*argv), cwd=cwd, capture_output=True, text=True, env=ENVIRONMENT, timeout=200)


def without_times(folder: Path) -> dict:
    summary = json.loads((folder / "summary.json").read_text())
    for row in summary["scores"]:
        del row["seconds"], row["peak_memory_bytes"]
    del summary["environment"]
    return summary


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a small run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("finished")
    done = bench("run", write_preset(folder), "--out", "out", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "out/report.html"
    return folder


def test_a_run_measures_what_is_known_of_the_embedded_model(finished):
    summary = json.loads((finished / "out" / "summary.json").read_text())
    score = {(r["method"], r["suite"], r["seq_len"]): r["score"] for r in summary["scores"]}
    assert len(summary["scores"]) == 8
    assert score["vanilla", "needle", 256] == 1.0
    assert score["vanilla", "needle", 1024] <= 0.5
    assert score["yarn", "needle", 1024] >= 0.75
    assert 0 < score["yarn", "perplexity", 256] < 1
    assert all(r["n_ok"] == r["n_expected"] for r in summary["scores"])
    regimes = {(r["method"], r["seq_len"]): r["regime"] for r in summary["scores"]}
    assert (regimes["vanilla", 1024], regimes["yarn", 256]) == ("original", "rescaled")


def test_the_scores_stand_before_anything_is_drawn(finished, tmp_path):
    shutil.copytree(finished / "out", tmp_path / "out")
    scores = tmp_path / "out" / "summary.json"
    scores.unlink()
    program = (
        "import sys, run_bench\n"
        "sys.modules['matplotlib'] = None  # an import of it fails\n"
        "run_bench.main(['report', 'out'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT, timeout=60
    )
    assert "scores: out/summary.json" in done.stderr
    assert "matplotlib" in done.stderr.splitlines()[-1]
    assert scores.read_bytes() == (finished / "out" / "summary.json").read_bytes()


def test_a_second_run_has_nothing_to_do_and_needs_no_torch(finished):
    program = (
        "import sys, run_bench\n"
        "code = run_bench.main(['run', 'small.toml', '--out', 'out'])\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
        "sys.exit(code)"
    )
    before = (finished / "out" / "report.html").stat().st_mtime_ns
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=finished, capture_output=True, text=True, env=ENVIRONMENT, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "nothing to do" in done.stdout
    assert time.monotonic() - began < 3
    assert (finished / "out" / "report.html").stat().st_mtime_ns == before


def test_the_report_is_the_same_bytes_when_written_again(finished):
    before = (finished / "out" / "report.html").read_bytes()
    assert bench("report", "out", "--html", "again.html", cwd=finished).returncode == 0
    assert (finished / "again.html").read_bytes() == before


def test_a_record_changed_by_hand_is_refused(finished, tmp_path):
    copy = tmp_path / "out"
    subprocess.run(["cp", "-r", str(finished / "out"), str(copy)], check=True)
    records = next(copy.glob("cells/*/records.jsonl"))
    records.write_text(
        records.read_text().replace('"score": 1.0', '"score": 0.9', 1).replace('"status": "ok"', '"status": "oom"', 1)
    )
    done = bench("report", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert "was changed after it was written" in done.stderr


def n_records(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("cells/*/records.jsonl"))


def heeds_ctrl_c() -> None:
    """As in a terminal: what a shell starts in the background ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stop_when(folder: Path, n: int, how: signal.Signals) -> tuple[int, str, float]:
    """Start a run, send it a signal once it has `n` records; its exit code, stderr, and seconds it took to end."""
    process = subprocess.Popen(
        command("run", "small.toml", "--out", "out"),
        cwd=folder,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heeds_ctrl_c,
    )
    deadline = time.monotonic() + 120
    while n_records(folder / "out") < n and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(how)
    sent = time.monotonic()
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr, time.monotonic() - sent


def test_a_killed_run_goes_on_and_ends_with_the_same_summary(finished, tmp_path):
    write_preset(tmp_path)
    for n in (0, 1, 7):
        assert stop_when(tmp_path, n, signal.SIGKILL)[0] == -signal.SIGKILL
    kept = n_records(tmp_path / "out")
    assert kept >= 7
    done = bench("run", "small.toml", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert n_records(tmp_path / "out") == 24
    assert without_times(tmp_path / "out") == without_times(finished / "out")


def test_ctrl_c_exits_130_in_seconds_and_can_be_resumed(finished, tmp_path):
    write_preset(tmp_path)
    code, stderr, seconds = stop_when(tmp_path, 2, signal.SIGINT)
    assert (code, seconds < 5) == (130, True)
    assert "interrupted: the same command goes on from here" in stderr
    assert "Traceback" not in stderr
    assert bench("run", "small.toml", "--out", "out", cwd=tmp_path).returncode == 0
    assert without_times(tmp_path / "out") == without_times(finished / "out")


BROKEN = '''
from dataclasses import dataclass
from contextlib import contextmanager
from typing import ClassVar

@dataclass(frozen=True)
class Broken:
    """Fails on every request beyond 256 tokens."""
    version: ClassVar[int] = 1

    @contextmanager
    def applied(self, model, *, seq_len):
        if seq_len > 256:
            raise RuntimeError("no <b>luck</b>")
        from methods.vanilla import Vanilla
        with Vanilla().applied(model, seq_len=seq_len):
            yield model
'''


def test_a_failing_outside_method_fails_its_cells_only_and_the_exit_code_says_so(tmp_path):
    (tmp_path / "their_pkg.py").write_text(BROKEN)
    preset = write_preset(
        tmp_path,
        method=[{"name": "vanilla"}, {"name": "their_pkg:Broken", "label": "broken"}],
        suite=[{"name": "needle", "tasks": ["keys1_noise"], "n_samples": 2}],
    )
    environment = ENVIRONMENT | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run(
        command("run", preset, "--out", "out"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
        timeout=200,
    )
    assert done.returncode == 5, done.stderr
    assert "2 of 8 samples failed" in done.stderr
    rows = {
        (r["method"], r["seq_len"]): r for r in json.loads((tmp_path / "out" / "summary.json").read_text())["scores"]
    }
    assert (rows["broken", 1024]["n_expected"], rows["broken", 1024]["n_error"], rows["broken", 1024]["score"]) == (
        2,
        2,
        None,
    )
    assert rows["broken", 256]["score"] == rows["vanilla", 256]["score"]
    html = (tmp_path / "out" / "report.html").read_text()
    assert "RuntimeError" in html
    assert "<b>luck</b>" not in html


def test_only_runs_what_matches_and_the_rest_later(tmp_path):
    write_preset(tmp_path)
    done = bench("run", "small.toml", "--out", "out", "--only", "*/yarn/*/256", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out" / "summary.json").read_text())["scores"]
    assert sum(row["n_ok"] for row in rows) == 6
    assert len([row for row in rows if row["score"] is None]) == 6


def test_what_there_is_can_be_listed(tmp_path):
    for kind, expected in [
        ("methods", "yarn"),
        ("suites", "needle"),
        ("models", "tiny-llama"),
        ("presets", "quickstart"),
    ]:
        done = bench("list", kind, cwd=tmp_path)
        assert done.returncode == 0
        assert any(line.startswith(expected) for line in done.stdout.splitlines())


def test_importing_the_packages_loads_neither_torch_nor_transformers():
    program = (
        "import sys, run_bench, harness.config, harness.store, harness.runner\n"
        "import methods.base, tasks.base, reports\n"
        "assert not {'torch', 'transformers', 'matplotlib', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=ENVIRONMENT, cwd=ROOT)
