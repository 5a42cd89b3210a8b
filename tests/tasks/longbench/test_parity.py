"""The same numbers and the same prompts as the authors' own code, run by make_golden.py."""

import pytest

from harness.types import Example, Output
from tasks.longbench.metrics import METRICS
from tasks.longbench.table import TASKS
from tasks.longbench.v1 import LongBench
from tasks.longbench.v2 import LongBenchV2, extract_choice
from tests.tasks.longbench.rows import N_ROWS, PROMPT_CASES, V2_PROMPT_CASES, ids_hash


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_gives_the_authors_values(name, golden):
    found = golden("metrics.json")
    part = next(part for part in found["sets"] if name in part["scores"])
    cases, scores = part["cases"], part["scores"][name]
    assert len(cases) >= 200
    assert len(set(scores)) > 3
    assert [METRICS[name](text, answer, found["classes"]) for text, answer in cases] == scores


def test_the_best_of_several_answers_counts_and_only_the_first_line_of_four_tasks(golden):
    found = golden("eval.json")
    for task, text, answers, percent in found["cases"]:
        example = Example(id="x", answers=tuple(answers), metadata={"all_classes": golden("metrics.json")["classes"]})
        score = LongBench().score(task, example, Output(text=text))
        assert round(100 * score.value, 2) == percent, (task, text, answers)


def test_a_text_too_long_for_the_authors_recursion_scores_zero(golden):
    for name, n_words, score in golden("metrics.json")["paths"]:
        text = " ".join(f"w{i}" for i in range(n_words))
        assert METRICS[name](text, text, ()) == pytest.approx(score, abs=1e-6), (name, n_words)


def test_choices_are_found_where_the_authors_find_them(golden):
    cases = golden("choices.json")["choices"]
    assert len(cases) >= 200
    assert {choice for _, choice in cases} == {"A", "B", "C", "D", None}
    assert [extract_choice(text) for text, _ in cases] == [choice for _, choice in cases]


@pytest.mark.parametrize("case", PROMPT_CASES, ids=lambda case: case.name)
def test_prompts_are_token_for_token_the_authors(case, golden, few_rows, tokenizer_of):
    suite, tokenizer = LongBench(prompt=case.prompt, data_dir=str(few_rows)), tokenizer_of(case.tokenizer)
    found, n_cut = {}, 0
    for task in TASKS:
        examples = list(suite.examples(task, seq_len=case.seq_len, n=N_ROWS, seed=0, tokenizer=tokenizer))
        n_cut += sum(example.metadata["truncated"] for example in examples)
        assert {example.metadata["n_kept_tokens"] for example in examples if example.metadata["truncated"]} <= {
            case.max_length
        }
        found[task] = named_hash(examples)
    assert 0 < n_cut < len(TASKS) * N_ROWS
    assert found == golden("prompts.json")[case.name]


@pytest.mark.parametrize("case", V2_PROMPT_CASES, ids=lambda case: case.name)
def test_v2_prompts_are_token_for_token_the_authors(case, golden, few_rows_v2, tokenizer_of):
    suite, tokenizer = LongBenchV2(data_dir=str(few_rows_v2)), tokenizer_of(case.tokenizer)
    examples = list(suite.examples("short", seq_len=case.seq_len, n=N_ROWS, seed=0, tokenizer=tokenizer))
    assert named_hash(examples) == golden("prompts_v2.json")[case.name]


def named_hash(examples) -> str:
    return ids_hash({example.metadata["row"]: example.prompt_ids for example in examples})
