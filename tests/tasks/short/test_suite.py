"""Documents as samples: which ones, how they are asked, and what an answer scores."""

import gzip
import json
import math
import pickle
import random

import pytest

from harness.errors import RequestError
from harness.types import Output
from tasks.base import Suite
from tasks.short.lists import Short, ShortSmall
from tasks.short.suite import LmEval, _order

LONG = 100_000
TASKS = (
    "arc_challenge", "arc_easy", "boolq", "gsm8k", "hellaswag", "lambada_openai", "mmlu", "mmlu_continuation", "piqa",
    "truthfulqa_mc1", "truthfulqa_mc2", "winogrande",
)  # fmt: skip
CHANCE = {"openbookqa": 0.25}


@pytest.fixture(scope="module")
def suite(few_rows):
    return LmEval(data_dir=str(few_rows), num_fewshot=dict.fromkeys(["gsm8k", "mmlu"], 1))


def draw(suite, task, tokenizer, n=5, *, seed=0, seq_len=LONG):
    return list(suite.examples(task, seq_len=seq_len, n=n, seed=seed, tokenizer=tokenizer))


def answered(example, logprobs):
    """What a model gives back that finds each segment's tokens this probable, all together."""
    counts = [len(segment.token_ids) - segment.n_context for segment in example.segments]
    rows = [(total / count,) * count for total, count in zip(logprobs, counts, strict=True)]
    return Output(
        logprobs=tuple(rows), greedy=tuple((total == 0,) * n for total, n in zip(logprobs, counts, strict=True))
    )


def oracle(suite, task, example):
    """A perfect answer, from the documents themselves."""
    if not example.segments:
        return Output(text=" " + example.answers[0])
    if len(example.segments) == 1:
        return answered(example, [0.0])
    built = next(b for b in suite._builds(task) if b.name == example.metadata["lm_eval_task"])._task
    doc = built.task_docs[example.metadata["doc_id"]]
    if task == "truthfulqa_mc2":
        return answered(example, [0.0 if label else -1e4 for label in doc["mc2_targets"]["labels"]])
    gold = built.doc_to_text(doc) if built.multiple_input else built.doc_to_target(doc)
    return answered(example, [0.0 if choice == gold else -1e4 for choice in range(len(example.segments))])


def test_it_is_a_suite():
    assert isinstance(LmEval(), Suite)
    assert isinstance(Short(), Suite)
    assert isinstance(ShortSmall(), Suite)


@pytest.mark.parametrize("task", TASKS)
def test_a_perfect_answer_scores_one_and_samples_are_a_prefix_of_more(suite, tokenizer, task):
    examples = draw(suite, task, tokenizer, 12)
    assert [suite.score(task, example, oracle(suite, task, example)).value for example in examples] == [1.0] * 12
    assert draw(suite, task, tokenizer, 4) == examples[:4]
    assert len({example.id for example in examples}) == 12


@pytest.mark.parametrize("task", ["arc_easy", "hellaswag", "mmlu", "mmlu_continuation", "piqa", "winogrande"])
def test_a_guess_scores_the_declared_chance(suite, tokenizer, task):
    rng, n = random.Random(5), 40
    scores = []
    for example in draw(suite, task, tokenizer, n):
        for _ in range(25):
            guess = answered(example, [-1.0 - rng.random() for _ in example.segments])
            scores.append(suite.score(task, example, guess).measures["acc,none"])
    chance = suite.metric(task).chance
    assert sum(scores) / len(scores) == pytest.approx(chance, abs=5 * math.sqrt(chance * (1 - chance) / len(scores)))


def test_the_declared_chance_of_truthfulqa_is_that_of_its_questions(data_dir, suite):
    with gzip.open(data_dir / "short/truthfulqa_mc/validation.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    first = sum(1 / len(row["mc1_targets"]["choices"]) for row in rows) / len(rows)
    second = sum(sum(row["mc2_targets"]["labels"]) / len(row["mc2_targets"]["labels"]) for row in rows) / len(rows)
    assert suite.metric("truthfulqa_mc1").chance == pytest.approx(first, abs=1e-4)
    assert suite.metric("truthfulqa_mc2").chance == pytest.approx(second, abs=1e-4)


def test_indifference_scores_the_share_of_true_choices(suite, tokenizer):
    (example,) = draw(suite, "truthfulqa_mc2", tokenizer, 1)
    score = suite.score("truthfulqa_mc2", example, answered(example, [-1.0] * len(example.segments)))
    assert 0.1 < score.value < 0.9


def test_every_metric_and_loglikelihood_of_a_document_is_kept(suite, tokenizer):
    (example,) = draw(suite, "hellaswag", tokenizer, 1)
    measures = suite.score("hellaswag", example, answered(example, [-3.0, -1.0, -4.0, -2.0])).measures
    assert measures["loglikelihoods"] == pytest.approx([-3, -1, -4, -2])
    assert measures.keys() == {"loglikelihoods", "acc,none", "acc_norm,none"}
    json.dumps(measures, allow_nan=False)


def test_a_generation_goes_through_the_tasks_filters(suite, tokenizer):
    (example,) = draw(suite, "gsm8k", tokenizer, 1)
    assert example.stop == ("Question:", "</s>", "<|im_end|>")
    assert example.max_new_tokens == 256
    score = suite.score("gsm8k", example, Output(text=" The answer is 18."))
    assert score.value == 0
    assert score.measures == {"exact_match,strict-match": 0.0, "exact_match,flexible-extract": 1.0}
    flexible = LmEval(data_dir=suite.data_dir, metrics={"gsm8k": "exact_match,flexible-extract"}, num_fewshot=1)
    assert flexible.score("gsm8k", example, Output(text=" The answer is 18.")).value == 1
    assert suite.score("gsm8k", example, Output()).value == 0


def test_a_groups_samples_hold_each_subject_in_proportion():
    order = _order([10, 100, 890], 100)
    assert [sum(task == place for task, _ in order) for place in range(3)] == [1, 10, 89]
    assert _order([10, 100, 890], 30) == order[:30]
    for place in range(3):
        documents = [document for task, document in order if task == place]
        assert documents == list(range(len(documents)))
    assert sorted(_order([3, 5], 8)) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]


def test_mmlu_asks_many_subjects_with_five_examples_of_their_own(few_rows, tokenizer):
    examples = draw(Short(data_dir=str(few_rows)), "mmlu", tokenizer, 30)
    assert len({example.metadata["lm_eval_task"] for example in examples}) > 15
    text = tokenizer.decode(examples[0].segments[0].token_ids)
    assert text.startswith("The following are multiple choice questions (with answers) about professional law.")
    assert text.count("Answer:") == 6
    assert [tokenizer.decode(segment.token_ids[-1:]) for segment in examples[0].segments] == [" A", " B", " C", " D"]


def test_few_shot_examples_follow_the_seed_and_nothing_else(few_rows, tokenizer):
    suite = LmEval(data_dir=str(few_rows), num_fewshot=2)
    first = draw(suite, "arc_easy", tokenizer, 4)
    assert draw(suite, "arc_easy", tokenizer, 4, seed=1)[0].segments != first[0].segments
    one, two = (suite.examples("arc_easy", seq_len=LONG, n=4, seed=0, tokenizer=tokenizer) for _ in range(2))
    pairs = list(zip(one, two, strict=True))
    assert pairs == [(example, example) for example in first]


def test_a_long_document_is_given_whole_for_the_run_to_record_as_truncated(suite, tokenizer):
    examples = draw(suite, "boolq", tokenizer, 10)
    lengths = [example.n_tokens for example in examples]
    seq_len = sorted(lengths)[5]
    again = draw(suite, "boolq", tokenizer, 10, seq_len=seq_len)
    assert [example.segments for example in again] == [example.segments for example in examples]
    assert sum(example.n_tokens > seq_len for example in again) == 4


def test_a_length_no_document_fits_is_refused(suite, tokenizer):
    shortest = suite.shortest("boolq", tokenizer)
    assert shortest == min(example.n_tokens for example in draw(suite, "boolq", tokenizer, 20))
    with pytest.raises(
        RequestError, match=f"a length of {shortest - 1} tokens is too short, the shortest is {shortest}"
    ):
        suite.examples("boolq", seq_len=shortest - 1, n=1, seed=0, tokenizer=tokenizer)


def test_an_answer_is_scored_alike_in_another_process(suite, tokenizer):
    (example,) = draw(suite, "arc_easy", tokenizer, 1)
    output = oracle(suite, "arc_easy", example)
    fresh = pickle.loads(pickle.dumps(suite))
    assert fresh == suite
    assert fresh.score("arc_easy", example, output) == suite.score("arc_easy", example, output)


def test_short_small_asks_perplexity_too(few_rows, tokenizer):
    suite = ShortSmall(data_dir=str(few_rows))
    (example,) = draw(suite, "docs_whole", tokenizer, 1, seq_len=256)
    assert example.n_tokens == 256
    assert suite.shortest("docs_whole", tokenizer) < 256
    count = len(example.segments[0].token_ids) - example.segments[0].n_context
    score = suite.score("docs_whole", example, answered(example, [-2.0 * count]))
    assert score.value == pytest.approx(math.exp(-2))
    assert suite.metric("docs_whole").kind == "likelihood"
    assert suite.artifacts("docs_whole")


class TestRolling:
    PAGES = (
        "The sea was calm . It was a fine day , and nobody @-@ not even the cook @-@ said a word . " * 6,
        "Short page .",
    )

    @pytest.fixture
    def suite(self, tmp_path):
        folder = tmp_path / "EleutherAI/wikitext_document_level/wikitext-2-raw-v1"
        folder.mkdir(parents=True)
        (folder / "test.jsonl").write_text("".join(json.dumps({"page": page}) + "\n" for page in self.PAGES))
        return LmEval(data_dir=str(tmp_path))

    def test_each_token_is_scored_once_in_windows_of_the_length(self, suite, tokenizer):
        first, second = draw(suite, "wikitext", tokenizer, 2, seq_len=32)
        assert {len(segment.token_ids) for segment in first.segments} == {32}
        scored = [token for s in first.segments for token in s.token_ids[s.n_context :]]
        whole = draw(suite, "wikitext", tokenizer, 1)[0].segments
        assert len(whole) == 1
        assert tuple(scored) == whole[0].token_ids[1:]
        assert second.n_tokens < 32

    def test_it_scores_likelihood_and_keeps_lm_evals_numbers(self, suite, tokenizer):
        (example,) = draw(suite, "wikitext", tokenizer, 1, seq_len=64)
        counts = [len(segment.token_ids) - segment.n_context for segment in example.segments]
        score = suite.score("wikitext", example, answered(example, [-0.5 * count for count in counts]))
        assert score.value == pytest.approx(math.exp(-0.5))
        assert score.measures["n_scored_tokens"] == sum(counts)
        loglikelihood, words = score.measures["word_perplexity,none"]
        assert loglikelihood == pytest.approx(-0.5 * sum(counts))
        assert words == len(self.PAGES[0].split(" "))


class TestChat:
    TEMPLATE = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )

    def test_a_tokenizer_without_a_template_is_refused(self, few_rows, tokenizer):
        suite = LmEval(data_dir=str(few_rows), chat_template=True)
        with pytest.raises(RequestError, match="the model's tokenizer has no chat template"):
            draw(suite, "piqa", tokenizer)

    @pytest.mark.parametrize("multiturn", [False, True])
    def test_prompts_go_through_the_template(self, few_rows, tokenizer, monkeypatch, multiturn):
        monkeypatch.setattr(tokenizer, "chat_template", self.TEMPLATE)
        suite = LmEval(
            data_dir=str(few_rows), chat_template=True, system_instruction="Be brief.", num_fewshot=1,
            fewshot_as_multiturn=multiturn,
        )  # fmt: skip
        (example,) = draw(suite, "arc_easy", tokenizer, 1)
        text = tokenizer.decode(example.segments[0].token_ids)
        assert text.startswith("<system>Be brief.")
        assert text.count("<user>") == (2 if multiturn else 1)
        assert "<assistant>Planetary" in text or "</user><assistant>" in text
