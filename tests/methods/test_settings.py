"""Settings that are refused, and methods that live outside of this repository."""

import sys
import textwrap

import pytest

from harness.catalogue import build, names, resolve
from harness.errors import RequestError
from tests.methods.ropes import LLAMA3, TINY, make


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("yarn", {"factor": 0.5}, "factor = 0.5: it should be at least 1"),
        ("yarn", {"factor": float("nan")}, "factor = nan: it should be at least 1"),
        ("yarn", {"factor": float("inf")}, "factor = inf: it should be at least 1"),
        ("yarn", {"factor": "4"}, "factor = '4': it should be a number"),
        ("yarn", {"target_length": -1}, "target_length = -1: it should be a positive number of tokens"),
        ("yarn", {"target_length": 0}, "target_length = 0: it should be a positive number of tokens"),
        ("yarn", {"target_length": 4096.5}, "target_length = 4096.5: it should be a whole number"),
        ("yarn", {"target_length": 4096, "factor": 2.0}, "factor and target_length are both given"),
        ("yarn", {"beta_fst": 32}, "has no setting 'beta_fst': did you mean 'beta_fast'"),
        ("yarn", {"beta_fast": 1.0, "beta_slow": 32.0}, "it should be 0 < beta_slow < beta_fast"),
        ("yarn", {"beta_slow": 0.0}, "it should be 0 < beta_slow < beta_fast"),
        ("yarn", {"beta_fast": float("nan")}, "it should be 0 < beta_slow < beta_fast"),
        ("yarn", {"attention": "sue"}, "attention = 'sue': it should be one of 'none', 'su', 'yarn' or a number"),
        ("yarn", {"attention": 0.0}, "attention = 0: a number should be positive"),
        ("yarn", {"attention": float("nan")}, "attention = nan: a number should be positive"),
        ("yarn", {"mscale": 1.0}, "mscale and mscale_all_dim: give both or neither"),
        ("yarn", {"mscale": -1.0, "mscale_all_dim": 1.0}, "mscale = -1: it should be positive"),
        ("yarn", {"mscale": 1.0, "mscale_all_dim": 1.0, "attention": "su"}, "and mscale are both given: keep one"),
        ("ntk", {"tie": "last"}, "tie = 'last': did you mean 'last_pair'"),
        ("ntk_by_parts", {"beta_fast": 0.5}, "it should be 0 < beta_slow < beta_fast"),
        ("mrrope_pro", {"beta_fast": 0.5}, "it should be 0 < beta_slow < beta_fast"),
        ("llama3", {"high_freq_factor": 1.0}, "it should be 0 < low_freq_factor < high_freq_factor"),
        ("dynamic_ntk", {"dynamic_factor": 0.5}, "dynamic_factor = 0.5: it should be at least 1"),
        ("dynamic_ntk", {"target_length": 4096}, "takes neither factor nor target_length"),
        ("vanilla", {"factor": 2.0}, "takes neither factor nor target_length"),
        ("cope", {"target_length": 4096}, "takes neither factor nor target_length"),
        ("cope", {"clip_pairs": 0}, "clip_pairs = 0: it should be at least 1"),
        ("abf", {"rope_theta": 1.0}, "rope_theta = 1: it should be above 1"),
        ("abf", {"rope_theta": float("nan")}, "rope_theta = nan: it should be above 1"),
        ("longrope2", {"attention": -1.0}, "attention = -1: a number should be positive"),
        ("longrope2", {"attention_inside_window": "orginal"}, "did you mean 'original'"),
        ("longrope2_closed_form", {"top_factor": 0.9}, "top_factor = 0.9: it should be at least 1"),
        ("longrope2_closed_form", {"slope": -0.1}, "slope = -0.1: it should be at least 0"),
        ("longrope2_closed_form", {"start_pair": -1}, "start_pair = -1: it should be at least 0"),
        ("longrope2_closed_form", {"critical_pair": 6, "start_pair": 6}, "critical_pair = 6: it should be above start"),
        ("resonance", {"on": "yarnn"}, "unknown method 'yarnn': did you mean 'yarn'"),
        ("resonance", {"on_params": {"beta": 1}}, "method 'resonance' on 'yarn' has no setting 'beta'"),
        ("resonance", {"on": "vanilla", "factor": 2.0}, "takes neither factor nor target_length"),
        ("resonance", {"on": "collections:OrderedDict"}, "it should be a method that changes frequencies only"),
    ],
)
def test_refuses_a_bad_setting_in_one_line(name, settings, message):
    with pytest.raises(RequestError, match=message) as refusal:
        make(name, **settings)
    assert str(refusal.value).startswith(f"method '{name}'") or name == "resonance"
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("name", "setting"), [("abf", "rope_theta"), ("resonance", "on"), ("longrope2", "factors")])
def test_says_which_setting_is_missing(name, setting):
    with pytest.raises(RequestError, match=f"the setting '{setting}' is missing"):
        build(resolve("method", name), {}, where=f"method '{name}'")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cope", {"clip_pairs": 33}, "clip_pairs = 33: the model has 32 rotary pairs"),
        ("longrope2_closed_form", {"critical_pair": 32}, "critical_pair = 32: it should be at most 31"),
        ("longrope2_closed_form", {"start_pair": 14}, "critical_pair is 14 by default for this model"),
    ],
)
def test_refuses_a_setting_that_does_not_fit_the_model_at_every_length(name, settings, message):
    for seq_len in (1, 4096):
        with pytest.raises(RequestError, match=message):
            make(name, **settings).rope_scaling(TINY, seq_len=seq_len)


def test_an_unknown_method_is_met_with_the_nearest():
    with pytest.raises(RequestError, match="unknown method 'longrop2': did you mean 'longrope2'"):
        resolve("method", "longrop2")


OUTSIDE = """
    from dataclasses import dataclass
    from methods.base import AbstractRopeMethod

    @dataclass(frozen=True, kw_only=True)
    class Halved(AbstractRopeMethod):
        power: float = 1.0

        def rope_scaling(self, rope, *, seq_len):
            return rope.rescaled(2.0**self.power)
"""


@pytest.fixture
def outside_package(tmp_path, monkeypatch):
    """An installed package that brings a method of its own."""
    (tmp_path / "throwaway_methods.py").write_text(textwrap.dedent(OUTSIDE))
    info = tmp_path / "throwaway_methods-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: throwaway-methods\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[longreach.methods]\nhalved = throwaway_methods:Halved\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("throwaway_methods", None)


@pytest.mark.parametrize("name", ["halved", "throwaway_methods:Halved"])
def test_a_method_of_an_outside_package_needs_no_edit_here(outside_package, name):
    scaling = make(name, power=2.0).rope_scaling(LLAMA3, seq_len=1)
    assert scaling.rescale_factors_P(LLAMA3).tolist() == [4.0] * 64
    with pytest.raises(RequestError, match="has no setting 'pwer': did you mean 'power'"):
        make(name, pwer=2.0)
    on_top = make("resonance", on=name, on_params={"power": 2.0})
    assert on_top.rope_scaling(LLAMA3, seq_len=1).inv_freq_P[0] == pytest.approx(2 * 3.141592653589793 / 25)


def test_entry_points_are_listed_beside_our_own(outside_package):
    assert names("method")["halved"] == "throwaway_methods:Halved"
    assert "yarn" in names("method")


@pytest.mark.parametrize("name", ["no_such_module:Class", "methods.yarn:Nothing"])
def test_refuses_a_class_that_cannot_be_imported(name):
    with pytest.raises(RequestError, match=r"it should be an importable 'pkg\.module:Class'"):
        resolve("method", name)
