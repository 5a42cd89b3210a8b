"""What a search's TOML file becomes, what makes two searches the same, and what a wrong one is told."""

import json
from types import SimpleNamespace

import pytest

import run_bench
from harness.config import preset_names
from harness.errors import RequestError
from methods.longrope.factors_file import read_factors
from methods.longrope.search import config
from methods.longrope.search.config import load_search
from tests.commands import refused
from tests.presets import models_at_hand, write_preset, write_toml

SMALL = {
    "title": "Small",
    "target_length": 640,
    "seed": 3,
    "model": {"name": "tiny-llama"},
    "objective": {"haystacks": ["noise"], "n_keys": 4, "n_documents": 2, "documents": "fixed"},
    "search": {
        "algorithm": "longrope2",
        "budget": 40,
        "population": 6,
        "iterations": 1,
        "n_parents": 3,
        "n_mutations": 2,
        "n_crossovers": 1,
        "n_final": 2,
    },
    "report": {"test_documents": 2, "curve_points": 2},
}


def write_search(folder, name="small", **changes) -> str:
    """A file like SMALL; a change of a table is laid over it, None removes an entry."""
    table = dict(SMALL)
    for key, value in changes.items():
        table[key] = {**table.get(key, {}), **value} if isinstance(value, dict) else value
    table = {key: value for key, value in table.items() if value is not None}
    for key, value in table.items():
        if isinstance(value, dict):
            table[key] = {name: item for name, item in value.items() if item is not None}
    return write_toml(folder / f"{name}.toml", table)


def test_a_file_becomes_a_plan(tmp_path):
    plan = load_search(write_search(tmp_path))
    assert plan.facts.title == "Small"
    assert (plan.problem.window, plan.problem.target_length, plan.problem.seed) == (512, 640, 3)
    assert plan.problem.fresh is False
    assert plan.problem.unit.n_tokens == 2 * 640
    assert plan.algorithm.population == 6
    assert list(plan.references()) == ["position_interpolation", "ntk", "yarn", "longrope2_closed_form"]
    assert set(plan.facts.artifacts) == {"noise", "docs"}
    assert set(plan.facts.model_identity) == {"weights", "config", "tokenizer", "params"}


def test_a_search_can_be_of_an_algorithm_of_ones_own(tmp_path):
    name = "methods.longrope.search.longrope:LongRoPESearch"
    assert load_search(write_search(tmp_path, search={"algorithm": name})).algorithm.name == "longrope"


def test_the_key_is_that_of_the_numbers_and_not_of_the_names(tmp_path):
    key = load_search(write_search(tmp_path)).facts.key
    assert load_search(write_search(tmp_path, "other", title="Renamed", model={"label": "mine"})).facts.key == key
    for changes in (
        {"seed": 4},
        {"target_length": 2048},
        {"model": {"dtype": "bfloat16"}},
        {"model": {"rope": {"rope_theta": 20000.0}}},
        {"objective": {"n_keys": 2}},
        {"objective": {"haystacks": ["docs"]}},
        {"search": {"budget": 41}},
        {"search": {"n_final": 3}},
        {"search": {"algorithm": "longrope"}},
        {"report": {"test_documents": 3}},
    ):
        assert load_search(write_search(tmp_path, **changes)).facts.key != key, changes


def test_books_are_in_the_key_by_what_they_hold_not_by_where_they_are(tmp_path):
    def key(folder: str, text: str) -> str:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(text)
        objective = {"haystacks": ["book"], "books": str(tmp_path / folder)}
        return load_search(write_search(tmp_path, objective=objective)).facts.key

    assert key("here", "A sentence. " * 9999) == key("there", "A sentence. " * 9999) != key("new", "Another. " * 9999)


def factors(folder, name="long.json", **changes) -> str:
    table = {"rescale_factors": [4.0] * 32, "attention_factor": 1.1, "target_length": 2048}
    (folder / name).write_text(json.dumps({k: v for k, v in (table | changes).items() if v is not None}))
    return name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target_length": 512}, ["target_length = 512", "above the model's window of 512 tokens"]),
        ({"target_length": 300}, ["target_length = 300", "above the model's window of 512 tokens"]),
        ({"target_length": None}, ["'target_length' is missing", "a whole number"]),
        ({"target_lenght": 4096}, ["no setting 'target_lenght'", "did you mean 'target_length'?"]),
        ({"seed": -1}, ["seed = -1", "at least 0"]),
        ({"model": None}, ["has no model", "[model]"]),
        ({"model": {"name": "tiny-lama"}}, ["'tiny-lama'", "did you mean 'tiny-llama'?"]),
        ({"model": {"dtyp": "float32"}}, ["no setting 'dtyp'", "did you mean 'dtype'?"]),
        ({"objective": {"n_kyes": 4}}, ["no setting 'n_kyes'", "did you mean 'n_keys'?"]),
        ({"objective": {"kind": "needel"}}, ["kind = 'needel'", "did you mean 'needle'?"]),
        ({"objective": {"haystacks": ["dcos"]}}, ["'dcos'", "did you mean 'docs'?"]),
        ({"objective": {"n_documents": 0}}, ["n_documents = 0", "at least 1"]),
        ({"objective": {"haystacks": ["book"]}}, ["'book' needs a folder", "books ="]),
        ({"objective": {"haystacks": ["book"], "books": "empty"}}, ["books = ", "no .txt"]),
        ({"objective": {"haystacks": ["book"], "books": "./absent"}}, ["absent", "No such file"]),
        ({"objective": {"haystacks": ["book"], "books": "${NO_SUCH}/a"}}, ["NO_SUCH is not set"]),
        ({"search": None}, ["has no algorithm", "[search]", "fast, longrope, longrope2"]),
        ({"search": {"algorithm": "longrop2"}}, ["unknown algorithm 'longrop2'", "did you mean 'longrope2'?"]),
        ({"search": {"budget": None}}, ["'budget' is missing", "a number"]),
        ({"search": {"budget": 0}}, ["budget = 0", "positive"]),
        ({"search": {"budget": 3}}, ["budget = 3", "at least"]),
        ({"search": {"populaton": 3}}, ["no setting 'populaton'", "did you mean 'population'?"]),
        ({"search": {"critical_pair": 99}}, ["critical_pair = 99"]),
        ({"report": {"test_document": 3}}, ["no setting 'test_document'", "did you mean 'test_documents'?"]),
        ({"report": {"curve_points": 0}}, ["curve_points = 0", "at least 1"]),
        ({"readjusts": "absent.json"}, ["absent.json", "no such file"]),
        ({"readjusts": "short.json"}, ["short.json", "there are 24", "32 rotary pairs"]),
        ({"readjusts": "wider.json"}, ["wider.json", "rotary_dim = 128", "the model has 64"]),
        ({"readjusts": "unsaid.json"}, ["unsaid.json", "attention_factor"]),
    ],
    ids=lambda value: "" if isinstance(value, list) else json.dumps(value)[:60],
)
def test_a_wrong_file_is_one_line_and_nothing_is_made(changes, said, tmp_path, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    factors(tmp_path, "short.json", rescale_factors=[4.0] * 24)
    factors(tmp_path, "wider.json", rotary_dim=128)
    factors(tmp_path, "unsaid.json", attention_factor=None)
    out = tmp_path / "out"
    line = refused(["search", write_search(tmp_path, **changes), "--out", str(out)], capsys, out)
    for words in said:
        assert words in line


def test_a_model_without_rope_is_refused(tmp_path, capsys):
    (tmp_path / "gpt2").mkdir()
    table = {"model_type": "gpt2", "n_embd": 64, "n_head": 2, "n_layer": 1, "n_positions": 512, "vocab_size": 99}
    (tmp_path / "gpt2" / "config.json").write_text(json.dumps(table))
    (tmp_path / "gpt2" / "model.safetensors").write_bytes(b"")
    (tmp_path / "gpt2" / "tokenizer.json").write_text("{}")
    with pytest.raises(RequestError) as caught:
        load_search(write_search(tmp_path, model={"name": str(tmp_path / "gpt2")}))
    assert "gpt2" in str(caught.value)


def test_a_run_s_preset_is_no_search_and_the_other_way_round(tmp_path, capsys):
    assert run_bench.main(["search", write_preset(tmp_path)]) == 2
    assert "no setting 'seq_lens'" in capsys.readouterr().err
    assert run_bench.main(["run", write_search(tmp_path)]) == 2
    assert "no setting 'objective'" in capsys.readouterr().err
    assert run_bench.main(["run", "tiny-4096"]) == 2
    assert "unknown preset 'tiny-4096'" in capsys.readouterr().err
    assert run_bench.main(["search", "tiny-4069"]) == 2
    assert "unknown search configuration 'tiny-4069': did you mean 'tiny-4096'?" in capsys.readouterr().err


def test_each_kind_of_preset_is_listed_apart(capsys):
    def listed(kind: str) -> dict[str, str]:
        assert run_bench.main(["list", kind]) == 0
        return dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())

    runs, searches = listed("presets"), listed("searches")
    assert "quickstart" in runs
    assert not any(name.startswith(("search/", "train/")) for name in runs)
    assert "tiny-llama, 512 to 4096" in searches["tiny-4096"]
    assert "paper" in listed("algorithms")["longrope2"]


@pytest.fixture
def all_at_hand(monkeypatch, tmp_path):
    """Models, texts and factors to readjust count as there."""
    models_at_hand(monkeypatch)
    monkeypatch.setattr(config, "load_haystack", lambda kind, **where: SimpleNamespace(sha256=kind))
    monkeypatch.setenv("LONGREACH_BOOKS", str(tmp_path))
    written = tmp_path / "factors.json"
    written.write_text(json.dumps({"rescale_factors": [4.0] * 32, "attention_factor": 1.1, "target_length": 32768}))
    monkeypatch.setattr(config, "read_factors", lambda name: read_factors(str(written)))


@pytest.mark.parametrize("name", preset_names("search"))
def test_a_packaged_configuration_is_right_and_its_budget_holds_its_whole_search(name, all_at_hand):
    plan = load_search(name)
    ask = plan.start(plan.problem.unit).ask()
    assert ask is not None
    assert ask.cost(plan.problem.unit) < plan.facts.budget
    if plan.facts.algorithm != "fast":
        whole = plan.start(plan.problem.unit).plan.whole
        assert 0.85 * plan.facts.budget < whole <= plan.facts.budget
    if "ablation" in name:
        assert "small budget" in plan.facts.title


def test_the_papers_configurations_are_the_papers(all_at_hand):
    llama3, llama2 = load_search("longrope2-paper-llama3-8b"), load_search("longrope-paper-llama2-7b")
    assert (llama3.problem.ratio, llama2.problem.ratio) == (16, 8)
    assert (llama3.objective.n_books, llama3.objective.position) == (10, "start")
    assert (llama2.objective.n_books, llama2.objective.kind) == (5, "perplexity")
    for plan in (llama3, llama2):
        settings = plan.algorithm
        assert (settings.population, settings.iterations, settings.mutation_probability) == (64, 40, 0.3)
        assert (settings.n_parents, settings.n_mutations, settings.n_crossovers) == (32, 16, 16)


@pytest.mark.parametrize("name", ["perplexity", "theoretical-pair", "all-pairs"])
def test_an_ablation_differs_from_its_base_in_one_thing(name, all_at_hand):
    def settings(name: str) -> dict:
        facts = load_search(name).facts
        return {**facts.settings, **facts.objective, "budget": facts.budget, "seed": facts.seed}

    base, other = settings("ablation-base"), settings(f"ablation-{name}")
    differing = {key for key in base if base[key] != other[key]}
    wanted = {"perplexity": {"kind"}, "theoretical-pair": {"critical_pair"}, "all-pairs": {"tie_low_pairs"}}
    assert differing - {"haystacks"} == wanted[name]
