"""What a training's TOML file becomes, what makes two trainings the same, and what a wrong one is told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import run_bench
from harness.config import preset_names
from harness.models import request
from methods.longrope.training import config
from methods.longrope.training.config import load_training
from tests.commands import refused
from tests.presets import write_toml

ROOT = Path(run_bench.__file__).parent
ROWS = {"name": "tiny-llama", "max_length": 500, "max_tokens": 4000}
SMALL = {
    "title": "Small",
    "target_length": 1024,
    "seed": 3,
    "held_out_segments": 1,
    "model": {"name": "tiny-llama"},
    "method": {"name": "yarn"},
    "data": {
        "total_tokens": 6144,
        "source": [
            {**ROWS, "label": "short-rows", "max_length": 200, "seed": 5},
            {**ROWS, "label": "long-rows", "min_length": 600, "max_length": 1000, "seed": 6, "max_tokens": 14_000},
        ],
        "bin": [
            {"name": "short", "kind": "short", "share": 1, "max_length": "window", "sources": ["short-rows"]},
            {"name": "long", "kind": "long", "share": 2, "above_length": "window", "sources": ["long-rows"]},
        ],
    },
    "training": {"batch_tokens": 2048, "learning_rate": 1e-4, "warmup_steps": 1, "activation_checkpointing": False},
}


def changed(table: dict, changes: dict) -> dict:
    """A table with others laid over its tables; None removes an entry."""
    found = dict(table)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = changed(found[key], value) if both else value
    return {key: value for key, value in found.items() if value is not None}


def write_training(folder, name="small", **changes) -> str:
    """A file like SMALL; a change of a table is laid over it, None removes an entry."""
    return write_toml(folder / f"{name}.toml", changed(SMALL, changes))


def with_bin(number: int, **changes) -> dict:
    """[data] with one bin changed."""
    bins = [dict(bin) for bin in SMALL["data"]["bin"]]
    bins[number] = changed(bins[number], changes)
    return {"bin": bins}


def test_a_file_becomes_a_plan(tmp_path):
    plan = load_training(write_training(tmp_path))
    assert (plan.facts.title, plan.facts.original_window, plan.facts.target_length) == ("Small", 512, 1024)
    assert plan.method.method.target_length == 1024
    assert plan.settings.batch_tokens == 2048
    assert [bin.name for bin in plan.data.mix.bins] == ["short", "long"]
    assert set(plan.facts.model_identity) == {"weights", "config", "tokenizer", "params"}


def test_the_key_is_that_of_the_numbers_and_not_of_the_names(tmp_path):
    key = load_training(write_training(tmp_path)).facts.key
    free = {"save_every": 2, "keep": 1, "tracker": "tensorboard"}
    same = write_training(tmp_path, "other", title="Renamed", model={"label": "mine"}, training=free)
    assert load_training(same).facts.key == key
    for changes in (
        {"seed": 4},
        {"target_length": 2048},
        {"held_out_segments": 2},
        {"model": {"rope": {"rope_theta": 20000.0}}},
        {"method": {"name": "ntk"}},
        {"method": {"beta_fast": 16}},
        {"data": {"total_tokens": 8192}},
        {"data": {"document_mask": True}},
        {"data": with_bin(1, share=3)},
        {"data": {"source": [{**ROWS, "label": "short-rows"}, {**ROWS, "label": "long-rows"}]}},
        {"training": {"learning_rate": 2e-4}},
        {"training": {"short_rope": "rescaled"}},
    ):
        assert load_training(write_training(tmp_path, **changes)).facts.key != key, changes


def test_factors_are_in_the_key_by_what_they_hold_not_by_where_they_are(tmp_path):
    def key(name: str, top: float) -> str:
        (tmp_path / name).write_text(json.dumps({"rescale_factors": [top] * 32, "attention_factor": 1.1}))
        return load_training(write_training(tmp_path, method={"name": "longrope2", "factors": f"./{name}"})).facts.key

    assert key("a.json", 2.0) == key("b.json", 2.0) != key("c.json", 3.0)


def test_texts_beside_the_file_are_found_and_in_the_key(tmp_path):
    (tmp_path / "books").mkdir()
    book = tmp_path / "books" / "a.txt"
    book.write_text("A sentence. " * 999)
    data = {"source": [{"name": "texts", "path": "./books", "label": "books"}], "bin": None}
    data["bin"] = [{"name": "long", "kind": "long", "share": 1}]
    key = load_training(write_training(tmp_path, data=data)).facts.key
    book.write_text("Another sentence. " * 999)
    assert load_training(write_training(tmp_path, data=data)).facts.key != key


def test_a_baseline_is_like_another_training_but_for_its_method(tmp_path):
    write_training(tmp_path)
    path = write_toml(tmp_path / "ntk.toml", {"like": "small.toml", "method": {"name": "ntk"}})
    baseline, plan = load_training(path).facts, load_training(write_training(tmp_path)).facts
    assert (baseline.method, baseline.preset) == ("ntk", "ntk")
    assert (baseline.data, baseline.training, baseline.seed) == (plan.data, plan.training, plan.seed)


def test_an_entry_of_data_and_training_is_laid_over_that_of_the_other_file(tmp_path):
    write_training(tmp_path)
    path = write_toml(tmp_path / "slow.toml", {"like": "small.toml", "training": {"learning_rate": 1e-5}})
    settings = load_training(path).settings
    assert (settings.learning_rate, settings.batch_tokens) == (1e-5, 2048)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target_length": 512}, ["target_length = 512", "above the model's window of 512 tokens"]),
        ({"target_length": None}, ["'target_length' is missing", "a whole number"]),
        ({"target_lenght": 4096}, ["no setting 'target_lenght'", "did you mean 'target_length'?"]),
        ({"seed": -1}, ["seed = -1", "at least 0"]),
        ({"held_out_segments": -1}, ["held_out_segments = -1", "at least 0"]),
        ({"model": None}, ["has no model", "[model]"]),
        ({"model": {"name": "tiny-lama"}}, ["'tiny-lama'", "did you mean 'tiny-llama'?"]),
        ({"model": {"dtype": "bfloat16"}}, ["dtype", "under [training]"]),
        ({"method": None}, ["has no method", "[method]", "yarn"]),
        ({"method": {"name": "yran"}}, ["unknown method 'yran'", "did you mean 'yarn'?"]),
        ({"method": {"beta_fats": 3}}, ["no setting 'beta_fats'", "did you mean 'beta_fast'?"]),
        ({"method": {"name": "longrope2", "factors": "./short.json"}}, ["short.json", "there are 24", "32"]),
        ({"method": {"name": "longrope2", "factors": "./absent.json"}}, ["absent.json", "no such file"]),
        ({"data": None}, ["no source", "[[data.source]]"]),
        ({"data": {"bin": []}}, ["no bin", "[[data.bin]]"]),
        ({"data": {"source": [{"name": "txts"}]}}, ["unknown data source 'txts'", "did you mean 'texts'?"]),
        ({"data": {"source": [{"name": "texts", "path": "./absent"}]}}, ["absent"]),
        ({"data": {"source": [{"name": "shards", "path": "./absent"}]}}, ["absent", "no token shards"]),
        ({"data": {"source": [{"name": "tiny-llama", "max_length": 500}]}}, ["no end", "max_tokens"]),
        ({"data": {"total_tokens": 0}}, ["total_tokens = 0", "at least 1"]),
        ({"data": {"total_token": 9}}, ["no setting 'total_token'", "did you mean 'total_tokens'?"]),
        ({"data": with_bin(0, kind="shrt")}, ["kind = 'shrt'", "did you mean 'short'?"]),
        ({"data": with_bin(0, max_length=600)}, ["max_length = 600", "window of 512"]),
        ({"data": with_bin(1, segment_length=4096)}, ["segment_length = 4096", "at most the target"]),
        ({"training": None}, ["'batch_tokens' is missing", "a whole number"]),
        ({"training": {"learning_rat": 1e-4}}, ["no setting 'learning_rat'", "did you mean 'learning_rate'?"]),
        ({"training": {"learning_rate": -1e-4}}, ["learning_rate = -0.0001", "positive"]),
        ({"training": {"short_rope": "orignal"}}, ["short_rope = 'orignal'", "did you mean 'original'?"]),
        ({"training": {"steps": 2, "tokens": 9}}, ["tokens and steps", "keep one"]),
        ({"like": "tinny"}, ["unknown train configuration 'tinny'", "did you mean 'tiny"]),
        ({"like": 3}, ["like = 3", "a configuration"]),
        ({"like": "tiny-yarn"}, ["like = 'tiny-yarn'", "like another one itself"]),
    ],
    ids=lambda value: "" if isinstance(value, list) else json.dumps(value)[:60],
)
def test_a_wrong_file_is_one_line_and_nothing_is_made(changes, said, tmp_path, capsys):
    (tmp_path / "short.json").write_text(json.dumps({"rescale_factors": [4.0] * 24}))
    out = tmp_path / "out"
    line = refused(["train", write_training(tmp_path, **changes), "--out", str(out)], capsys, out)
    for words in said:
        assert words in line


@pytest.mark.parametrize(
    ("name", "said"), [("tinny", "did you mean 'tiny"), ("./absent.toml", "there is no such file")]
)
def test_a_configuration_that_is_not_there(name, said, capsys):
    assert run_bench.main(["train", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_wrong_training_is_refused_without_torch(tmp_path):
    path = write_training(tmp_path, training={"clip": -1})
    script = f"import sys, run_bench; run_bench.main(['train', {path!r}]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.fixture
def all_at_hand(monkeypatch, tmp_path):
    """Models, corpora and searched factors count as there."""
    monkeypatch.setattr(request, "check", lambda found: None)
    monkeypatch.setattr(request, "identity", lambda found: {})
    monkeypatch.setattr(config, "_identity", lambda source: source.label)
    monkeypatch.setenv("LONGREACH_CORPORA", str(tmp_path))
    monkeypatch.setenv("LONGREACH_BOOKS", str(tmp_path))
    written = tmp_path / "factors.json"
    written.write_text(json.dumps({"rescale_factors": [4.0] * 32, "attention_factor": 1.1}))
    read = config.read_toml
    monkeypatch.setattr(config, "read_toml", lambda path: _at(written, read(path)))


def _at(written: Path, table: dict) -> dict:
    if str(table.get("method", {}).get("factors", "")).endswith(".json"):
        table["method"]["factors"] = str(written)
    return table


@pytest.mark.parametrize("name", preset_names("train"))
def test_a_packaged_configuration_is_right(name, all_at_hand):
    plan = load_training(name)
    assert plan.facts.title != name
    shapes = plan.facts.data["shapes"].values()
    assert max(shape["segment_length"] for shape in shapes) <= plan.settings.batch_tokens


def test_the_papers_configuration_is_the_papers(all_at_hand):
    plan = load_training("longrope2-paper-llama3-8b")
    assert (plan.facts.original_window, plan.facts.target_length) == (8192, 131072)
    settings = plan.settings
    assert settings.batch_tokens == 64 * 131072
    assert (settings.learning_rate, settings.schedule, settings.short_rope) == (2e-5, "cosine", "original")
    assert (settings.betas, settings.warmup_steps, settings.weight_decay, settings.clip) == ((0.9, 0.95), 40, 0, 1)
    assert [bin["share"] for bin in plan.facts.data["bins"].values()] == [3, 3, 4]


def test_tiny_without_mixing_differs_in_one_setting_and_a_baseline_also_in_its_method(all_at_hand):
    tiny, long_only, yarn = (load_training(name).facts for name in ("tiny", "tiny-long-only", "tiny-yarn"))
    assert {name for name, value in tiny.training.items() if long_only.training[name] != value} == {"short_rope"}
    assert (long_only.method, long_only.method_params) == (tiny.method, tiny.method_params)
    assert (yarn.training, yarn.data) == (long_only.training, tiny.data)


def test_every_training_is_listed_with_its_title(capsys):
    assert run_bench.main(["list", "trainings"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == preset_names("train")
    assert all("  " in line for line in lines)
