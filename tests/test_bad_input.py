"""What is wrong in a request is said in one line that names it; the exit code is 2; nothing is half-written."""

import json
import struct
from pathlib import Path

import pytest

import run_bench
from tests.commands import refused
from tests.presets import SMALL, write_preset

EMBEDDED = Path(__file__).parents[1] / "harness" / "assets" / "tiny-llama"


def needle(**settings) -> list[dict]:
    return [{"name": "needle", "tasks": ["keys1_noise"], **settings}]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"name": "tiny-lama"}}, ["model 'tiny-lama'", "did you mean 'tiny-llama'?"]),
        ({"method": [{"name": "yran"}]}, ["unknown method 'yran'", "did you mean 'yarn'?"]),
        ({"suite": [{"name": "neddle"}]}, ["unknown suite 'neddle'", "did you mean 'needle'?"]),
        ({"suite": needle(tasks=["keys1_nosie"])}, ["'keys1_nosie'", "did you mean 'keys1_noise'?"]),
        ({"seq_len": [256]}, ["no setting 'seq_len'", "did you mean 'seq_lens'?"]),
        ({"method": [{"name": "yarn", "beta_fats": 32}]}, ["no setting 'beta_fats'", "did you mean 'beta_fast'?"]),
        ({"suite": needle(scorign="generated")}, ["no setting 'scorign'", "did you mean 'scoring'?"]),
        ({"model": {"name": "tiny-llama", "dtyp": "float32"}}, ["no setting 'dtyp'", "did you mean 'dtype'?"]),
        ({"report": {"marign": 0.9}}, ["no setting 'marign'", "did you mean 'margin'?"]),
        ({"report": {"margin": 1.5}}, ["margin = 1.5", "between 0 and 1"]),
        ({"report": {"groups": {"all of it": ["neddle"]}}}, ["unknown suite", "'neddle'", "did you mean 'needle'?"]),
        ({"report": {"groups": {"needle": ["needle"]}}}, ["'needle' is a suite's label", "name of its own"]),
        ({"report": {"groups": {"g": []}}}, ["groups.g = []", "at least one"]),
        ({"report": {"groups": {"g": "needle"}}}, ["groups.g = 'needle'", "a list"]),
        ({"report": {"groups": {"g": ["needle", "needle"]}}}, ["groups.g", "named twice"]),
        ({"report": {"groups": {"needle/all": ["needle"]}}}, ["'needle/all'", "without '/'"]),
        ({"report": {"groups": {"g": ["needle", "perplexity"]}}}, ["'perplexity' has likelihoods", "one of the two"]),
        ({"report": {"base": "yrn"}}, ["'yrn'", "did you mean 'yarn'?"]),
        ({"method": [{"name": "yarn", "factor": 0.5}]}, ["factor = 0.5", "at least 1"]),
        ({"method": [{"name": "yarn", "factor": "8"}]}, ["factor = '8'", "a number"]),
        ({"method": [{"name": "yarn", "factor": 2, "target_length": 9}]}, ["factor and target_length", "keep one"]),
        ({"method": [{"name": "vanilla", "factor": 2.0}]}, ["vanilla", "leave them out"]),
        ({"method": [{"name": "yarn"}, {"name": "yarn"}]}, ["two entries", "'yarn'", "label"]),
        ({"seq_lens": [-1]}, ["-1", "positive"]),
        ({"seq_lens": [256, 256]}, ["named twice"]),
        ({"seq_lens": []}, ["seq_lens = []"]),
        ({"seq_lens": None}, ["'seq_lens' is missing"]),
        ({"n_samples": 0}, ["n_samples = 0", "at least 1"]),
        ({"method": None}, ["has no method", "[[method]]"]),
        ({"suite": needle(depths=[0.5, 1.5])}, ["1.5", "0 to 1"]),
        ({"seq_lens": [20]}, ["'keys1_noise'", "seq_len = 20", "at least"]),
        ({"method": [{"name": "longrope2", "factors": "${NO_SUCH_VARIABLE}/f.json"}]}, ["NO_SUCH_VARIABLE is not set"]),
    ],
    ids=lambda value: "" if isinstance(value, list) else json.dumps(value)[:60],
)
def test_a_wrong_preset(changes, said, tmp_path, capsys):
    line = refused(
        ["run", write_preset(tmp_path, **changes), "--out", str(tmp_path / "out")], capsys, out=tmp_path / "out"
    )
    for words in said:
        assert words in line


def test_a_wrong_command(tmp_path, capsys):
    assert "did you mean 'quickstart'?" in refused(["run", "quikstart"], capsys)
    assert "there is no such file" in refused(["run", "absent/preset.toml"], capsys)
    assert "--only 'nothing'" in refused(["run", "quickstart", "--only", "nothing"], capsys)
    assert "invalid choice" in refused(["rnu", "quickstart"], capsys)
    assert "--seq-len" in refused(["factors", "yarn", "--model", "tiny-llama"], capsys)
    assert "--seq-len = -1" in refused(["factors", "yarn", "--model", "tiny-llama", "--seq-len", "-1"], capsys)
    assert "NAME=VALUE" in refused(
        ["factors", "yarn", "--model", "tiny-llama", "--seq-len", "9", "--set", "factor"], capsys
    )
    assert "holds no run" in refused(["report", str(tmp_path)], capsys)
    (tmp_path / "bad.toml").write_text("title = \n")
    assert "bad.toml" in refused(["run", str(tmp_path / "bad.toml")], capsys)


@pytest.mark.parametrize(
    ("factors", "said"),
    [
        ([2.0] * 31, ["31", "32"]),
        ([2.0] * 31 + [float("nan")], ["nan", "finite"]),
        ([2.0] * 31 + [0.0], ["0", "positive"]),
        ([2.0] * 31 + [-3.0], ["-3", "positive"]),
        ([2.0] * 31 + ["x"], ["'x'"]),
        ("none", ["factors.json"]),
    ],
    ids=["too few", "not finite", "zero", "negative", "no number", "no list"],
)
def test_wrong_rescale_factors(factors, said, tmp_path, capsys):
    (tmp_path / "factors.json").write_text(json.dumps({"rescale_factors": factors}))
    preset = write_preset(tmp_path, method=[{"name": "longrope2", "factors": "factors.json"}])
    line = refused(["run", preset, "--out", str(tmp_path / "out")], capsys, out=tmp_path / "out")
    for words in said:
        assert words in line


def copy_model(folder: Path, weights: bytes | None) -> Path:
    folder.mkdir()
    for path in EMBEDDED.iterdir():
        if path.suffix == ".json":
            (folder / path.name).write_bytes(path.read_bytes())
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
    return folder


def broken_weights() -> dict[str, bytes | None]:
    whole = (EMBEDDED / "model.safetensors").read_bytes()
    return {
        "no weights": None,
        "cut short": whole[:-1000],
        "header cut": whole[:100],
        "empty": b"",
        "header too long": struct.pack("<Q", 1 << 60) + whole[8:],
        "no JSON in the header": whole[:8] + b"x" * 100 + whole[108:],
    }


@pytest.mark.parametrize("case", broken_weights())
def test_a_model_folder_with_broken_weights(case, tmp_path, capsys):
    folder = copy_model(tmp_path / "model", broken_weights()[case])
    preset = write_preset(tmp_path, model={"name": str(folder)})
    line = refused(["run", preset, "--out", str(tmp_path / "out")], capsys, out=tmp_path / "out")
    assert str(folder) in line
    assert "safetensors" in line


def test_pickled_weights_are_never_loaded(tmp_path, capsys):
    folder = copy_model(tmp_path / "model", None)
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    line = refused(["run", write_preset(tmp_path, model={"name": str(folder)}), "--out", str(tmp_path / "out")], capsys)
    assert "pytorch_model.bin" in line
    assert "safetensors" in line


def test_a_folder_of_another_run_is_left_alone(tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "run.json").write_text('{"plan": "another", "title": "Theirs"}')
    assert "holds another run ('Theirs')" in refused(["run", write_preset(tmp_path), "--out", str(out)], capsys)
    assert [path.name for path in out.iterdir()] == ["run.json"]


def test_a_folder_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    line = refused(["run", write_preset(tmp_path), "--out", str(tmp_path / "file" / "out")], capsys)
    assert str(tmp_path / "file") in line


def test_the_small_preset_of_these_tests_is_itself_right(tmp_path, capsys):
    assert run_bench.main(["run", write_preset(tmp_path, **SMALL), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    assert "8 of 8 cells to run" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
