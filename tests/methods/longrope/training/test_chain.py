"""LongRoPE's second extension: train, search on the checkpoint, train on with what was found."""

import json
from pathlib import Path

import pytest

import run_bench
from tests.methods.longrope.search.test_config import write_search
from tests.methods.longrope.training.test_config import SMALL, write_training

# The window that the model was first trained with: its checkpoint names a longer one, and the RoPE found for it.
ROPE = {"rope_theta": 10000.0, "rotary_dim": 64, "original_max_position_embeddings": 512}
FURTHER = 1280
FIRST_RATE, SECOND_RATE = 1e-3, 1e-6


def done(verb: str, config: str, out: Path) -> Path:
    assert run_bench.main([verb, config, "--out", str(out), "--device", "cpu"]) == 0
    return out


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Path:
    """The folders `first`, `search` and `second`, each made on what the one before left."""
    folder = tmp_path_factory.mktemp("chain")
    short_rows, long_rows = SMALL["data"]["source"]
    bins = [{**bin, "share": 1} for bin in SMALL["data"]["bin"]]
    config = write_training(
        folder, "first", held_out_segments=0, data={"total_tokens": 2048, "bin": bins},
        training={"learning_rate": FIRST_RATE},
    )  # fmt: skip
    first = done("train", config, folder / "first")
    model = {"name": str(first / "checkpoint"), "label": "tiny-llama-1024", "rope": ROPE}
    config = write_search(
        folder, "search", target_length=FURTHER, model={**model, "dtype": "float32"},
        objective={"n_documents": 1, "documents": "fresh"}, report={"test_documents": 1, "curve_points": 1},
        search={"budget": 8, "population": 3, "n_parents": 2, "n_mutations": 1, "n_crossovers": 1, "n_final": 1},
    )  # fmt: skip
    factors = done("search", config, folder / "search") / "factors.json"
    config = write_training(
        folder, "second", target_length=FURTHER, held_out_segments=0, model=model,
        method={"name": "longrope2", "factors": str(factors)}, training={"learning_rate": SECOND_RATE},
        data={
            "total_tokens": 2 * FURTHER,
            "bin": bins,
            "source": [short_rows, {**long_rows, "min_length": 1200, "max_length": 1270}],
        },
    )  # fmt: skip
    done("train", config, folder / "second")
    return folder


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def weights(folder: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(folder / "checkpoint" / "model.safetensors")


def test_the_factors_of_the_second_search_are_those_of_the_first_rope(chain):
    found = read(chain / "search" / "factors.json")
    assert {name: found[name] for name in ROPE} == ROPE
    assert found["target_length"] == FURTHER
    # Of the RoPE that was found first, the lowest pair would be stretched by 1.25 only.
    assert found["rescale_factors"][-1] > 0.8 * FURTHER / 512


def test_the_second_training_goes_on_with_the_weights_of_the_first(chain):
    assert read(chain / "second" / "checkpoint" / "longreach.json")["base"]["label"] == "tiny-llama-1024"
    first, second = weights(chain / "first"), weights(chain / "second")
    for name, values in first.items():
        assert (second[name] - values).abs().max() < FIRST_RATE / 20  # AdamW moves a weight by about its rate


def test_its_checkpoint_has_the_found_factors_over_the_first_window(chain):
    factors = read(chain / "search" / "factors.json")["rescale_factors"]
    config = read(chain / "second" / "checkpoint" / "config.json")
    rope = config["rope_parameters"]
    assert rope["long_factor"] == pytest.approx(factors)
    assert set(rope["short_factor"]) == {1.0}
    assert (rope["original_max_position_embeddings"], config["max_position_embeddings"]) == (512, FURTHER)
