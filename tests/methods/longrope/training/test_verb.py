"""`run_bench.py train`, from a file to a checkpoint that a run evaluates, on the embedded model."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import run_bench
from tests.methods.longrope.training.test_config import ROWS, SMALL, with_bin, write_training
from tests.presets import write_preset

ROOT = Path(run_bench.__file__).parent


def trained(tmp_path, *, out="out", config=None) -> tuple[int, Path]:
    folder = tmp_path / out
    code = run_bench.main(["train", config or write_training(tmp_path), "--out", str(folder), "--device", "cpu"])
    return code, folder


def record(folder: Path) -> dict:
    return json.loads((folder / "training.json").read_text())["record"]


def numbers(folder: Path) -> dict:
    """The record without what depends on the time and the machine."""
    found = record(folder)
    del found["environment"]
    for table in (found["result"], *found["history"]):
        for name in ("seconds", "tokens_per_s", "peak_memory_bytes", "remaining_s"):
            table.pop(name, None)
    return found


def tree(folder: Path) -> dict:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("finished")
    code, folder = trained(tmp_path)
    assert code == 0
    return folder


def test_the_record_says_what_was_trained_on_what_and_how_it_went(finished):
    found = record(finished)
    assert found["result"]["n_tokens_by_bin"] == {"short": 2048, "long": 4096}
    assert found["result"]["n_tokens_by_regime"] == {"original": 2048, "rescaled": 4096}
    assert [row["step"] for row in found["history"]] == [1, 2, 3]
    assert [(row["name"], row["n_tokens_asked"], row["n_tokens_planned"]) for row in found["mix"]] == [
        ("short", 2048, 2048),
        ("long", 4096, 4096),
    ]
    assert {"device", "packages", "git_revision"} <= found["environment"].keys()


def test_held_out_losses_are_measured_before_and_after_under_each_rope(finished):
    before, after = record(finished)["before"], record(finished)["after"]
    rows = [("short", "original"), ("short", "rescaled"), ("long", "rescaled")]
    assert [(row["bin"], row["regime"]) for row in before] == rows
    assert [(row["bin"], row["regime"]) for row in after] == rows
    assert all(new["loss"] < old["loss"] for old, new in zip(before, after, strict=True))


def test_the_card_shows_those_losses(finished):
    card = (finished / "checkpoint" / "README.md").read_text()
    for row in record(finished)["after"]:
        assert f"{row['loss']:.6g}" in card


def test_a_run_evaluates_the_checkpoint_beside_its_base(finished, tmp_path, capsys):
    checkpoint = {"name": "checkpoint", "label": "trained", "path": str(finished / "checkpoint")}
    suite = [{"name": "perplexity", "tasks": ["docs_whole"], "n_samples": 2}]
    preset = write_preset(
        tmp_path, seq_lens=[256], target_length=1024, method=[{"name": "vanilla"}, checkpoint], suite=suite
    )
    assert run_bench.main(["run", preset, "--out", str(tmp_path / "run"), "--device", "cpu"]) == 0
    scores = json.loads((tmp_path / "run" / "summary.json").read_text())["scores"]
    base, ours = (row["score"] for row in scores)
    assert base != ours


@pytest.mark.processes
def test_two_processes_make_the_checkpoint_of_one_and_one_of_them_speaks(finished, tmp_path):
    from methods.longrope.training.processes import CONFIGURATIONS

    launch = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGURATIONS / "data_parallel.yaml")]
    train = ["run_bench.py", "train", write_training(tmp_path), "--out", str(tmp_path / "out"), "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, *launch, "--num_processes", "2", "--main_process_port", "0", *train],
        cwd=ROOT, capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[1:] == [str(tmp_path / "out" / name) for name in ("training.json", "checkpoint")]
    ours, theirs = record(tmp_path / "out")["after"], record(finished)["after"]
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], rel=1e-4)


def test_a_finished_training_does_nothing_and_says_so(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("harness.models.loading.load", lambda *args, **settings: pytest.fail("the model was loaded"))
    before = tree(finished)
    code, _ = trained(tmp_path, out=str(finished))
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert lines[0] == "nothing to do: the training is finished"
    assert lines[1].startswith("held-out loss: short (original) ")
    assert "6,144 tokens in 3 steps" in lines[1]
    assert lines[2:] == [str(finished / "training.json"), str(finished / "checkpoint")]
    assert tree(finished) == before


def test_a_checkpoint_that_is_gone_is_exported_again_without_a_step(finished, tmp_path, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "checkpoint")
    monkeypatch.setattr("methods.longrope.training.loop.Training.step", lambda *args: pytest.fail("a step was taken"))
    assert trained(tmp_path, out="copy")[0] == 0
    weights = Path("checkpoint") / "model.safetensors"
    assert (folder / weights).read_bytes() == (finished / weights).read_bytes()


def test_a_training_killed_between_checkpoints_ends_at_the_same_numbers(finished, tmp_path):
    config = write_training(tmp_path, training={"save_every": 1})
    command = [sys.executable, "run_bench.py", "train", config, "--out", str(tmp_path / "out"), "--device", "cpu"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ})
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and process.poll() is None:
        if (tmp_path / "out" / "checkpoints" / "step-000001" / "state.json").exists():
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    assert not (tmp_path / "out" / "checkpoint").exists()
    assert trained(tmp_path, config=config)[0] == 0
    ours, theirs = numbers(tmp_path / "out"), numbers(finished)
    del ours["facts"], theirs["facts"]  # save_every
    assert ours == theirs


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 4}, "seed"),
        ({"training": {"learning_rate": 2e-4}}, "training.learning_rate"),
        ({"method": {"name": "ntk"}}, "method"),
        ({"data": with_bin(1, share=1)}, "data.bins"),
    ],
)
def test_a_folder_of_another_training_is_refused_and_nothing_is_lost(changes, said, finished, tmp_path, capsys):
    before = tree(finished)
    code, _ = trained(tmp_path, out=str(finished), config=write_training(tmp_path, **changes))
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"record of another training ('Small'; other: {said}" in line
    assert tree(finished) == before


def test_a_folder_of_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    assert trained(tmp_path)[0] == 2
    assert "is not empty and holds no training" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_a_record_that_was_changed_is_refused(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "out")
    path = tmp_path / "out" / "training.json"
    path.write_text(path.read_text().replace('"steps": 3', '"steps": 4'))
    assert trained(tmp_path)[0] == 2
    assert "was changed after it was written" in capsys.readouterr().err


def test_what_was_wrong_before_the_first_step_may_be_put_right_in_the_same_folder(tmp_path, capsys):
    wrong = write_training(tmp_path, held_out_segments=90)
    assert trained(tmp_path, config=wrong)[0] == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("run_bench.py")]
    assert "held_out_segments = 90: no documents are left" in line
    short = write_training(tmp_path, training={"steps": 1}, held_out_segments=0)
    assert trained(tmp_path, config=short)[0] == 0
    assert "not measured" in capsys.readouterr().out


def refused(tmp_path, capsys, **changes) -> str:
    code, _ = trained(tmp_path, config=write_training(tmp_path, **changes))
    assert code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = [line for line in captured.err.splitlines() if line.startswith("run_bench.py")]
    return line


@pytest.fixture
def no_model(monkeypatch):
    monkeypatch.setattr("harness.models.loading.load", lambda *args, **settings: pytest.fail("the model was loaded"))


def test_a_corpus_without_a_document_long_enough_is_said_before_the_model_loads(tmp_path, capsys, no_model):
    sources = [{**ROWS, "label": "short-rows", "max_length": 200}, {**ROWS, "label": "long-rows"}]
    line = refused(tmp_path, capsys, data={"source": sources})
    assert "bin 'long': no document has 513 or more tokens" in line


def test_shards_of_another_tokenizer(tmp_path, capsys, no_model):
    from methods.longrope.training.shards import write_shards
    from tests.methods.longrope.training.corpora import Numbered, tokenizer

    write_shards(Numbered((600, 700)), tokenizer(2000), tmp_path / "others")
    source = [SMALL["data"]["source"][0], {"name": "shards", "path": "./others", "label": "long-rows"}]
    line = refused(tmp_path, capsys, data={"source": source})
    assert "holds shards of another tokenizer" in line


def test_a_batch_larger_than_memory_names_the_setting(tmp_path, capsys, monkeypatch):
    from methods.longrope.training.step import SegmentLoss

    whole = SegmentLoss.forward

    def too_large(self, **given):
        if self.hf.training:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99999999 bytes")
        return whole(self, **given)

    monkeypatch.setattr(SegmentLoss, "forward", too_large)
    line = refused(tmp_path, capsys)
    assert "larger than the memory of cpu" in line
    assert "activation_checkpointing = true" in line


def test_a_loss_that_is_no_number_stops_keeps_the_last_checkpoint_and_names_the_batch(tmp_path, capsys, monkeypatch):
    from methods.longrope.training.step import SegmentLoss

    whole, passes = SegmentLoss.forward, []

    def poisoned(self, **given):
        loss = whole(self, **given)
        passes.append(self.hf.training)
        return loss * float("nan") if sum(passes) > 2 else loss  # a batch is two segments

    monkeypatch.setattr(SegmentLoss, "forward", poisoned)
    line = refused(tmp_path, capsys, training={"save_every": 1})
    assert "step 2: the loss is nan" in line
    assert "segments 2 to 3" in line
    place = tmp_path / "out" / "checkpoints" / "step-000001"
    assert str(place) in line
    assert (place / "state.json").exists()


def test_a_disk_that_is_full_while_saving(tmp_path, capsys, monkeypatch):
    def full(*args, **settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("methods.longrope.training.checkpoint.save_file", full)
    line = refused(tmp_path, capsys)
    assert "the disk is full" in line
    assert not list((tmp_path / "out" / "checkpoints").glob("step-*"))


def test_a_device_that_is_not_there(tmp_path, capsys):
    code = run_bench.main(["train", write_training(tmp_path), "--out", str(tmp_path / "out"), "--device", "cuda:99"])
    assert code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
