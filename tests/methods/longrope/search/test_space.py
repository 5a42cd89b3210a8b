"""The problem: its facts, its closed forms, and what is refused."""

import numpy as np
import pytest

from harness.errors import RequestError
from methods.base import RopeSpec
from methods.longrope.search.candidate import Candidate
from methods.rope import attention_factor, lowest_critical_pair
from tests.methods.longrope.search.synthetic import problem
from tests.methods.ropes import LLAMA3, TINY, make, make_rope


@pytest.mark.parametrize(
    ("rope", "target", "ratio", "candidates"),
    [
        (LLAMA3, 131072, 16, range(24, 36)),
        (make_rope(96, 1e4, 2048), 131072, 64, range(19, 32)),
        (make_rope(128, 1e4, 4096), 32768, 8, range(30, 47)),
        (TINY, 4096, 8, range(8, 17)),
    ],
)
def test_facts_of_models_in_the_paper(rope, target, ratio, candidates):
    found = problem(rope, target)
    assert found.ratio == ratio
    assert found.critical_pairs == candidates
    assert found.theoretical_critical_pair == candidates[-1]


def test_critical_pairs_stay_inside_the_model():
    assert problem(make_rope(64, 1e4, 10**6), 2 * 10**6).critical_pairs == range(31, 32)
    short = make_rope(64, 1e4, 4)
    assert lowest_critical_pair(short) < 0
    assert problem(short, 64).critical_pairs == range(1, 2)


@pytest.mark.parametrize("rope", [TINY, LLAMA3, make_rope(48, 1e5, 3000)])
@pytest.mark.parametrize(
    ("form", "method", "settings"),
    [
        ("yarn", "yarn", {}),
        ("pi", "position_interpolation", {}),
        ("ntk", "ntk", {}),
        ("vanilla", "vanilla", {}),
        ("closed_form", "longrope2_closed_form", {"critical_pair": 9, "top_factor": 1.5, "start_pair": 4}),
    ],
)
def test_closed_forms_are_the_methods_of_the_catalogue(rope, form, method, settings):
    target = 5 * rope.original_max_position_embeddings
    scaling = getattr(problem(rope, target), form)(**settings).scaling(rope)
    oracle = make(method, **settings, **({} if form == "vanilla" else {"target_length": target}))
    expected = oracle.rope_scaling(rope, seq_len=target)
    np.testing.assert_allclose(scaling.inv_freq_P, expected.inv_freq_P, rtol=1e-11)
    assert scaling.attention_factor == pytest.approx(expected.attention_factor, rel=1e-15)


def test_closed_forms_are_in_order_to_the_last_bit():
    for target in range(600, 9000, 700):
        found = problem(target_length=target)
        for form in (found.yarn(), found.pi(), found.ntk(), found.closed_form(critical_pair=11, top_factor=1.3)):
            assert np.all(np.diff(form.rescale_factors) >= 0)
            assert form.is_sound


@pytest.mark.parametrize("policy", ["none", "su", "yarn", 1.07])
def test_every_closed_form_takes_an_attention_policy(policy):
    found = problem()
    expected = attention_factor(policy, ratio=8, window=512)
    forms = [found.yarn(attention=policy), found.pi(attention=policy), found.ntk(attention=policy)]
    forms.append(found.closed_form(critical_pair=12, top_factor=1.0, attention=policy))
    assert [form.attention_factor for form in forms] == [expected] * 4


def test_the_models_own_attention_factor_stays_out_of_candidates():
    rope = make_rope(64, 1e4, 512, attention_factor=1.2)
    assert problem(rope).yarn().attention_factor == problem(TINY).yarn().attention_factor
    assert problem(rope).yarn().scaling(rope).attention_factor == pytest.approx(1.2 * (0.1 * np.log(8) + 1))


def test_pairs_that_never_turn_do_not_break_the_order():
    inv_freq_P = TINY.inv_freq_P.copy()
    inv_freq_P[28:] = 0
    rope = RopeSpec(inv_freq_P=inv_freq_P, rope_theta=1e4, rotary_dim=64, original_max_position_embeddings=512)
    assert problem(rope).pi().rescale_factors == (8.0,) * 32


def test_a_draw_has_the_target_length():
    found = problem(n_documents=5)
    draw = found.draw("held_out", block=3)
    assert (draw.split, draw.block, draw.seq_len, draw.n_documents) == ("held_out", 3, 4096, 5)
    assert found.draw(n_documents=9).n_documents == 9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_length": 512}, "target_length = 512: it should be above the model's window of 512 tokens"),
        ({"target_length": 0, "readjusts": Candidate(rescale_factors=(2.0,) * 32)}, "target_length = 0: it should be"),
        ({"budget": 0.0}, "budget = 0: it should be a positive number of forward-equivalents"),
        ({"budget": float("nan")}, "budget = nan: it should be a positive number"),
        ({"n_documents": 0}, "n_documents = 0: it should be at least 1"),
        ({"seed": -1}, "seed = -1: it should be at least 0"),
        ({"rope": make_rope(2, 1e4, 512)}, "the model turns 1 rotary pairs: a search needs at least 2"),
        ({"readjusts": Candidate(rescale_factors=(2.0, 3.0))}, "there are 2 factors to readjust, the model has 32"),
    ],
)
def test_refuses_in_one_line(settings, message):
    with pytest.raises(RequestError, match=message) as refusal:
        problem(**settings)
    assert "\n" not in str(refusal.value)
