"""What every method of the catalogue promises, whatever it is."""

import copy
import itertools
import pickle
import subprocess
import sys

import numpy as np
import pytest

from methods import CATALOGUE
from tests.methods.ropes import LLAMA3, NAMES, made_with_target, make, make_rope

WINDOW = LLAMA3.original_max_position_embeddings
LENGTHS = (1, 2, WINDOW // 2, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, 5 * WINDOW + 3, 16 * WINDOW)
TARGET = 16 * WINDOW

# promise -> method -> why it does not hold.
EXCEPTIONS = {
    "unchanged at ratio 1": {
        "abf": "another rope_theta holds at every length",
        "cope": "the taper depends on the window, not on a ratio, and holds at every length",
        "resonance": "on top of YaRN it rounds wavelengths at every length",
        "longrope": "its short factors and its attention factor hold inside the window",
    },
    "any model": {
        "longrope": "a factors file fits one model",
        "longrope2": "a factors file fits one model",
        "checkpoint": "it fits the model that it was trained from",
    },
}


def names(promise: str) -> list:
    excepted = EXCEPTIONS[promise]
    return [pytest.param(name, marks=pytest.mark.skip(excepted[name])) if name in excepted else name for name in NAMES]


def same(a, b) -> bool:
    return a.attention_factor == b.attention_factor and np.array_equal(a.inv_freq_P, b.inv_freq_P)


def is_sound(scaling, rope) -> bool:
    inv_freq_P = scaling.inv_freq_P
    return (
        inv_freq_P.shape == rope.inv_freq_P.shape
        and inv_freq_P.dtype == np.float64
        and bool(np.all(np.isfinite(inv_freq_P)) and np.all(inv_freq_P >= 0))
        and type(scaling.attention_factor) is float
        and 0 < scaling.attention_factor < 10
    )


def test_exceptions_name_methods_that_exist():
    assert all(excepted.keys() <= CATALOGUE.keys() for excepted in EXCEPTIONS.values())


@pytest.mark.parametrize("name", NAMES)
def test_gives_one_sound_frequency_a_pair_at_every_length(name):
    for method in (make(name), made_with_target(name, TARGET)):
        for seq_len in LENGTHS:
            assert is_sound(method.rope_scaling(LLAMA3, seq_len=seq_len), LLAMA3), seq_len


@pytest.mark.parametrize("name", names("any model"))
def test_fits_models_of_many_shapes(name):
    rng = np.random.default_rng(0)
    for _ in range(100):
        rope = make_rope(
            rotary_dim=2 * int(rng.integers(8, 129)),
            rope_theta=float(10 ** rng.uniform(3, 8)),
            window=int(2 ** rng.uniform(8, 18)),
            attention_factor=float(rng.choice([1.0, 1.19])),
        )
        seq_len = int(rope.original_max_position_embeddings * rng.uniform(0.5, 40))
        scaling = make(name).rope_scaling(rope, seq_len=seq_len)
        assert is_sound(scaling, rope), rope
        assert np.all(np.diff(scaling.inv_freq_P) <= 0), f"frequencies out of order for {rope}"


@pytest.mark.parametrize("name", NAMES)
def test_leaves_the_models_own_rope_alone(name):
    before_P = LLAMA3.inv_freq_P.copy()
    scaling = made_with_target(name, TARGET).rope_scaling(LLAMA3, seq_len=TARGET)
    scaling.inv_freq_P[:] = -1
    assert np.array_equal(LLAMA3.inv_freq_P, before_P)


@pytest.mark.parametrize("name", NAMES)
def test_depends_on_nothing_but_the_length(name):
    method = made_with_target(name, TARGET)
    first = {seq_len: method.rope_scaling(LLAMA3, seq_len=seq_len) for seq_len in LENGTHS}
    again = {seq_len: method.rope_scaling(LLAMA3, seq_len=seq_len) for seq_len in reversed(LENGTHS)}
    fresh = {seq_len: made_with_target(name, TARGET).rope_scaling(LLAMA3, seq_len=seq_len) for seq_len in LENGTHS}
    for seq_len in LENGTHS:
        assert same(first[seq_len], again[seq_len])
        assert same(first[seq_len], fresh[seq_len])


@pytest.mark.parametrize("name", NAMES)
def test_is_a_frozen_value(name):
    method = made_with_target(name, TARGET)
    assert method == made_with_target(name, TARGET)
    assert hash(method) == hash(made_with_target(name, TARGET))
    with pytest.raises(AttributeError):
        method.factor = 2.0
    for twin in (copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        assert twin == method
        assert twin.original_inside_window == method.original_inside_window
        assert same(twin.rope_scaling(LLAMA3, seq_len=TARGET), method.rope_scaling(LLAMA3, seq_len=TARGET))


@pytest.mark.parametrize("name", NAMES)
def test_names_its_source(name):
    assert make(name).source.startswith("arXiv:")
    assert make(name).version >= 1


@pytest.mark.parametrize("name", NAMES)
def test_says_the_truth_about_the_window(name):
    """Whatever the target: original at every length inside the window, exactly where the method says so."""
    method = made_with_target(name, TARGET)
    inside = [n for n in LENGTHS if n <= WINDOW]
    originals = [method.rope_scaling(LLAMA3, seq_len=n).is_original(LLAMA3) for n in inside]
    assert originals == [method.original_inside_window] * len(inside)


@pytest.mark.parametrize("name", names("unchanged at ratio 1"))
def test_changes_no_bit_at_ratio_1(name):
    rope = make_rope(128, 5e5, WINDOW, attention_factor=1.19)
    ratio_1 = [(make(name), WINDOW), (made_with_target(name, WINDOW), WINDOW), (made_with_target(name, 5), 5)]
    if make(name).uses_target and name != "longrope2":  # its factors stand in a file, whatever the ratio
        ratio_1 += [(make(name, factor=1.0), 4 * WINDOW), (made_with_target(name, WINDOW), 4 * WINDOW)]
    for method, seq_len in ratio_1:
        scaling = method.rope_scaling(rope, seq_len=seq_len)
        assert scaling.is_original(rope)
        assert scaling.attention_factor == 1.19
        assert np.all(scaling.rescale_factors_P(rope) == 1)


@pytest.mark.parametrize("name", [name for name in NAMES if make(name).uses_target])
def test_stretches_more_for_a_larger_ratio(name):
    ratios = (1.0, 1.25, 2.0, 4.0, 10.0, 32.0)
    scalings = [make(name, factor=ratio).rope_scaling(LLAMA3, seq_len=TARGET) for ratio in ratios]
    for shorter, longer in itertools.pairwise(scalings):
        assert np.all(longer.rescale_factors_P(LLAMA3) >= shorter.rescale_factors_P(LLAMA3))
        assert longer.attention_factor >= shorter.attention_factor


@pytest.mark.parametrize("name", NAMES)
def test_never_speeds_a_pair_up(name):
    """Beyond the window no pair turns faster than it was trained to, wavelengths rounded to whole tokens aside."""
    factors_P = made_with_target(name, TARGET).rope_scaling(LLAMA3, seq_len=TARGET).rescale_factors_P(LLAMA3)
    assert np.all(factors_P >= (0.95 if name == "resonance" else 1))
    assert factors_P[-1] > 10 or name == "vanilla"


@pytest.mark.parametrize("name", NAMES)
def test_multiplies_the_models_own_attention_factor(name):
    shipped = make_rope(128, 5e5, WINDOW, attention_factor=1.25)
    for seq_len in LENGTHS:
        plain = made_with_target(name, TARGET).rope_scaling(LLAMA3, seq_len=seq_len)
        ours = made_with_target(name, TARGET).rope_scaling(shipped, seq_len=seq_len)
        assert ours.attention_factor == 1.25 * plain.attention_factor
        assert np.array_equal(ours.inv_freq_P, plain.inv_freq_P)


def test_a_pair_that_the_model_never_turns_counts_as_unchanged():
    rope = make_rope(64, 1e4, 512)
    rope.inv_freq_P[-8:] = 0
    factors_P = make("position_interpolation").rope_scaling(rope, seq_len=1024).rescale_factors_P(rope)
    assert factors_P.tolist() == [2.0] * 24 + [1.0] * 8


def test_importing_methods_loads_neither_torch_nor_transformers():
    modules = sorted({target.split(":")[0] for target in CATALOGUE.values()} | {"methods.table", "methods.rope"})
    code = f"import sys, {', '.join(modules)}\nprint([m for m in ('torch', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
