"""Numbers that papers, configurations and released code state."""

import json
import math

import numpy as np
import pytest

from methods.longrope.factors_file import packaged_factors, read_factors
from methods.rope import (
    attention_factor,
    lowest_critical_pair,
    ntk_tie,
    pair_at_rotations,
    theoretical_critical_pair,
    wavelengths,
)
from tests.methods.ropes import LLAMA3, TINY, make, make_rope

PHI3 = make_rope(96, 1e4, 2048)
PHI4 = make_rope(96, 1e4, 4096)
PHI35 = PHI4


@pytest.mark.parametrize(
    ("rope", "pair", "theoretical", "lowest"),
    [
        (PHI3, 30.16, 31, 19),
        (LLAMA3, 34.98, 35, 24),
        (PHI4, 33.77, 34, 22),
        (make_rope(128, 1e4, 4096), 45.03, 46, 30),
        (TINY, 15.29, 16, 8),
    ],
)
def test_critical_pairs(rope, pair, theoretical, lowest):
    assert pair_at_rotations(rope) == pytest.approx(pair, abs=0.005)
    assert theoretical_critical_pair(rope) == theoretical
    assert lowest_critical_pair(rope) == lowest


def test_the_critical_pair_is_the_first_without_a_full_turn():
    for rope in (PHI3, LLAMA3, PHI4, TINY):
        wavelength_P = wavelengths(rope.inv_freq_P)
        assert np.flatnonzero(wavelength_P > rope.original_max_position_embeddings)[0] == theoretical_critical_pair(
            rope
        )


def test_wavelengths_of_phi3_that_the_paper_names():
    assert wavelengths(PHI3.inv_freq_P)[[7, 47]].astype(int).tolist() == [24, 51861]


@pytest.mark.parametrize(
    ("rope", "target", "theta", "first", "last"), [(LLAMA3, 131072, 7.98e7, 35, 147), (PHI3, 131072, 7.50e6, 31, 653)]
)
def test_ntk_by_critical_dimension(rope, target, theta, first, last):
    method = make("ntk", tie="critical_dimension", target_length=target)
    factors_P = method.rope_scaling(rope, seq_len=target).rescale_factors_P(rope)
    n_pairs = len(factors_P)
    window = rope.original_max_position_embeddings
    new_theta = rope.rope_theta ** math.log(target / (2 * math.pi), window / (2 * math.pi))
    assert new_theta == pytest.approx(theta, rel=2e-3)
    assert rope.rope_theta * factors_P[1] ** n_pairs == pytest.approx(new_theta, rel=1e-9)
    assert np.flatnonzero(factors_P >= target / window)[0] == first
    assert factors_P[-1] == pytest.approx(last, abs=0.5)


def test_ntk_is_a_change_of_rope_theta():
    factors_P = make("ntk", factor=4.0).rope_scaling(LLAMA3, seq_len=1).rescale_factors_P(LLAMA3)
    changed = make_rope(128, 5e5 * 4 ** (128 / 126), 8192)
    np.testing.assert_allclose(LLAMA3.inv_freq_P / factors_P, changed.inv_freq_P, rtol=1e-12)
    assert factors_P[0] == 1
    assert factors_P[-1] == pytest.approx(4, rel=1e-12)


@pytest.mark.parametrize(
    ("ratio", "window", "expected"), [(64, 2048, 1.243163121016122), (32, 4096, 1.190238), (16, 8192, 1.143544)]
)
def test_attention_factor_of_longrope(ratio, window, expected):
    assert attention_factor("su", ratio=ratio, window=window) == pytest.approx(expected, abs=5e-7)


def test_attention_factor_policies():
    assert attention_factor("yarn", ratio=16, window=8192) == 0.1 * math.log(16) + 1
    assert attention_factor("none", ratio=16, window=8192) == 1
    assert attention_factor(1.3, ratio=16, window=8192) == 1.3
    assert [attention_factor(policy, ratio=1, window=8192) for policy in ("su", "yarn", "none", 1.3)] == [1] * 4


def test_packaged_lists_are_the_published_ones(data_dir):
    pairs = {"llama3-8b-128k": "longrope2_llama3_8b_128k.json", "phi-3.5-mini-128k": "phi35_mini_128k.json"}
    assert packaged_factors() == tuple(sorted(pairs))
    for name, file in pairs.items():
        published = read_factors(str(data_dir / "factors" / file))
        packaged = read_factors(name)
        assert packaged.rescale_factors == published.rescale_factors
        assert packaged.short_factor == published.short_factor
        assert packaged.rope_theta == published.rope_theta
        assert packaged.rotary_dim == published.rotary_dim
        assert packaged.target_length == published.target_length
        assert packaged.original_max_position_embeddings == published.original_max_position_embeddings


def test_ntk_tie_is_the_left_part_of_the_published_list(data_dir):
    table = json.loads((data_dir / "factors" / "longrope2_llama3_8b_128k.json").read_text())
    np.testing.assert_allclose(ntk_tie(21.81, 33, 64)[:34], table["long_factor"][:34], rtol=1e-8)


def test_closed_form_reproduces_the_published_list(data_dir):
    table = json.loads((data_dir / "factors" / "longrope2_llama3_8b_128k.json").read_text())
    method = make("longrope2_closed_form", critical_pair=33, top_factor=1.363125, target_length=131072)
    scaling = method.rope_scaling(LLAMA3, seq_len=131072)
    factors_P = scaling.rescale_factors_P(LLAMA3)
    np.testing.assert_allclose(factors_P[:33], table["long_factor"][:33], rtol=1e-8)
    np.testing.assert_allclose(factors_P[33:], 21.81, rtol=1e-12)
    assert np.flatnonzero(factors_P >= 16)[0] == 30  # the paper's real critical dimension of LLaMA3-8B
    assert scaling.attention_factor == pytest.approx(1.143544, abs=5e-7)
    sloped = make("longrope2_closed_form", critical_pair=33, top_factor=1.363125, slope=0.1, target_length=131072)
    assert sloped.rope_scaling(LLAMA3, seq_len=131072).rescale_factors_P(LLAMA3)[-1] == pytest.approx(21.81 + 3.0)


def test_closed_form_with_a_start_pair_leaves_the_pairs_up_to_it():
    method = make("longrope2_closed_form", start_pair=6, critical_pair=14, top_factor=1.25, target_length=2048)
    factors_P = method.rope_scaling(TINY, seq_len=2048).rescale_factors_P(TINY)
    assert np.all(factors_P[:7] == 1)
    assert factors_P[10] == pytest.approx(5**0.5, rel=1e-12)
    np.testing.assert_allclose(factors_P[14:], 5, rtol=1e-12)


@pytest.mark.parametrize(("rope", "default"), [(LLAMA3, 33), (PHI4, 32), (TINY, 14)])
def test_closed_form_places_its_critical_pair_two_below_the_theory(rope, default):
    length = 4 * rope.original_max_position_embeddings
    ours = make("longrope2_closed_form").rope_scaling(rope, seq_len=length)
    stated = make("longrope2_closed_form", critical_pair=default).rope_scaling(rope, seq_len=length)
    assert np.array_equal(ours.inv_freq_P, stated.inv_freq_P)


def test_longrope2_with_the_published_list():
    method = make("longrope2", factors="llama3-8b-128k")
    window = LLAMA3.original_max_position_embeddings
    assert method.rope_scaling(LLAMA3, seq_len=window).is_original(LLAMA3)
    for seq_len in (window + 1, 131072):  # the factors belong to one target: they do not follow the length
        scaling = method.rope_scaling(LLAMA3, seq_len=seq_len)
        expected = read_factors("llama3-8b-128k").rescale_factors
        np.testing.assert_allclose(scaling.rescale_factors_P(LLAMA3), expected, rtol=1e-14)
        assert scaling.attention_factor == pytest.approx(1.143544, abs=5e-7)
    assert make("longrope2", attention="none").rope_scaling(LLAMA3, seq_len=131072).attention_factor == 1
    assert make("longrope2", target_length=16384) == make("longrope2", target_length=16384)


def test_longrope2_can_keep_its_attention_factor_inside_the_window_as_the_released_code():
    method = make("longrope2", attention_inside_window="extended")
    scaling = method.rope_scaling(LLAMA3, seq_len=8192)
    assert not method.original_inside_window
    assert np.array_equal(scaling.inv_freq_P, LLAMA3.inv_freq_P)
    assert scaling.attention_factor == pytest.approx(1.143544, abs=5e-7)


def test_the_factors_file_names_the_target_and_an_explicit_factor_overrides_it():
    by_file = make("longrope2", target_length=16384).rope_scaling(LLAMA3, seq_len=16384)
    assert by_file.attention_factor == attention_factor("su", ratio=16, window=8192)
    stated = make("longrope2", factor=2.0).rope_scaling(LLAMA3, seq_len=16384)
    assert stated.attention_factor == attention_factor("su", ratio=2, window=8192)


def test_longrope_uses_short_factors_inside_the_window():
    method = make("longrope", factors="phi-3.5-mini-128k")
    listed = read_factors("phi-3.5-mini-128k")
    inside, beyond = (method.rope_scaling(PHI35, seq_len=n) for n in (4096, 4097))
    np.testing.assert_allclose(inside.rescale_factors_P(PHI35), listed.short_factor, rtol=1e-14)
    np.testing.assert_allclose(beyond.rescale_factors_P(PHI35), listed.rescale_factors, rtol=1e-14)
    assert inside.attention_factor == beyond.attention_factor == pytest.approx(1.190238, abs=5e-7)


def test_cope_tapers_the_pairs_whose_wavelength_exceeds_the_window():
    scaling = make("cope").rope_scaling(TINY, seq_len=100)
    kept_P = scaling.inv_freq_P / TINY.inv_freq_P
    assert np.all(kept_P[:17] == 1)  # 16 pairs turn in full, and the taper begins at 1
    np.testing.assert_allclose(kept_P[16:], (1 + np.cos(np.pi * np.arange(16) / 15)) / 2, atol=1e-15)
    assert scaling.inv_freq_P[-1] == 0
    assert scaling.rescale_factors_P(TINY)[-1] == np.inf
    hard = make("cope", clip_pairs=20, hard=True).rope_scaling(LLAMA3, seq_len=100)
    assert np.array_equal(hard.inv_freq_P != 0, np.arange(64) < 44)


def test_mrrope_pro_grows_from_step_to_step():
    factors_P = make("mrrope_pro", factor=16.0).rope_scaling(LLAMA3, seq_len=1).rescale_factors_P(LLAMA3)
    low, high = 18, 35  # rotations of 32 and 1 within the window lie at 18.08 and 34.98
    n = high - low
    steps = [2 * k / ((n + 1) * n) for k in range(1, n + 1)]  # epsilon_j of the paper
    np.testing.assert_allclose(factors_P[low : high + 1], 16 ** np.concatenate(([0], np.cumsum(steps))), rtol=1e-12)
    assert np.all(factors_P[:low] == 1)
    np.testing.assert_allclose(factors_P[high:], 16, rtol=1e-12)


def test_ntk_by_parts_ramps_over_rotations():
    rope = make_rope(128, 1e4, 4096)
    factors_P = make("ntk_by_parts", factor=8.0).rope_scaling(rope, seq_len=1).rescale_factors_P(rope)
    for pair, factor in enumerate(factors_P):
        kept = min(max((4096 / (2 * math.pi * 1e4 ** (pair / 64)) - 1) / 31, 0), 1)
        assert 1 / factor == pytest.approx((1 - kept) / 8 + kept, rel=1e-12)


@pytest.mark.parametrize("on", ["vanilla", "yarn", "position_interpolation"])
def test_resonance_rounds_wavelengths_to_whole_tokens(on):
    settings = {} if on == "vanilla" else {"target_length": 32768}
    plain = make(on, **settings).rope_scaling(LLAMA3, seq_len=32768)
    rounded = make("resonance", on=on, **settings).rope_scaling(LLAMA3, seq_len=32768)
    expected_P = np.round(2 * np.pi / plain.inv_freq_P)
    np.testing.assert_allclose(2 * np.pi / rounded.inv_freq_P, expected_P, rtol=1e-14)
    assert rounded.attention_factor == plain.attention_factor


def test_resonance_takes_after_the_method_below():
    method = make("resonance", on="longrope2", on_params={"factors": "llama3-8b-128k"}, target_length=131072)
    assert method.original_inside_window
    assert method.rope_scaling(LLAMA3, seq_len=8192).is_original(LLAMA3)
    assert method.artifacts() == make("longrope2").artifacts()
    assert not make("resonance", on="vanilla", target_length=131072).uses_target  # a preset's target goes to all
    halved = make("resonance", on="yarn", on_params={"target_length": 16384}, target_length=131072)
    assert halved.extension_ratio(LLAMA3, 131072) == 2
    silent = make("resonance", on="cope", on_params={"clip_pairs": 20}).rope_scaling(LLAMA3, seq_len=9000)
    assert silent.inv_freq_P[-1] == 0
