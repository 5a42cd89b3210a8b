"""The SmolLM2 study: its presets fit together, and nothing that is measured on was searched or trained on."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from harness import config
from harness.errors import RequestError
from harness.models.rope_facts import rope_spec
from harness.plan import Plan, PlannedSuite
from methods.longrope.search.config import load_search
from methods.longrope.training.config import load_training
from methods.longrope.training.corpus import Corpus
from methods.longrope.training.held_out import HeldOut
from tasks.haystack import evaluation_topics, training_topics
from tasks.ruler.spec import TASKS as RULER
from tests.conftest import ROOT
from tests.presets import everything_at_hand

RUNS = ("study-smollm2-32k", "study-smollm2-64k", "study-smollm2-128k")
SEARCHES = [name for name in config.preset_names("search") if name.startswith("smollm2-")]
TRAININGS = [name for name in config.preset_names("train") if name.startswith("smollm2-")]
BASELINES = [name for name in TRAININGS if name.startswith("smollm2-32k-") and name != "smollm2-32k-longer"]
GUIDE = (config.PRESETS.parents[1] / "docs" / "study" / "smollm2.md").read_text(encoding="utf-8")

# Tokens of the 25 books that the guide names, by SmolLM2's tokenizer.
BOOKS = (
    504961, 513715, 510125, 303795, 430510, 521504, 521101, 588398, 263009, 848684, 488452, 499485, 456927,
    321091, 486646, 483673, 167902, 518518, 355411, 297824, 475813, 169161, 345043, 415695, 443398,
)  # fmt: skip


@pytest.fixture(scope="module")
def presets(tmp_path_factory) -> Iterator[Path]:
    """The presets in a tree of their own, where every search and training is finished.

    There are books under each variable; the model and the data sets count as there.
    """
    root = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("BOOKS", "TEST_BOOKS"):
            (root / variable).mkdir()
            (root / variable / "book.txt").write_text("It was a long book. " * 50)
            patch.setenv(f"LONGREACH_{variable}", str(root / variable))
        patch.setenv("LONGREACH_DATA", os.environ.get("LONGREACH_DATA", str(ROOT.parent / "shared" / "data")))
        everything_at_hand(patch)
        folder = root / "harness" / "presets"
        shutil.copytree(config.PRESETS, folder)
        for name in SEARCHES:
            path = folder / "search" / f"{name}.toml"
            write_factors(root / "searches" / name / "factors.json", target_length(path))
        for name in TRAININGS:
            plan = load_training(str(folder / "train" / f"{name}.toml"))
            write_checkpoint(root / "trainings" / name / "checkpoint", plan)
        yield folder


def target_length(path: Path) -> int:
    return max(
        config.read_toml(path)["target_length"], 32768
    )  # LongRoPE's second list goes with its first one's target


def write_factors(path: Path, target: int) -> None:
    path.parent.mkdir(parents=True)
    factors = [(target / 8192) ** (pair / 31) for pair in range(32)]
    table = {"rescale_factors": factors, "short_factor": [1.0] * 32, "attention_factor": 1.1, "target_length": target}
    path.write_text(json.dumps(table | {"rope_theta": 1e5, "original_max_position_embeddings": 8192}))


def write_checkpoint(folder: Path, plan) -> None:
    """What a run reads of a checkpoint before it loads one."""
    folder.mkdir(parents=True)
    settings = {key: value for key, value in plan.method.params.items() if value is not None}
    if plan.method.name == "longrope2":
        shutil.copy(plan.method.method.factors, folder / "factors.json")
        settings["factors"] = "factors.json"
    spec = rope_spec(plan.model)
    beyond = plan.method.method.rope_scaling(spec, seq_len=plan.facts.target_length)
    rope = {
        "rope_theta": 1e5,
        "rotary_dim": 64,
        "original_max_position_embeddings": 8192,
        "target_length": plan.facts.target_length,
        "inside_window": plan.settings.short_rope,
        "inv_freq": beyond.inv_freq_P.tolist(),
    }
    facts = {"schema_version": 1, "rope": rope, "method": {"name": plan.method.name, "params": settings}}
    (folder / "longreach.json").write_text(json.dumps(facts | {"base": {"label": "smollm2-135m"}}))
    (folder / "model.safetensors").write_bytes(folder.parent.name.encode())


def load_run(presets: Path, name: str) -> Plan:
    return config.load_plan(str(presets / f"{name}.toml"))


def suites(plan: Plan) -> dict[str, PlannedSuite]:
    return {suite.label: suite for suite in plan.suites}


def n_samples(plan: Plan, suite: str) -> set[int]:
    return {planned.cell.n_samples for planned in plan.cells if planned.suite.label == suite}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_holds_what_the_study_asks_for(name, presets):
    plan = load_run(presets, name)
    found, target = suites(plan), int(name.split("-")[-1][:-1]) * 1024
    assert plan.longest == target
    assert set(found["ruler"].tasks) == set(RULER)
    assert n_samples(plan, "ruler") == {50}
    assert {4096, 8192, 32768, target} <= set(found["ruler"].seq_lens)
    lengths, grid = found["needle_grid"].seq_lens, found["needle_grid"]
    assert (len(lengths), grid.suite.depths, n_samples(plan, "needle_grid"), len(grid.tasks)) == (20, 20, {20}, 1)
    assert lengths == tuple(round(target * i / 20) for i in range(1, 21))
    assert {"mmlu_continuation", "hellaswag"} <= set(found["short"].tasks)
    assert found["perplexity"].tasks == ("book_whole",)
    assert (plan.report.base, plan.report.margin) == ("vanilla", 0.97)
    for method in plan.methods:
        if getattr(method.method, "uses_target", False) or method.name == "checkpoint":
            assert method.method.target_length == target, method.label


def test_at_32k_every_method_of_the_catalogue_is_there_and_the_five_trained_ones(presets):
    from methods import CATALOGUE

    plan = load_run(presets, RUNS[0])
    assert {method.name for method in plan.methods} == set(CATALOGUE)
    trained = {method.label: method.method for method in plan.methods if method.name == "checkpoint"}
    inner = {label.removeprefix("trained_"): method.inner for label, method in trained.items()}
    names = {label: type(method).__name__ for label, method in inner.items()}
    assert names.items() >= {
        ("longrope2", "LongRoPE2"),
        ("longrope", "LongRoPE2"),  # its one list
        ("yarn", "YaRN"),
        ("ntk", "NTK"),
        ("pi", "PositionInterpolation"),
    }
    mixed = {label for label, method in trained.items() if method.original_inside_window}
    assert mixed == {"trained_longrope2", "trained_longrope2_ramp", "trained_longrope2_tied"}
    for label in ("longrope2_ramp", "longrope2_tied"):  # before and after training, the same curve
        (plain,) = (method.method for method in plan.methods if method.label == label)
        assert inner[label] == plain


def test_every_file_that_a_preset_reads_is_one_that_another_preset_leaves_there():
    made = {f"searches/{name}/factors.json" for name in SEARCHES}
    made |= {f"trainings/{name}/checkpoint" for name in TRAININGS}
    read = set()
    for path in study_files():
        read |= {text.replace("../", "") for text in re.findall(r'"((?:\.\./)+.*?)"', path.read_text())}
    assert read <= made
    left_over = {"trainings/smollm2-32k-longer/checkpoint"}  # not part of the runs
    assert made - read == left_over | {"searches/smollm2-32k-longrope-short/factors.json"} - read


def study_files() -> Iterator[Path]:
    yield from (config.find_preset(name) for name in RUNS)
    yield from (config.find_preset(name, "search") for name in SEARCHES)
    yield from (config.find_preset(name, "train") for name in TRAININGS)


@pytest.mark.parametrize("name", BASELINES)
def test_everything_trained_for_32k_reads_the_same_tokens(name, presets):
    def facts(one: str):
        return load_training(str(presets / "train" / f"{one}.toml")).facts

    ours, base = facts(name), facts("smollm2-32k")
    assert ours.data == base.data
    assert {**ours.training, "short_rope": ""} == {**base.training, "short_rope": ""}
    assert (ours.seed, ours.held_out_segments) == (base.seed, base.held_out_segments)
    mixed = name in ("smollm2-32k-searched", "smollm2-32k-tied")
    assert ours.training["short_rope"] == ("original" if mixed else "rescaled")


def test_the_longer_targets_read_as_many_tokens_in_as_many_steps(presets):
    plans = [load_training(str(presets / "train" / f"smollm2-{k}k.toml")) for k in (32, 64, 128)]
    assert len({plan.data.mix.total_tokens for plan in plans}) == 1
    assert len({plan.settings.batch_tokens for plan in plans}) == 1
    assert len({plan.settings.learning_rate for plan in plans}) == 1


@pytest.mark.parametrize("name", TRAININGS)
def test_the_books_of_the_guide_fill_every_bin_and_leave_the_held_out_segments(name, presets):
    plan = load_training(str(presets / "train" / f"{name}.toml"))
    mix = plan.data.mix.plan(corpus(BOOKS), window=8192, target=plan.facts.target_length)
    assert sum(count.n_tokens_planned for count in mix.counts()) == pytest.approx(plan.data.mix.total_tokens, rel=0.02)
    HeldOut.of(mix, plan.facts.held_out_segments)  # refuses where none are left
    is_read_once = all(count.epochs <= 1 for count in mix.counts())
    assert is_read_once == (name != "smollm2-32k-longer")


def corpus(lengths: tuple[int, ...]) -> Corpus:
    """Books of so many tokens, as SmolLM2's tokenizer marks their ends; what is planned needs no more of them."""
    none = np.zeros(0, dtype=np.int64)
    return Corpus(
        lengths_N=np.array(lengths),
        source_N=np.zeros(len(lengths), dtype=np.int16),
        labels=("books",),
        leading_ids=none,
        trailing_ids=np.array([2]),
        sha256="",
        _shard_N=np.zeros(len(lengths), dtype=np.int32),
        _start_N=none,
        _tokens=(),
        _weights=(),
    )


# Nothing that is measured on was searched or trained on


@pytest.mark.parametrize("name", RUNS)
def test_a_run_names_the_books_for_testing_alone(name):
    assert set(re.findall(r"\$\{LONGREACH_(\w*BOOKS)\}", config.find_preset(name).read_text())) == {"TEST_BOOKS"}


@pytest.mark.parametrize(("kind", "name"), [*(("search", n) for n in SEARCHES), *(("train", n) for n in TRAININGS)])
def test_a_search_or_training_names_no_other_data_than_the_books_for_it(kind, name):
    text = config.find_preset(name, kind).read_text()
    assert set(re.findall(r"\$\{(\w+)\}", text)) <= {"LONGREACH_BOOKS"}
    assert "essay" not in config.read_toml(config.find_preset(name, kind)).get("objective", {}).get("haystacks", [])
    if kind == "search":
        assert load_haystacks(name) <= {"noise", "book", "docs"}


def load_haystacks(name: str) -> set[str]:
    return set(config.read_toml(config.find_preset(name, "search"))["objective"]["haystacks"])


def test_seeds_and_topics_of_the_evaluation_are_its_own(presets):
    for name in RUNS:
        seeds = {config.read_toml(path).get("seed", 0) for path in study_files() if path.stem not in RUNS}
        assert load_run(presets, name).seed not in seeds
    assert not set(evaluation_topics()) & set(training_topics())


def test_the_books_of_the_data_folder_are_not_the_same_ones(data_dir):
    folder = data_dir / "books"
    if not folder.is_dir():
        pytest.skip("no books in the test data")
    names = [{path.name for path in (folder / part).glob("*.txt.xz")} for part in ("train", "validation")]
    assert all(names)
    assert not names[0] & names[1]


# Without what comes before


@pytest.mark.parametrize("name", RUNS)
def test_a_run_says_in_a_line_what_is_not_set_or_not_there(name, presets, tmp_path, monkeypatch):
    bare = shutil.copytree(presets, tmp_path / "harness" / "presets")
    with pytest.raises(RequestError, match=r"searches/smollm2-.*/factors.json': there is no such file"):
        load_run(bare, name)
    shutil.copytree(presets.parents[1] / "searches", tmp_path / "searches")
    with pytest.raises(RequestError, match=r"trainings/smollm2-.*longreach.json: it should be a folder that `train`"):
        load_run(bare, name)
    monkeypatch.delenv("LONGREACH_TEST_BOOKS")
    with pytest.raises(RequestError, match="the variable LONGREACH_TEST_BOOKS is not set"):
        load_run(presets, name)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_loads_with_its_books_and_says_where_they_are_not_named(name, presets, monkeypatch):
    path = str(presets / "search" / f"{name}.toml")
    assert load_search(path).facts.model == "smollm2-135m"
    monkeypatch.delenv("LONGREACH_BOOKS")
    with pytest.raises(RequestError, match="the variable LONGREACH_BOOKS is not set"):
        load_search(path)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_says_where_its_books_are_not_named(name, presets, monkeypatch):
    monkeypatch.delenv("LONGREACH_BOOKS")
    with pytest.raises(RequestError, match="the variable LONGREACH_BOOKS is not set"):
        load_training(str(presets / "train" / f"{name}.toml"))


# The guide


def test_the_guide_calls_every_preset_behind_what_it_reads():
    called = re.findall(r"run_bench\.py (search|train|run) (\S*smollm2\S*)", GUIDE)
    kinds = {"search": SEARCHES, "train": TRAININGS, "run": RUNS}
    assert set(called) == {(verb, name) for verb, names in kinds.items() for name in names}
    places = {step: place for place, step in reversed(list(enumerate(called)))}
    for verb, name in places:
        text = config.find_preset(name, verb).read_text()
        for folder, before in re.findall(r'"(?:\.\./)+(searches|trainings)/(.*?)/', text):
            step = ("search" if folder == "searches" else "train", before)
            assert places[step] < places[verb, name], f"{name} reads {before}"


@pytest.mark.parametrize("name", RUNS)
def test_the_guide_says_how_many_cells_and_samples_a_run_has(name, presets):
    plan = load_run(presets, name)
    total = sum(planned.cell.n_samples for planned in plan.cells if planned.suite.label != "longbench")
    said = f"`{name}`: {len(plan.methods)} methods, {len(plan.cells):,} cells, {total:,} samples"
    assert said in GUIDE, said


def test_the_guides_arithmetic_adds_up():
    units = {" M": "e6", " k": "e3", " x ": " * "}
    sums = re.findall(r"([\d][\d. x+/kM]*) = (\d+)", GUIDE)
    assert len(sums) > 15
    for terms, said in sums:
        for unit, value in units.items():
            terms = terms.replace(unit, value)
        assert eval(terms) == pytest.approx(int(said), abs=1.0), terms
