"""What `run_bench.py factors` prints."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from harness.errors import RequestError
from methods.longrope.factors_file import read_factors
from methods.table import render_table, rope_table
from tests.methods.ropes import LLAMA3, NAMES, TINY, make


def printed(table) -> str:
    out = io.StringIO()
    render_table(table, Console(file=out, width=120))
    return out.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_every_method_has_a_table_that_json_can_hold(name):
    table = rope_table(make(name), LLAMA3, seq_len=131072)
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert table["method"] == name
    for key in ("inv_freq", "original_wavelength", "wavelength", "rescale_factors"):
        assert len(table[key]) == 64
    assert len(printed(table).splitlines()) >= 64


def test_the_numbers_of_longrope2_for_llama3():
    table = rope_table(make("longrope2"), LLAMA3, seq_len=131072)
    assert table["seq_len"] == 131072
    assert table["extension_ratio"] == 16
    assert table["attention_factor"] == pytest.approx(1.143544, abs=5e-7)
    assert table["theoretical_critical_pair"] == 35
    assert table["original_max_position_embeddings"] == 8192
    assert (table["rope_theta"], table["rotary_dim"]) == (5e5, 128)
    np.testing.assert_allclose(table["rescale_factors"], read_factors("llama3-8b-128k").rescale_factors, rtol=1e-14)
    np.testing.assert_allclose(np.multiply(table["inv_freq"], table["wavelength"]), 2 * np.pi, rtol=1e-14)


def test_a_switched_off_pair_is_null_in_json_and_infinite_to_the_eye():
    table = rope_table(make("cope"), TINY, seq_len=1024)
    assert table["inv_freq"][-1] == 0
    assert table["wavelength"][-1] is None
    assert table["rescale_factors"][-1] is None
    assert table["original_wavelength"][-1] == pytest.approx(47117.2, abs=0.1)
    text = printed(table)
    assert "∞" in text
    assert "16 *" in text  # the theoretical critical pair
    assert "cope at 1024 tokens" in text


def test_refuses_a_length_that_is_none():
    with pytest.raises(RequestError, match="seq_len = -5: it should be a positive number of tokens"):
        rope_table(make("yarn"), LLAMA3, seq_len=-5)


def test_start_tokens_are_told_and_kept_by_a_method_on_top(tmp_path):
    file = tmp_path / "factors.json"
    file.write_text(json.dumps({"rescale_factors": [2.0] * 32, "attention_factor": 1.1, "start_tokens": 8}))
    for method in (
        make("longrope2", factors=str(file)),
        make("resonance", on="longrope2", on_params={"factors": str(file)}),
    ):
        table = rope_table(method, TINY, seq_len=1024)
        assert table["start_tokens"] == 8
        assert "the first 8 positions turn as before" in " ".join(printed(table).split())
    assert rope_table(make("yarn"), TINY, seq_len=1024)["start_tokens"] == 0
