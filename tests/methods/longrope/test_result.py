"""factors.json: what a search writes, `longrope2` applies; what it says of losses is what was measured."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.errors import RequestError
from methods.longrope.factors_file import RescaleFactors, read_factors
from methods.longrope.search.result import factors_table, found_critical_pair, losses, standard_error, write_factors
from tests.methods.longrope.search.outcomes import TARGET, draw, facts, flat_top, judged, outcome
from tests.methods.ropes import LLAMA3, TINY, make, make_rope


@pytest.fixture
def written(tmp_path):
    def write(finished=None, **changes) -> str:
        path = tmp_path / "factors.json"
        write_factors(finished or outcome(), path)
        if changes:
            path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        return str(path)

    return write


def test_the_method_applies_what_the_search_found_to_the_last_bit(written):
    best = outcome().best.candidate
    method = make("longrope2", factors=written())
    scaling = method.rope_scaling(TINY, seq_len=TARGET)
    expected = best.scaling(TINY)
    assert np.array_equal(scaling.inv_freq_P, expected.inv_freq_P)
    assert (scaling.attention_factor, scaling.start_tokens) == (best.attention_factor, 0)
    assert method.rope_scaling(TINY, seq_len=512).is_original(TINY)
    assert method.extension_ratio(TINY, 600) == 8


def test_a_models_own_attention_factor_is_multiplied_not_replaced(written):
    shipped = make_rope(64, 1e4, 512, attention_factor=1.25)
    scaling = make("longrope2", factors=written()).rope_scaling(shipped, seq_len=TARGET)
    assert scaling.attention_factor == outcome().best.candidate.scaling(shipped).attention_factor == 1.25 * 1.31


@pytest.mark.parametrize("name", ["longrope", "longrope2"])
def test_start_tokens_are_applied_beyond_the_window_alone(name, written):
    method = make(name, factors=written(start_tokens=16))
    assert method.rope_scaling(TINY, seq_len=513).start_tokens == 16
    assert method.rope_scaling(TINY, seq_len=512).start_tokens == 0
    assert make(name, factors=written(start_tokens=0)).rope_scaling(TINY, seq_len=513).start_tokens == 0


def test_it_says_what_it_was_made_of(written):
    table = json.loads(Path(written()).read_text())
    assert table["schema_version"] == 1
    assert table["model"]["identity"]["weights"] == "cd" * 32
    assert (table["target_length"], table["rotary_dim"], table["critical_pair"]) == (4096, 64, 14)
    assert table["search"]["algorithm"] == "fast"
    assert table["search"]["settings"] == {"learning_rate": 0.05, "start_pair": None}
    assert (table["search"]["budget"], table["search"]["spent"]) == (160.0, outcome().spent)
    assert table["documents"]["test"] == {"split": "test", "block": 0, "seq_len": 4096, "n_documents": 32}
    assert table["environment"]["packages"] == {"torch": "2.13"}
    assert len(table["curve"]) == len(outcome().curve)
    assert list(table["losses"]) == ["found", "pi", "ntk", "yarn"]


def test_losses_are_those_that_were_measured():
    finished = outcome()
    found = losses(finished)
    assert found["yarn"]["test"] == finished.references["yarn"].test_loss
    assert found["yarn"]["search"] == 0.61
    assert found["found"]["search"] == finished.tried[-2].loss
    test_losses = np.array(finished.best.test_losses)
    assert found["found"]["test_standard_error"] == pytest.approx(test_losses.std(ddof=1) / math.sqrt(32))
    assert standard_error([1.0]) is None
    assert standard_error([1.0, math.nan]) is None


def test_no_number_that_is_none_is_written():
    broken = judged(flat_top(12, 400.0), math.nan, 1)
    table = factors_table(outcome(references={"yarn": broken}))
    assert table["losses"]["yarn"] == {"search": None, "held_out": None, "test": None, "test_standard_error": None}
    json.dumps(table, allow_nan=False)


def test_a_search_for_short_contexts_keeps_the_factors_beyond_the_window(tmp_path):
    """LongRoPE's second list: found ones inside the window, the readjusted file's beyond, one attention factor."""
    long = RescaleFactors(
        name="long", sha256="", rescale_factors=(16.0,) * 32, attention_factor=1.31, start_tokens=8, target_length=8192
    )
    short = judged(replace(flat_top(14, 1.25), start_tokens=4), 0.1, 1)
    write_factors(outcome(best=short), tmp_path / "both.json", readjusts=long)
    method = make("longrope", factors=str(tmp_path / "both.json"))
    inside, beyond = (method.rope_scaling(TINY, seq_len=n) for n in (512, 513))
    np.testing.assert_allclose(inside.rescale_factors_P(TINY), short.candidate.rescale_factors, rtol=1e-12)
    assert beyond.rescale_factors_P(TINY).tolist() == [16.0] * 32
    assert (inside.start_tokens, beyond.start_tokens) == (4, 8)
    assert inside.attention_factor == beyond.attention_factor == 1.31
    assert method.extension_ratio(TINY, 1) == 16
    assert factors_table(outcome())["short_factor"] == [1.0] * 32


def test_a_write_that_fails_leaves_the_file_before(written, tmp_path):
    path = written()
    before = Path(path).read_text()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_factors(outcome(environment={"memory": math.inf}), tmp_path / "factors.json")
    assert Path(path).read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["factors.json"]


def test_factors_of_another_model_are_one_line(written):
    method = make("longrope2", factors=written())
    for rope, message in [
        (LLAMA3, "rotary_dim = 64, the model has 128"),
        (make_rope(64, 1e5, 512), "rope_theta = 10000, the model has 100000"),
    ]:
        with pytest.raises(RequestError, match=message) as refusal:
            method.rope_scaling(rope, seq_len=TARGET)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema_version = 2: it should be 1"),
        ({"schema_version": "new"}, "schema_version = 'new': it should be 1"),
        ({"start_tokens": -1}, "start_tokens = -1: it should be finite and positive"),
        ({"start_tokens": 2.5}, "start_tokens = 2.5: it should be a whole number"),
        ({"start_token": 2}, "did you mean 'start_tokens'"),
        ({"weights_sha256": 3}, "weights_sha256 = 3: it should be a text"),
    ],
)
def test_what_cannot_be_read_is_one_line(written, changes, message):
    with pytest.raises(RequestError, match=message) as refusal:
        read_factors(written(**changes))
    assert "\n" not in str(refusal.value)


def test_a_file_may_be_tied_to_weights(written, tiny_llama):
    from harness.models.request import identity

    weights = identity(tiny_llama.request)["weights"]
    with make("longrope2", factors=written(weights_sha256=weights)).applied(tiny_llama, seq_len=TARGET):
        assert tiny_llama.regime == "rescaled"
    with pytest.raises(RequestError, match=rf"weights_sha256 = {'0' * 64}, the model's are {weights}"):
        make("longrope2", factors=written(weights_sha256="0" * 64)).applied(tiny_llama, seq_len=TARGET)
    # A search's own file is not: factors found on a base model are what its trained successor runs with.
    assert read_factors(written()).weights_sha256 is None


def test_the_critical_pair_is_where_the_factors_reach_the_ratio():
    """LLaMA3-8B's published list is searched from pair 33 and crosses 16 at 30, which the paper reports."""
    published = read_factors("llama3-8b-128k").rescale_factors
    candidate = flat_top(33, 20.0, rope=LLAMA3)
    assert found_critical_pair(type(candidate)(rescale_factors=published), 16.0) == 30
    assert found_critical_pair(flat_top(14, 8.0), 8.0) == 14
    assert found_critical_pair(flat_top(14, 7.0), 8.0) is None


def test_no_note_is_taken_for_a_misspelt_key(written):
    """A note whose name is near a key's would be refused; and none of ours says a thing twice."""
    read_factors(written(outcome(facts=facts(settings={}), held_out=draw("held_out"))))
    assert not re.search(r"NaN|Infinity", Path(written()).read_text())
