"""The same documents under lm-eval's own HFLM and under the suite: the same numbers."""

import pytest

from harness.types import Output
from tasks.short.suite import LmEval
from tests.tasks.short.reference import evaluate

LONG = 100_000


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        yield


@pytest.fixture(scope="module")
def hflm(tiny_llama):
    from lm_eval.models.huggingface import HFLM

    # HFLM cuts prompts on the left to the model's window of 512: here it may read all of them.
    return HFLM(pretrained=tiny_llama.hf, tokenizer=tiny_llama.tokenizer, max_length=8192, batch_size=4)


def ours(suite, task, model, n, seq_len=LONG):
    """(example, output, score) of the suite's first samples."""
    rows = []
    for example in suite.examples(task, seq_len=seq_len, n=n, seed=0, tokenizer=model.tokenizer):
        output = model.answer(example)
        rows.append((example, output, suite.score(task, example, output)))
    return rows


def theirs(results, task, filter_name="none"):
    found = [sample for sample in results["samples"][task] if sample["filter"] == filter_name]
    return sorted(found, key=lambda sample: sample["doc_id"])


def same_choices(rows, samples):
    """Equal log-likelihoods for every choice, and every metric of every document equal."""
    assert len(rows) == len(samples)
    for (example, _, score), sample in zip(rows, samples, strict=True):
        expected = [float(response[0][0]) for response in sample["resps"]]
        assert score.measures["loglikelihoods"] == pytest.approx(expected, abs=1e-3), example.id
        for metric in sample["metrics"]:
            assert score.measures[f"{metric},none"] == pytest.approx(sample[metric], abs=1e-3), (example.id, metric)


SUBJECTS = ("mmlu_abstract_algebra", "mmlu_global_facts", "mmlu_medical_genetics")


def test_three_whole_mmlu_subjects_give_hflms_loglikelihoods_and_accuracy(tiny_llama, hflm, data_dir, tmp_path):
    results = evaluate(hflm, SUBJECTS, tmp_path, data_dir, num_fewshot=0, limit=None)
    suite = LmEval(data_dir=str(data_dir))
    for subject in SUBJECTS:
        rows = ours(suite, subject, tiny_llama, n=100)
        same_choices(rows, theirs(results, subject))
        assert sum(score.value for *_, score in rows) / 100 == pytest.approx(results["results"][subject]["acc,none"])


def test_five_shot_mmlu_gives_hflms_loglikelihoods(tiny_llama, hflm, data_dir, tmp_path):
    results = evaluate(hflm, SUBJECTS, tmp_path, data_dir, num_fewshot=5, limit=2)
    suite = LmEval(data_dir=str(data_dir), num_fewshot=5)
    for subject in SUBJECTS:
        same_choices(ours(suite, subject, tiny_llama, n=2), theirs(results, subject))


@pytest.mark.parametrize(
    ("n", "tasks"),
    [
        (6, ("hellaswag", "piqa", "winogrande", "lambada_openai")),
        (3, ("truthfulqa_mc1", "truthfulqa_mc2", "boolq")),
    ],
)
def test_a_slice_of_each_task_gives_hflms_loglikelihoods_and_metrics(tiny_llama, hflm, data_dir, tmp_path, n, tasks):
    results = evaluate(hflm, tasks, tmp_path, data_dir, num_fewshot=0, limit=n)
    suite = LmEval(data_dir=str(data_dir))
    for task in tasks:
        rows = ours(suite, task, tiny_llama, n)
        same_choices(rows, theirs(results, task))
        name = suite.metric(task).name
        assert sum(score.value for *_, score in rows) / n == pytest.approx(results["results"][task][name], abs=1e-3)


def test_few_shot_examples_are_the_ones_lm_eval_draws(tiny_llama, hflm, data_dir, tmp_path):
    results = evaluate(hflm, ["arc_easy"], tmp_path, data_dir, num_fewshot=3, limit=3)
    rows = ours(LmEval(data_dir=str(data_dir), num_fewshot=3), "arc_easy", tiny_llama, 3)
    samples = theirs(results, "arc_easy")
    same_choices(rows, samples)
    read = [tiny_llama.tokenizer.decode(example.segments[0].token_ids) for example, *_ in rows]
    assert read == [sample["arguments"][0][0] + sample["arguments"][0][1] for sample in samples]


@pytest.mark.parametrize("multiturn", [False, True])
def test_chat_prompts_are_lm_evals(tiny_llama, hflm, data_dir, tmp_path, monkeypatch, multiturn):
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
    )
    monkeypatch.setattr(tiny_llama.tokenizer, "chat_template", template)
    settings = {"system_instruction": "Be brief.", "fewshot_as_multiturn": multiturn}
    results = evaluate(
        hflm, ["arc_easy"], tmp_path, data_dir, num_fewshot=2, limit=2, apply_chat_template=True, **settings
    )
    suite = LmEval(data_dir=str(data_dir), num_fewshot=2, chat_template=True, **settings)
    same_choices(ours(suite, "arc_easy", tiny_llama, 2), theirs(results, "arc_easy"))


def test_rolling_windows_are_hflms(tiny_llama, tmp_path):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from harness.lm_eval_bridge import LongreachLM
    from methods.vanilla import Vanilla

    text = "The quick brown fox jumps over the lazy dog, and the dog sleeps on. " * 20
    requests = [Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=0)]
    # HFLM counts the tokens it reads; the last one of a window is predicted and never read.
    expected = HFLM(pretrained=tiny_llama.hf, tokenizer=tiny_llama.tokenizer, max_length=99, batch_size=1)
    found = LongreachLM(tiny_llama, Vanilla(), max_length=100)
    assert found.loglikelihood_rolling(requests) == pytest.approx(expected.loglikelihood_rolling(requests), abs=1e-2)


def test_generations_and_their_filters_are_hflms(tiny_llama, hflm, data_dir, tmp_path):
    results = evaluate(hflm, ["gsm8k"], tmp_path, data_dir, num_fewshot=2, limit=2)
    rows = ours(LmEval(data_dir=str(data_dir), num_fewshot=2), "gsm8k", tiny_llama, 2)
    for kind in ("strict-match", "flexible-extract"):
        for (_, output, score), sample in zip(rows, theirs(results, "gsm8k", kind), strict=True):
            assert output.text == sample["resps"][0][0]
            assert score.measures[f"exact_match,{kind}"] == sample["exact_match"]


def test_our_model_as_an_lm_gives_lm_eval_the_same_results_as_hflm(tiny_llama, hflm, data_dir, tmp_path):
    from lm_eval.api.instance import Instance

    from harness.lm_eval_bridge import LongreachLM
    from methods.vanilla import Vanilla

    tasks = ("piqa", "lambada_openai")
    model = LongreachLM(tiny_llama, Vanilla(), max_length=8192)
    found = evaluate(model, tasks, tmp_path, data_dir, num_fewshot=0, limit=2)
    expected = evaluate(hflm, tasks, tmp_path, data_dir, num_fewshot=0, limit=2)
    for task in tasks:
        for name, value in expected["results"][task].items():
            if isinstance(value, float):
                assert found["results"][task][name] == pytest.approx(value, rel=1e-3), (task, name)
    prompts = [
        Instance(request_type="generate_until", doc={}, arguments=(text, {"until": ["."], "max_gen_toks": 24}), idx=0)
        for text in ("Once upon a time", "The capital of France is", "x")
    ]
    assert model.generate_until(prompts) == hflm.generate_until(prompts)


def test_a_silent_generation_scores_zero(data_dir, tiny_llama):
    suite = LmEval(data_dir=str(data_dir), num_fewshot=0)
    (example,) = suite.examples("gsm8k", seq_len=LONG, n=1, seed=0, tokenizer=tiny_llama.tokenizer)
    assert suite.score("gsm8k", example, Output()).value == 0
