"""What a preset may name, and what it is told when it may not."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import RequestError
from tasks.short.index import TaskIndex, installed_tasks, lm_eval_folder
from tasks.short.lists import Short, ShortSmall
from tasks.short.suite import LmEval

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("folder", ["mmlu", "arc", "super_glue", "truthfulqa", "benchmarks", "leaderboard"])
def test_every_name_tag_and_file_is_the_one_lm_eval_knows(folder):
    from lm_eval.tasks import TaskManager

    root = lm_eval_folder() / "tasks" / folder
    manager, index = TaskManager(include_defaults=False, include_path=str(root)), TaskIndex(root)
    assert index._files == {
        name: str(entry.yaml_path) for name, entry in manager.task_index.items() if name not in manager.all_tags
    }
    assert set(index._groups) == set(manager.all_groups)
    assert index._tags == {tag: sorted(manager.task_index[tag].tags) for tag in manager.all_tags}


@pytest.mark.parametrize(
    "name", ["hellaswag", "gsm8k", "mmlu_anatomy", "truthfulqa_mc2", "mmlu_pro_law", "arc_challenge"]
)
def test_a_definition_is_the_one_lm_eval_reads(name):
    from lm_eval.tasks._yaml_loader import load_yaml

    (leaf,) = installed_tasks().leaves(name)
    expected = load_yaml(leaf.path, resolve_func=False)
    assert leaf.config.keys() == expected.keys()
    plain = [key for key, value in expected.items() if "/lm_eval/" not in str(value)]
    assert len(plain) > 4
    assert {key: leaf.config[key] for key in plain} == {key: expected[key] for key in plain}


def test_a_group_is_its_tasks():
    for name in ("mmlu", "mmlu_continuation"):
        leaves = installed_tasks().leaves(name)
        assert len(leaves) == len({leaf.config["dataset_name"] for leaf in leaves}) == 57
    assert {leaf.config["dataset_path"] for leaf in installed_tasks().leaves("mmlu_pro")} == {"TIGER-Lab/MMLU-Pro"}


def test_what_a_group_overrides_reaches_its_tasks(tmp_path):
    (tmp_path / "a.yaml").write_text("task: a\ndataset_path: x/y\nnum_fewshot: 1\n")
    (tmp_path / "b.yaml").write_text("include: a.yaml\ntask: b\ntag: [t]\n")
    (tmp_path / "g.yaml").write_text(
        "group: g\nnum_fewshot: 7\ntask:\n  - a\n  - group: inner\n    task:\n      - task: b\n        num_fewshot: 2\n"
        "aggregate_metric_list:\n  - metric: acc\n"
    )
    first, second = TaskIndex(tmp_path).leaves("g")
    assert (first.name, first.config["num_fewshot"]) == ("a", 7)
    assert (second.name, second.config["num_fewshot"], second.config["dataset_path"]) == ("b", 2, "x/y")


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("helaswag", "unknown lm_eval task 'helaswag': did you mean 'hellaswag'?"),
        ("ai2_arc", "'ai2_arc' is a tag without a score of its own: name its tasks, arc_challenge, arc_easy"),
        ("leaderboard", "its tasks have different metrics"),
        ("squadv2", "it is a Python class"),
        ("ruler_vt", "custom_dataset"),
        ("humaneval", "it runs generated code"),
        ("gsm8k_cot_self_consistency", "it samples its answers"),
        ("mmmu_val_accounting", "it needs images or sound"),
    ],
)
def test_a_task_that_cannot_be_run_is_refused_with_the_reason(task, says):
    with pytest.raises(RequestError) as raised:
        LmEval().check(task)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_lm_eval_itself_has_no_list():
    with pytest.raises(RequestError, match="needs tasks"):
        LmEval().tasks()


@pytest.mark.parametrize(
    ("suite", "task", "name", "kind", "chance"),
    [
        (Short, "mmlu", "acc,none", "binary", 0.25),
        (Short, "hellaswag", "acc_norm,none", "binary", 0.25),
        (Short, "arc_challenge", "acc_norm,none", "binary", 0.25),
        (Short, "truthfulqa_mc2", "acc,none", "graded", 0.4484),
        (Short, "gsm8k", "exact_match,strict-match", "binary", 0.0),
        (Short, "mmlu_pro", "exact_match,custom-extract", "binary", 0.1),
        (Short, "winogrande", "acc,none", "binary", 0.5),
        (ShortSmall, "mmlu_continuation", "acc_norm,none", "binary", 0.25),
        (ShortSmall, "arc_easy", "acc_norm,none", "binary", 0.25),
        (ShortSmall, "piqa", "acc_norm,none", "binary", 0.5),
        (ShortSmall, "lambada_openai", "acc,none", "binary", 0.0),
        (LmEval, "boolq", "acc,none", "binary", 0.5),
        (LmEval, "wikitext", "likelihood", "likelihood", 0.0),
    ],
)
def test_the_score_of_a_task_and_its_chance_level(suite, task, name, kind, chance):
    metric = suite().metric(task)
    assert (metric.name, metric.kind, metric.chance) == (name, kind, chance)


def test_every_task_of_the_lists_has_a_pinned_revision(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for suite in (Short(), ShortSmall()):
        for task in suite.tasks():
            suite.check(task)


def test_the_lists_ask_with_the_fields_few_shot_counts():
    assert {task: Short()._num_fewshot(task) for task in Short().tasks()} == {
        "mmlu": 5, "hellaswag": 10, "arc_challenge": 25, "truthfulqa_mc2": 0,
        "gsm8k": 5, "mmlu_pro": 5, "winogrande": 5,
    }  # fmt: skip
    assert {ShortSmall()._num_fewshot(task) for task in ShortSmall.shots} == {0}
    assert Short(num_fewshot={"mmlu": 2})._num_fewshot("mmlu") == 2
    assert Short(num_fewshot={"mmlu": 2})._num_fewshot("gsm8k") == 5
    assert LmEval()._num_fewshot("gsm8k") == 5  # what the task states


def test_a_metric_can_be_chosen():
    assert (
        LmEval(metrics={"gsm8k": "exact_match,flexible-extract"}).metric("gsm8k").name == "exact_match,flexible-extract"
    )
    assert LmEval(metrics={"hellaswag": "acc"}).metric("hellaswag").name == "acc,none"
    with pytest.raises(RequestError, match=r"metrics names 'f1', it should be one of 'acc,none', 'acc_norm,none'"):
        LmEval(metrics={"hellaswag": "f1"}).metric("hellaswag")


def test_an_unknown_chance_level_is_asked_for():
    with pytest.raises(RequestError, match=r"chance = \{openbookqa = 0.25\}"):
        LmEval().metric("openbookqa")
    assert LmEval(chance={"openbookqa": 0.25}).metric("openbookqa").chance == 0.25


def test_a_setting_for_an_unknown_task_is_refused(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for settings in ({"num_fewshot": {"helaswag": 5}}, {"metrics": {"helaswag": "acc"}}, {"chance": {"helaswag": 0.1}}):
        with pytest.raises(RequestError, match="did you mean 'hellaswag'"):
            LmEval(**settings).check("piqa")


@pytest.mark.parametrize(
    "settings",
    [{"num_fewshot": -1}, {"num_fewshot": {"mmlu": 1.5}}, {"chance": {"piqa": 2}}, {"fewshot_as_multiturn": True}],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError):
        LmEval(**settings)


def test_few_shot_on_a_task_that_is_zero_shot_by_definition_is_refused():
    with pytest.raises(RequestError, match="zero-shot by its own definition: num_fewshot = 5"):
        LmEval(num_fewshot=5).check("truthfulqa_mc2")


def test_planning_imports_neither_torch_nor_datasets_and_takes_seconds(data_dir):
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "from tasks.short.lists import ShortSmall\n"
        f"suite = ShortSmall(data_dir={str(data_dir)!r})\n"
        "for task in suite.tasks(): suite.check(task); suite.artifacts(task); suite.metric(task)\n"
        "loaded = {'torch', 'transformers', 'datasets', 'lm_eval'} & set(sys.modules)\n"
        "print(loaded or 'none', time.perf_counter() - start < 10)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["none", "True"], done.stderr
