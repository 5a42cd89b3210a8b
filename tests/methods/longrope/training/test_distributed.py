"""Two processes train as one does: the same losses, the same weights; plain copies, FSDP2's shards, and Ulysses.

They run on CPUs, over gloo, started as the committed configurations say.
"""

import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import yaml

from methods.longrope.training import checkpoint
from methods.longrope.training.loop import fit
from methods.longrope.training.processes import CONFIGURATIONS
from methods.longrope.training.settings import TrainingSettings
from tests.conftest import ROOT
from tests.methods.longrope.training.corpora import LONG, SHORT, TARGET
from tests.methods.longrope.training.small import loaded, model_folder, rescaled, small_mix, with_epochs

# Batches of three segments: one process has one fewer to read.
SETTINGS = TrainingSettings(
    batch_tokens=3 * TARGET, learning_rate=1e-2, warmup_steps=2, save_every=2, keep=9, clip=0.5, weight_decay=0.1
)
# Whether the model ties its embeddings, and the settings.
VARIANTS = {
    "copies": (False, SETTINGS),
    "shards": (True, SETTINGS),
    "ulysses": (False, replace(SETTINGS, sequence_parallel=2)),
    "half": (True, replace(SETTINGS, dtype="bfloat16", learning_rate=1e-3, sequence_parallel=2)),
}


def mixed(folder):
    return small_mix(folder, with_epochs(SHORT), with_epochs(LONG))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two models and their corpus."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("tied", "untied"):
        model_folder(folder / name, tied=name == "tied")
    mixed(folder)
    return folder


def launched(folder, configuration, *variants):
    """What the processes print, started by the committed configuration."""
    done = subprocess.run(
        [
            sys.executable, "-m", "accelerate.commands.launch", "--config_file",
            str(CONFIGURATIONS / f"{configuration}.yaml"), "--num_processes", "2", "--main_process_port", "0",
            "-m", "tests.methods.longrope.training.several", str(folder), *variants,
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: float(held) for name, held in re.findall(r"(\w+): held ([\d.]+)", done.stdout)}


def by_one_process(folder, name, *, into):
    """The same training by this process, in another folder."""
    tied, settings = VARIANTS[name]
    model = loaded(folder / ("tied" if tied else "untied"))
    return fit(model, rescaled(model), mixed(folder), replace(settings, sequence_parallel=1), folder=folder / into)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("configuration", "held", "variants"),
    [("data_parallel", 1.0, ["copies"]), ("fsdp2", 0.5, ["shards", "ulysses", "half"])],
)
def test_two_processes_are_one(home, configuration, held, variants):
    share = launched(home, configuration, *variants)
    assert share == {name: pytest.approx(held, abs=0.02) for name in variants}
    for name in variants:
        one = by_one_process(home, name, into=f"{name} by one")
        places = checkpoint.all_in(home / name / "checkpoints")
        state = checkpoint.read_state(places[-1])
        exact = name != "half"
        for value, tolerance in (("loss", 2e-5), ("loss_short", 2e-5), ("loss_long", 2e-5), ("gradient_norm", 1e-4)):
            wanted = [getattr(report, value) for report in one.history]
            found = [getattr(report, value) for report in state.history]
            assert found == pytest.approx(wanted, rel=tolerance if exact else 0.02), (name, value)
        assert state.n_tokens_by_bin == dict(one.n_tokens_by_bin)
        assert_close(checkpoint.weight_files(places[-1]), one.weights, exact=exact)
        if exact:
            assert_close(checkpoint.moment_files(places[-1]), checkpoint.moment_files(one.checkpoint))
        # Two processes go on from their second step, bit for bit.
        again = checkpoint.read_state(checkpoint.all_in(home / f"{name} again" / "checkpoints")[-1])
        assert [r.loss for r in again.history] == [r.loss for r in state.history]
        # A checkpoint of two processes is one like any other: one process goes on from its second step.
        halfway = home / f"{name} halfway" / "checkpoints"
        halfway.mkdir(parents=True)
        places[0].rename(halfway / places[0].name)
        resumed = by_one_process(home, name, into=f"{name} halfway")
        wanted = [report.loss for report in one.history]
        assert [r.loss for r in resumed.history] == pytest.approx(wanted, rel=2e-5 if exact else 0.02)


def assert_close(ours, theirs, exact=True):
    a, b = dict(checkpoint.tensors_in(ours)), dict(checkpoint.tensors_in(theirs))
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype == torch.float32
        room = (2e-4 if exact else 0.02) * float(b[name].abs().max())
        assert torch.allclose(a[name], b[name], rtol=1e-3, atol=room), name


def test_the_committed_configurations_leave_types_and_recomputation_to_the_preset():
    for path in CONFIGURATIONS.glob("*.yaml"):
        found = yaml.safe_load(path.read_text())
        assert found["mixed_precision"] == "no", path.name
        assert not found.get("fsdp_config", {}).get("fsdp_activation_checkpointing", False)
        assert path.name in path.read_text().splitlines()[0]  # how to start it
