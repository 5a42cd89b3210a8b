"""A method with a Python environment of its own: its cells are answered there, and the record says what that is."""

import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from multiprocessing import Pipe
from pathlib import Path

import pytest

import run_bench
from harness import interpreters
from harness.cluster import child, driver, nodes
from harness.cluster.driver import Loss
from harness.cluster.worker import Step, versions_under
from harness.config import load_plan
from harness.errors import RequestError
from harness.interpreters import Interpreter
from harness.plan import PlannedCell, RunSettings
from harness.store import Store, read_run
from harness.types import Record, RunData
from reports.comparable import notes
from tests.commands import refused
from tests.harness.cluster.fakes import FakePool, Samples, Told, cell, drive
from tests.presets import write_preset

# A method of somebody's, whose requirement is installed in its own environment alone.
OUTSIDE = """
import dataclasses
from methods.vanilla import Vanilla

@dataclasses.dataclass(frozen=True, kw_only=True)
class Outside(Vanilla):
    kills: str = ""

    def applied(self, model, *, seq_len):
        import os, signal, rare_requirement
        assert rare_requirement.VALUE == 7
        if self.kills:
            with open(self.kills, "a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().applied(model, seq_len=seq_len)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("environments")


def make(folder: Path, *, sees: tuple[Path, ...] = (), has: dict[str, str] | None = None) -> Path:
    """A virtual environment's interpreter. sees: folders of packages. has: names of packages made here -> versions."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "sees.pth").write_text("".join(f"{path}\n" for path in sees))
    for name, version in (has or {}).items():
        (packages / f"{name}.py").write_text("VALUE = 7\n")
        about = packages / f"{name}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder / "bin" / "python"


HERE = tuple(Path(path) for path in sys.path if path.endswith("site-packages"))


@pytest.fixture(scope="module")
def python(folder) -> Path:
    """One with all that is installed here, an outside method, and what that needs."""
    outside = folder / "outside"
    outside.mkdir()
    (outside / "outside_method.py").write_text(OUTSIDE)
    return make(folder / "own", sees=(*HERE, outside), has={"rare_requirement": "1.5"})


@pytest.fixture
def preset(folder, python, tmp_path, monkeypatch):
    """Writes a preset of an ordinary method and the outside one, and makes the latter's module known here."""
    monkeypatch.syspath_prepend(str(folder / "outside"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OWN", str(python))
    return lambda **settings: write(tmp_path, OWN | settings)


OWN = {"name": "outside_method:Outside", "label": "outside", "python": "${OWN}"}


def write(folder: Path, *methods: dict) -> str:
    suite = {"name": "needle", "tasks": ["keys1_noise"]}
    return write_preset(folder, seq_lens=[256], n_samples=1, method=[{"name": "vanilla"}, *methods], suite=[suite])


@pytest.fixture(scope="module")
def made(folder, python) -> Path:
    """A run whose third method kills the process that answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder / "outside"))
        patch.setenv("OWN", str(python))
        killer = OWN | {"label": "killer", "kills": str(folder / "kills")}
        assert run_bench.main(["run", write(folder, OWN, killer), "--out", str(folder / "out")]) == 5
    return folder / "out"


def record_of(run: RunData, method: str) -> Record:
    (key,) = [entry["key"] for entry in run.manifest["cells"] if entry["method"] == method]
    (record,) = run.records[key]
    return record


def test_a_method_is_answered_where_its_requirement_is(made):
    run = read_run(made)
    ours, theirs = record_of(run, "vanilla"), record_of(run, "outside")
    assert (theirs.status, theirs.example_id, theirs.output) == ("ok", ours.example_id, ours.output)
    found = {name: m["environment"]["packages"] for name, m in run.manifest["methods"].items() if "environment" in m}
    assert {name: packages["rare-requirement"] for name, packages in found.items()} == {
        "outside": "1.5",
        "killer": "1.5",
    }
    assert "method outside: own environment.packages.torch" in (made / "report.html").read_text()


def test_a_sample_that_kills_its_process_twice_is_an_error_and_the_rest_goes_on(made, folder):
    record = record_of(read_run(made), "killer")
    assert (record.status, record.score) == ("error", None)
    assert "2 workers were lost" in record.error and "SIGKILL ended its process" in record.error
    assert (folder / "kills").read_text() == "xx"


def test_what_runs_in_an_environment_is_what_was_planned(made, python):
    mark = json.loads(next(path for path in made.glob("cells/*/cell.json")).read_text())
    assert mark["environment"]["packages"]["torch"] == interpreters.named(python, "").packages["torch"]


def test_a_dry_run_names_the_interpreter(preset, python, capsys):
    assert run_bench.main(["run", preset(), "--out", "out", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"under {python} (Python {sys.version.split()[0]}, torch" in lines[1]
    assert "under" not in lines[0]


def test_what_is_installed_names_the_cells_and_where_it_lies_does_not(preset, folder, python, monkeypatch):
    preset()
    plan = load_plan("small.toml")
    moved = make(folder / "same", sees=(*HERE, folder / "outside"), has={"rare_requirement": "1.5"})
    monkeypatch.setenv("OWN", str(moved))
    assert load_plan("small.toml").key == plan.key
    newer = make(folder / "newer", sees=(*HERE, folder / "outside"), has={"rare_requirement": "1.6"})
    monkeypatch.setenv("OWN", str(newer))
    other = load_plan("small.toml")
    same = [ours.cell.key == theirs.cell.key for ours, theirs in zip(plan.cells, other.cells, strict=True)]
    assert same == [True, False]


def test_a_comparison_says_how_the_environments_differ():
    def manifest(torch: str) -> dict:
        method = {"name": "yarn", "version": 1, "environment": {"python": "3.12", "packages": {"torch": torch}}}
        return {"methods": {"yarn": method}}

    found = notes(manifest("2.11"), manifest("2.12"), ["yarn"])
    assert found == ["method yarn: packages.torch 2.11 in BASE, 2.12 in NEW"]


def test_a_run_does_not_go_on_in_a_changed_environment(preset, folder, tmp_path, monkeypatch, capsys):
    plan = load_plan(preset())
    with Store(tmp_path / "out").opened_for({"plan": plan.key, "title": "Small", "cells": []}):
        pass
    monkeypatch.setenv("OWN", str(make(folder / "changed", sees=HERE, has={"rare_requirement": "2"})))
    assert "holds another run" in refused(["run", "small.toml", "--out", "out"], capsys)


def bad(folder: Path, kind: str) -> Path:
    path = folder / kind
    if kind == "bare":
        return make(path)
    if kind in ("folder", "no program", "text"):
        path.mkdir() if kind == "folder" else path.write_text("hello\n")
        path.chmod(0o644 if kind == "no program" else 0o755)
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("nothing", "nothing': No such file or directory: it should be the path of a Python interpreter"),
        ("folder", "folder': Permission denied: it should be the path of a Python interpreter"),
        ("no program", "no program': Permission denied"),
        ("text", "text': Exec format error"),
        ("bare", "bin/python': torch and transformers are not installed there"),
    ],
)
def test_an_interpreter_that_is_none_is_refused(preset, folder, monkeypatch, capsys, tmp_path, kind, says):
    monkeypatch.setenv("OWN", str(bad(folder, kind)))
    line = refused(["run", preset(), "--out", "out", "--dry-run"], capsys, tmp_path / "out")
    assert line.startswith("run_bench.py: method 'outside': python = '")
    assert says in line


@pytest.mark.parametrize(
    ("python", "says"),
    [
        (3, "method 'outside': python = 3: it should be a text"),
        ("/bin/echo", "'/bin/echo': it does not answer as a Python interpreter does"),
        ("${NOBODY}/python", "the variable NOBODY is not set"),
        ("../no/python", "../no/python': No such file"),
    ],
)
def test_a_setting_that_names_none_is_refused(preset, capsys, tmp_path, python, says):
    assert says in refused(["run", preset(python=python), "--out", "out"], capsys, tmp_path / "out")


def test_an_environment_that_does_not_start_is_refused_before_anything_runs(
    preset, folder, tmp_path, monkeypatch, capsys
):
    broken = make(folder / "broken", has={"torch": "2.13.0", "transformers": "5.23.0"})  # empty modules
    monkeypatch.setenv("OWN", str(broken))
    line = refused(["run", preset(), "--out", "out"], capsys, tmp_path / "out")
    assert f"method 'outside': python = '{broken}' cannot start a worker: " in line
    assert "Error" in line


def test_a_method_that_its_environment_lacks_is_one_line(signals):
    ours, theirs = Pipe()
    ours.send((RunSettings(), "cpu"))
    ours.send_bytes(b"cnowhere_installed\nMethod\n.")  # the pickle of a class
    with socket.socket(fileno=os.dup(ours.fileno())) as end:
        end.shutdown(socket.SHUT_WR)
    child.serve(theirs)
    assert ours.recv().pid == os.getpid()
    says = "a method's module cannot be imported there: No module named 'nowhere_installed'"
    assert ours.recv() == Step(refused=f"{sys.executable}: {says}")


@pytest.fixture
def signals():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


A, B = (Interpreter(path=path, python="3.12", packages={"torch": "2", "transformers": "5"}) for path in ("/a", "/b"))
CELLS = [
    cell(f"t{i}", n=4, method=method, interpreter=interpreter)
    for method, interpreter in (("v", None), ("w", A), ("x", B))
    for i in range(3)
]


@dataclass
class Pool(FakePool):
    """Knows which interpreter each worker has, and what each was asked."""

    under: dict[int, Interpreter | None] = field(default_factory=dict)
    asked: list[tuple[int, PlannedCell]] = field(default_factory=list)

    def start(self, interpreter=None) -> int:
        worker = super().start()
        self.under[worker] = interpreter
        if interpreter is not None:
            _, facts = self.due.pop()
            self.due.append((worker, replace(facts, versions=versions_under(interpreter) | self.versions)))
        return worker

    def send(self, worker, order, drops) -> None:
        if order is not None:
            self.asked.append((worker, order.planned))
        super().send(worker, order, drops)


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_each_worker_answers_the_cells_of_its_environment_alone(tmp_path, monkeypatch, signals, n):
    monkeypatch.setattr(driver, "SampleCache", Samples)
    store, pool, died = Store(tmp_path), Pool(n, versions={}), []

    def dies(worker, example_id):
        if example_id == "t1-2" and len(died) < 2:
            died.append(worker)
            return Loss(reason="killed", blame=False)
        return None

    pool.dies = dies
    told = Told()
    driver.Driver(CELLS, pool, store, told, versions={}).run()
    assert all(pool.under[worker] == planned.method.interpreter for worker, planned in pool.asked)
    assert all(len(store.records(planned.cell.key)) == 4 and store.is_finished(planned.cell.key) for planned in CELLS)
    assert len(told.records) == 4 * len(CELLS)
    assert n > 1 or len(pool.started) == 3 + len(died)  # one after the other: each environment once


@pytest.mark.parametrize("name", ["Python", "torch", "Longreach", interpreters.PACKAGES])
def test_another_environment_at_the_same_path_is_refused(tmp_path, monkeypatch, signals, name):
    monkeypatch.setattr(driver, "SampleCache", Samples)
    with pytest.raises(RequestError, match=f"worker on h: {re.escape(name)} is other there and"):
        drive(CELLS[3:], Store(tmp_path), Pool(2, versions={name: "other"}))


@pytest.mark.parametrize(
    ("python", "ray", "says"),
    [
        (platform.python_version(), {}, "it has no Ray, the cluster has 2.50: install that one there too"),
        (platform.python_version(), {"ray": "2.49"}, "it has Ray 2.49, the cluster has 2.50"),
        ("3.99.1", {"ray": "2.50"}, "it is Python 3.99.1, the cluster has 3"),
    ],
)
def test_what_ray_cannot_start_a_worker_under_is_refused(python, ray, says):
    with pytest.raises(RequestError, match=says):
        nodes._check_fits_ray("p", replace(A, python=python, packages=ray), "2.50")


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'longreach[ray]'")
def test_on_a_cluster_the_actor_is_under_the_method_s_interpreter(cluster, preset, folder, tmp_path):
    preset()
    root = Path(run_bench.__file__)
    command = [sys.executable, root, "run", "small.toml", "--out", "out", "--executor", "ray"]
    paths = os.pathsep.join([str(root.parent), str(folder / "outside"), *map(str, HERE)])
    done = subprocess.run(
        [*command, "--address", cluster.address],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    run = read_run(tmp_path / "out")
    ours, theirs = record_of(run, "vanilla"), record_of(run, "outside")
    assert (theirs.status, theirs.example_id, theirs.output) == ("ok", ours.example_id, ours.output)
