"""Which of a task's metrics is its score, what blind guessing gets, and which tasks cannot be run here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import RequestError
from harness.types import JSON, Metric
from tasks.short.index import FUNCTION, LeafTask

# lm-eval's defaults for a task without a metric list. Source: lm_eval 0.4.13, api/registry.py.
_DEFAULT_METRICS = {
    "loglikelihood": ("perplexity", "acc"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "multiple_choice": ("acc", "acc_norm"),
    "generate_until": ("exact_match",),
}
_BINARY = ("acc_norm", "acc", "exact_match", "acc_bytes", "acc_mutual_info")
_PREFERRED = ("acc_norm", "acc", "exact_match")
_LIKELIHOOD = "likelihood"

# Blind guessing on multiple choice whose choices stand in the documents: by data set, and by task where it differs.
_CHANCE_OF_DATA = {
    "Rowan/hellaswag": 1 / 4,
    "allenai/ai2_arc": 1 / 4,  # the mean over the test questions, a few with 3 or 5 choices, is 0.2502 in both
    "allenai/winogrande": 1 / 2,
    "baber/piqa": 1 / 2,
    "cais/mmlu": 1 / 4,
}
_CHANCE_OF_TASK = {
    "truthfulqa_mc1": 0.2261,  # the mean of 1 / choices over its 817 questions
    "truthfulqa_mc2": 0.4484,  # all choices equally likely: the mean share of the true ones
}
_LETTERS_OF_MMLU_PRO = 10  # it is asked as a generation; a letter at random is right this often, a silence never


@dataclass(frozen=True, kw_only=True)
class ScoredMetric:
    """A metric and the filter its answers go through first, written `metric,filter` as in lm-eval's results."""

    metric: str
    filter: str

    def __str__(self) -> str:
        return f"{self.metric},{self.filter}"


def scored_metric(leaf: LeafTask, chosen: str | None) -> ScoredMetric:
    """The metric that is the task's score: the chosen one, else the one results are quoted with.

    That is acc_norm where the task offers it (ARC, HellaSwag, PIQA, MMLU in its continuation form), else acc
    (MMLU, WinoGrande, LAMBADA, TruthfulQA), else exact_match, else its first mean; after the first of its filters
    (GSM8K: strict-match). `loglikelihood_rolling` has one only, `likelihood`. Source of the choice: Open LLM
    Leaderboard v1 (arc:challenge acc_norm, hellaswag acc_norm, mmlu acc, truthfulqa:mc mc2, winogrande acc, gsm8k
    strict), and lm-eval's order of metrics and filters. Raises RequestError.
    """
    filters = [str(item["name"]) for item in leaf.config.get("filter_list") or []] or ["none"]
    means = [_LIKELIHOOD] if leaf.config.get("output_type") == "loglikelihood_rolling" else _means(leaf.config)
    metric, _, chosen_filter = (chosen or "").partition(",")
    if not means:
        raise RequestError(
            f"lm_eval task '{leaf.name}' has no metric that is a mean over its documents: it cannot be a suite's task"
        )
    metric = metric or next((name for name in _PREFERRED if name in means), means[0])
    chosen_filter = chosen_filter or filters[0]
    if metric not in means or chosen_filter not in filters:
        options = ", ".join(f"'{name},{kind}'" for name in means for kind in filters)
        raise RequestError(f"lm_eval task '{leaf.name}': metrics names '{chosen}', it should be one of {options}")
    return ScoredMetric(metric=metric, filter=chosen_filter)


def metric_of(leaf: LeafTask, chosen: str | None, chance: float | None) -> Metric:
    """The task's score as reports need it. Raises RequestError where the chance level is not known."""
    scored = scored_metric(leaf, chosen)
    if scored.metric == _LIKELIHOOD:
        return Metric(name=_LIKELIHOOD, kind="likelihood")
    binary = scored.metric in _BINARY and not leaf.config.get("process_results")
    level = chance if chance is not None else _chance(leaf)
    return Metric(name=str(scored), kind="binary" if binary else "graded", chance=level)


def output_type(leaf: LeafTask) -> str:
    """How the task is asked: loglikelihood, loglikelihood_rolling, multiple_choice or generate_until."""
    return str(leaf.config.get("output_type") or "generate_until")


def check_runnable(leaf: LeafTask) -> None:
    """Raises RequestError for a task that cannot be asked here, with the reason."""
    config = leaf.config
    generation = config.get("generation_kwargs") or {}
    reasons = {
        "it is a Python class": "class" in config,
        "its samples come from a generator without a seed of its own (custom_dataset); "
        "the suites of Longreach make such samples reproducibly": "custom_dataset" in config,
        "it runs generated code": bool(config.get("unsafe_code")),
        "it needs images or sound": bool(config.get("doc_to_image") or config.get("doc_to_audio")),
        "it samples its answers, and Longreach answers greedily": bool(generation.get("do_sample"))
        or int(config.get("repeats") or 1) > 1,
        f"its output_type is '{output_type(leaf)}'": output_type(leaf) not in _DEFAULT_METRICS,
    }
    for reason, applies in reasons.items():
        if applies:
            raise RequestError(f"lm_eval task '{leaf.name}' cannot be run: {reason}")


def _means(config: Mapping[str, Any]) -> list[str]:
    """The names of the metrics whose aggregate is the plain mean and that are better when higher."""
    listed: Sequence[Any] | None = config.get("metric_list")
    if listed is None:
        listed = [{"metric": name} for name in _DEFAULT_METRICS[config.get("output_type") or "generate_until"]]
    found = []
    for item in listed:
        name = str(item["metric"])
        name = name.rpartition(".")[2] if name.startswith(FUNCTION) else name
        aggregation = item.get("aggregation", "mean" if name in _BINARY else None)
        if aggregation == "mean" and item.get("higher_is_better", True):
            found.append(name)
    return found


def _chance(leaf: LeafTask) -> float:
    config: Mapping[str, JSON] = leaf.config
    if leaf.name in _CHANCE_OF_TASK:
        return _CHANCE_OF_TASK[leaf.name]
    if output_type(leaf) != "multiple_choice":
        return 1 / _LETTERS_OF_MMLU_PRO if config.get("dataset_path") == "TIGER-Lab/MMLU-Pro" else 0.0
    choices = config.get("doc_to_choice")
    if isinstance(choices, list | dict) and choices:
        return 1 / len(choices)
    if config.get("dataset_path") in _CHANCE_OF_DATA:
        return _CHANCE_OF_DATA[str(config["dataset_path"])]
    raise RequestError(
        f"lm_eval task '{leaf.name}': how many choices a question has stands in its documents only: write the score "
        f"of blind guessing, chance = {{{leaf.name} = 0.25}}"
    )
