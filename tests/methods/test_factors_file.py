"""Factors files: what is read, and what is refused with which line."""

import hashlib
import json
from pathlib import Path

import pytest

from harness.errors import RequestError
from methods.longrope.factors_file import read_factors
from tests.methods.ropes import LLAMA3, TINY, make, make_rope

ONES = [1.0] * 32


@pytest.fixture
def write(tmp_path):
    def write(table, name="factors.json") -> str:
        file = tmp_path / name
        file.write_text(table if isinstance(table, str) else json.dumps(table))
        return str(file)

    return write


def longrope_config(**changes):
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "long_factor": [2.0] * 32, "short_factor": ONES}
    config = {
        "head_dim": 64,
        "max_position_embeddings": 2048,
        "original_max_position_embeddings": 512,
        "rope_parameters": rope,
    }
    for key, value in changes.items():
        (rope if key in rope or key not in config else config)[key] = value
    return config


def test_reads_our_own_table(write):
    table = {
        "source": "a search",
        "rescale_factors": [2.0] * 32,
        "short_factor": ONES,
        "attention_factor": 1.1,
        "rotary_dim": 64,
        "head_dim": 128,
        "rope_theta": 1e4,
        "original_max_position_embeddings": 512,
        "target_length": 2048,
        "needle_loss": 0.2,
    }
    path = write(table)
    contents = read_factors(path)
    assert contents.rescale_factors == (2.0,) * 32
    assert contents.short_factor == (1.0,) * 32
    assert (contents.attention_factor, contents.rotary_dim, contents.rope_theta) == (1.1, 64, 1e4)
    assert (contents.original_max_position_embeddings, contents.target_length) == (512, 2048)
    contents.check(TINY)
    scaling = make("longrope2", factors=path).rope_scaling(TINY, seq_len=513)
    assert scaling.attention_factor == 1.1  # stated by the file
    assert scaling.rescale_factors_P(TINY).tolist() == [2.0] * 32
    assert make("longrope2", factors=path, attention="none").rope_scaling(TINY, seq_len=513).attention_factor == 1


@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_reads_a_config_of_transformers(write, key):
    config = longrope_config(attention_factor=1.2)
    config[key] = config.pop("rope_parameters")
    contents = read_factors(write(config, "config.json"))
    contents.check(TINY)
    assert contents.rescale_factors == (2.0,) * 32
    assert (contents.attention_factor, contents.rotary_dim, contents.target_length) == (1.2, 64, 2048)
    assert contents.extension_ratio(TINY) == 4


def test_reads_an_older_config(write):
    config = {
        "hidden_size": 256,
        "num_attention_heads": 2,
        "partial_rotary_factor": 0.5,
        "rope_theta": 1e4,
        "max_position_embeddings": 2048,
        "rope_scaling": {
            "type": "su",
            "long_factor": ONES,
            "short_factor": ONES,
            "short_mscale": 1.24,
            "long_mscale": 1.24,
            "factor": 8.0,
        },
    }
    contents = read_factors(write(config))
    assert (contents.rotary_dim, contents.attention_factor, contents.rope_theta) == (64, 1.24, 1e4)
    assert contents.extension_ratio(TINY) == 8


def test_factors_below_1_are_shipped_by_some_models(write):
    path = write({"rescale_factors": [0.9978, *ONES[1:]]})
    assert make("longrope2", factors=path).rope_scaling(TINY, seq_len=1024).inv_freq_P[0] > 1


def test_the_files_hash_is_part_of_a_results_identity(write):
    path = write({"rescale_factors": ONES})
    expected = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert make("longrope2", factors=path).artifacts() == {"factors": expected}


def test_the_target_of_the_method_counts_where_the_file_names_none(write):
    path = write({"rescale_factors": ONES})
    assert make("longrope2", factors=path, target_length=4096).extension_ratio(TINY, 1024) == 8
    assert make("longrope2", factors=path).extension_ratio(TINY, 1024) == 2


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("{", "it should be a JSON file"),
        ("[1, 2]", "hold no table"),
        ({"source": "x"}, "neither 'rescale_factors' nor 'long_factor'"),
        ({"rescale_factors": 2.0}, "rescale_factors = 2.0: it should be a list of numbers"),
        ({"rescale_factors": [1.0, "2"]}, r"rescale_factors\[1\] = '2': it should be a number"),
        ({"rescale_factors": [1.0, True]}, r"rescale_factors\[1\] = True: it should be a number"),
        ({"rescale_factors": [1.0, None]}, r"rescale_factors\[1\] = None: it should be a number"),
        ({"rescale_factors": [1.0, 0]}, r"rescale_factors\[1\] = 0: it should be finite and positive"),
        ({"rescale_factors": [1.0, -2.5]}, r"rescale_factors\[1\] = -2.5: it should be finite and positive"),
        ({"rescale_factors": [float("nan")]}, r"rescale_factors\[0\] = nan: it should be finite and positive"),
        ({"rescale_factors": [float("inf")]}, r"rescale_factors\[0\] = inf: it should be finite and positive"),
        ({"rescale_factors": [10**400]}, "it should be finite and positive"),
        ({"rescale_factors": ONES, "short_factor": [1.0]}, "short_factor has 1 values, rescale_factors 32"),
        ({"rescale_factors": ONES, "long_factor": ONES}, "'long_factor' says rescale_factors a second time"),
        ({"rescale_factors": ONES, "atention_factor": 1.2}, "did you mean 'attention_factor'"),
        ({"rescale_factors": ONES, "rope_theta": "1e4"}, "rope_theta = '1e4': it should be a number"),
        ({"rescale_factors": ONES, "target_length": 10.5}, "target_length = 10.5: it should be a whole number"),
        (longrope_config(rope_type="yarn"), "rope type is 'yarn': it should be 'longrope'"),
        (longrope_config(long_mscale=1.2, short_mscale=1.0), "short_mscale = 1.0, long_mscale = 1.2"),
        (longrope_config(long_factor=None), "neither 'rescale_factors' nor 'long_factor'"),
        (longrope_config(factor=0.5), "factor = 0.5: it should be at least 1"),
        (longrope_config(head_dim="64"), "head_dim = '64': it should be a number"),
        ({"rope_scaling": None}, "rope type is None"),
        ({"rope_parameters": {"full_attention": {"rope_type": "longrope"}}}, "rope type is None"),
    ],
)
def test_refuses_a_bad_file_in_one_line(write, table, message):
    with pytest.raises(RequestError, match=message) as refusal:
        make("longrope2", factors=write(table))
    assert "factors.json" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_refuses_bytes_that_are_no_text(tmp_path):
    (tmp_path / "factors.json").write_bytes(b"\xff\xfe\x00rescale")
    with pytest.raises(RequestError, match="it should be a JSON file"):
        read_factors(str(tmp_path / "factors.json"))


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ("llama3-8b-128", "unknown factors 'llama3-8b-128': did you mean 'llama3-8b-128k'"),
        ("nowhere/factors.json", "there is no such file; it should be a path or one of llama3-8b-128k"),
        (".", "it should be a readable JSON file"),
    ],
)
def test_refuses_a_file_that_is_not_there(factors, message):
    with pytest.raises(RequestError, match=message):
        make("longrope2", factors=factors)


@pytest.mark.parametrize("method", ["longrope", "longrope2"])
@pytest.mark.parametrize(
    ("rope", "message"),
    [
        (make_rope(64, 5e5, 8192), "rotary_dim = 128, the model has 64"),
        (make_rope(128, 1e4, 8192), "rope_theta = 500000, the model has 10000"),
        (make_rope(128, 5e5, 4096), "original_max_position_embeddings = 8192, the model has 4096"),
    ],
)
def test_refuses_factors_of_another_model_at_every_length(method, rope, message):
    for seq_len in (1, 131072):
        with pytest.raises(RequestError, match=message):
            make(method).rope_scaling(rope, seq_len=seq_len)


def test_refuses_the_wrong_number_of_factors_and_says_both(write):
    method = make("longrope2", factors=write({"rescale_factors": ONES}))
    with pytest.raises(RequestError, match="there are 32, the model has 64 rotary pairs"):
        method.rope_scaling(LLAMA3, seq_len=1)


def test_longrope_needs_short_factors(write):
    with pytest.raises(RequestError, match="hold no 'short_factor': use longrope2"):
        make("longrope", factors=write({"rescale_factors": ONES}))
