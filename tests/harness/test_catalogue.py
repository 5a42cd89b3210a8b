"""What a user reads when a name or a setting in a preset is wrong, and what is accepted."""

from dataclasses import dataclass
from typing import Literal

import pytest

from harness.catalogue import build, names, resolve
from harness.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class Settings:
    size: int
    rate: float = 1.0
    mode: Literal["fast", "slow"] = "fast"
    parts: tuple[float, ...] = ()
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size = {self.size}: it should be at least 1")


def message(params: dict) -> str:
    with pytest.raises(RequestError) as caught:
        build(Settings, params, where="thing 'x'")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_values_are_converted_to_the_declared_types():
    built = build(Settings, {"size": 3, "rate": 2, "parts": [1, 0.5], "limit": 4}, where="thing 'x'")
    assert built == Settings(size=3, rate=2.0, parts=(1.0, 0.5), limit=4)
    assert isinstance(built.rate, float)


def test_each_wrong_setting_is_named_with_its_value_and_the_way_out():
    assert message({"size": 3, "rte": 1}) == "thing 'x' has no setting 'rte': did you mean 'rate'?"
    assert message({}) == "thing 'x': the setting 'size' is missing; it should be a whole number"
    assert message({"size": "3"}) == "thing 'x': size = '3': it should be a whole number"
    assert message({"size": True}) == "thing 'x': size = True: it should be a whole number"
    assert message({"size": 0}) == "thing 'x': size = 0: it should be at least 1"
    assert message({"size": 3, "mode": "fats"}) == "thing 'x': mode = 'fats': did you mean 'fast'?"
    assert message({"size": 3, "parts": [1, "a"]}) == "thing 'x': parts = 'a': it should be a number"
    assert message({"size": 3, "limit": 1.5}) == "thing 'x': limit = 1.5: it should be a whole number"


@pytest.mark.parametrize("kind", ["method", "suite"])
def test_every_catalogue_name_resolves_to_a_documented_class(kind):
    for name in names(kind):
        assert (resolve(kind, name).__doc__ or "").strip(), name


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(RequestError, match="unknown method 'yarm': did you mean 'yarn'"):
        resolve("method", "yarm")
    with pytest.raises(RequestError, match="unknown suite 'needel': did you mean 'needle'"):
        resolve("suite", "needel")


@pytest.mark.parametrize("name", ["no_such_package:Thing", "methods.base:NoSuchClass"])
def test_an_outside_class_that_cannot_be_imported_is_named(name):
    with pytest.raises(RequestError, match=f"method '{name}'.*importable 'pkg.module:Class'"):
        resolve("method", name)


OUTSIDE = '''
from dataclasses import dataclass
from typing import ClassVar
from harness.types import Example, Metric, Score
from methods.base import AbstractRopeMethod, RopeScaling

@dataclass(frozen=True, kw_only=True)
class Halved(AbstractRopeMethod):
    """Every frequency halved."""
    uses_target: ClassVar[bool] = False
    def rope_scaling(self, rope, *, seq_len):
        return RopeScaling(inv_freq_P=rope.inv_freq_P / 2, attention_factor=1.0)

@dataclass(frozen=True)
class Echo:
    """Asks nothing much."""
    version: ClassVar[int] = 1
'''


@pytest.fixture
def outside_package(tmp_path, monkeypatch):
    """A package nobody here knows, with an entry point for a method and one for a suite."""
    (tmp_path / "their_pkg.py").write_text(OUTSIDE)
    info = tmp_path / "their_pkg-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-pkg\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[longreach.methods]\nhalved = their_pkg:Halved\n[longreach.suites]\necho = their_pkg:Echo\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_method_of_another_package_works_by_address_and_by_entry_point(outside_package):
    assert resolve("method", "their_pkg:Halved") is resolve("method", "halved")
    assert resolve("suite", "their_pkg:Echo") is resolve("suite", "echo")
    assert build(resolve("method", "halved"), {}, where="method 'halved'").version == 1
