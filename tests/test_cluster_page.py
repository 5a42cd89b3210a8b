"""docs/cluster.md: its numbers are those measured, its commands and links exist."""

import json
import re
import subprocess
from pathlib import Path

import pytest

import run_bench
from harness.config import preset_names
from tests.scripts import imported

ROOT = Path(run_bench.__file__).parent
PAGE = ROOT / "docs" / "cluster.md"
TEXT = PAGE.read_text(encoding="utf-8")
SCRIPT = re.search(r"```bash\n(#!/bin/bash\n.*?)```", TEXT, re.DOTALL)[1]


@pytest.fixture(scope="module")
def fill():
    with imported(ROOT / "docs" / "cluster" / "fill.py") as module:
        yield module


def test_every_number_is_what_was_measured(fill):
    assert fill.filled(TEXT) == TEXT
    names = {match["name"] for match in fill.MARKED.finditer(TEXT)}
    measured = json.loads((ROOT / "docs" / "cluster" / "scheduling.json").read_text())
    assert names == set(fill.facts(measured))


def test_a_number_that_was_changed_by_hand_is_seen(fill):
    marked = next(match for match in fill.MARKED.finditer(TEXT) if match["name"] == "cells_per_s")
    assert fill.filled(TEXT[: marked.start()] + "9,999" + TEXT[marked.end("value") :]) != TEXT.replace(
        marked["value"] + "<!--cells_per_s", "9,999<!--cells_per_s"
    )


def test_the_arithmetic_of_the_driver(fill):
    measured = {"cells": 1000, "seconds": 2.0, "cores": 2, "resident_bytes": [10**6, 2 * 10**6]}
    found = fill.facts(measured)
    assert (found["cells_per_s"], found["grid"], found["last_mb"]) == (500.0, 780_000, 2.0)
    assert found["hours_on_many"] * 100 == pytest.approx(780_000 * 5 / 3600)
    assert (found["long_percent"], found["long_gpus"], found["short_gpus"]) == (4.0, 2500.0, 100.0)


def test_the_table_of_the_executors_cost(fill):
    row = {"mode": "local, 1 thread", "seconds": 100.0, "start_s": 4.0, "answers_s": 93.0, "end_s": 3.0, "n_records": 8}
    text = fill.overhead(
        {
            "preset": "quickstart", "cores": 2, "rows": [row, row | {"mode": "1 worker", "seconds": 112.4}],
            "overhead": {"1 worker": 0.124}, "records_different_from_local_1_thread": {"1 worker": 0},
        }
    )  # fmt: skip
    assert text.startswith("`quickstart`, 8 samples, 2 cores; 0 records differ:\n")
    assert "| local, 1 thread | 100 | 4 | 93 | 3 |  |\n| 1 worker | 112 | 4 | 93 | 3 | +12.4 % |\n" in text
    assert fill.overhead(None) == ""


def test_the_slurm_script_is_one_that_bash_reads():
    done = subprocess.run(["bash", "-n"], input=SCRIPT, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_slurm_script_gives_every_variable_it_reads():
    """With `set -u` a variable that nobody sets ends the job; Slurm sets those of its options."""
    options = {
        "SLURM_JOB_NODELIST": "--nodes", "SLURM_JOB_NUM_NODES": "--nodes", "SLURM_CPUS_PER_TASK": "--cpus-per-task",
        "SLURM_GPUS_PER_TASK": "--gpus-per-task", "HOME": "#!/bin/bash",
    }  # fmt: skip
    own = set(re.findall(r"^(?:export )?(\w+)=", SCRIPT, re.MULTILINE))
    for name in set(re.findall(r"\$\{?([A-Za-z]\w+)", SCRIPT)) - own:
        assert options[name] in SCRIPT, name


def test_every_command_of_the_page_is_one():
    commands = re.findall(r"run_bench\.py ((?:run|status) [^`\n]*)", TEXT)
    assert len(commands) >= 6
    for command in commands:
        words = command.replace('"$address"', "h:1").replace("--workers N", "--workers 2").split()
        args = run_bench._parser().parse_args(words)
        assert args.verb in ("run", "status")
        if args.verb == "run" and args.preset != "PRESET":
            assert args.preset in preset_names("run")


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        path, _, heading = target.partition("#")
        if path.startswith("https:"):
            continue
        file = PAGE if not path else (PAGE.parent / path).resolve()
        text = file.read_text(encoding="utf-8")
        headings = [
            re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
            for line in text.splitlines()
            if line.startswith("#")
        ]
        assert not heading or heading in headings, target
    assert "docs/cluster.md" in (ROOT / "README.md").read_text(encoding="utf-8")
