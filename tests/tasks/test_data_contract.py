"""What every suite that reads a data set keeps to; suites that make their own samples stand in test_contract."""

import random
from itertools import islice

import pytest

from harness.catalogue import resolve
from harness.errors import RequestError
from tasks import CATALOGUE
from tasks.base import Suite
from tests.tasks.test_contract import SUITES

# Per suite: the folder of its data, settings, tasks, and a length that holds them.
DATA_SUITES = {
    "ruler-nvidia": ("ruler", {}, ["niah_multikey_3", "cwe", "qa_1"], 1500),
    "ruler-fixed": ("ruler", {}, ["vt", "fwe", "qa_2"], 1500),
    "longbench-thudm": ("longbench", {}, ["multi_news", "samsum", "passage_retrieval_zh"], 4096),
    "longbench-v2": ("longbench_v2", {}, ["short"], 4096),
    "lm_eval": ("", {}, ["piqa"], 2048),
    "short": ("", {"num_fewshot": {"hellaswag": 0}}, ["hellaswag", "truthfulqa_mc2"], 2048),
    "short-small": ("", {}, ["arc_easy", "lambada_openai"], 2048),
}
CASES = [(name, task) for name, (_, _, tasks, _) in DATA_SUITES.items() for task in tasks]


def built(name, data_dir):
    folder, settings, _, _ = DATA_SUITES[name]
    for package in ("lm_eval", "wonderwords", "jieba"):
        pytest.importorskip(package, reason="needs the extra `suites`")
    return resolve("suite", name)(data_dir=str(data_dir / folder), **settings)


def drawn(suite, name, task, tokenizer, n, seed=0):
    return list(islice(suite.examples(task, seq_len=DATA_SUITES[name][3], n=n, seed=seed, tokenizer=tokenizer), n))


def test_every_suite_of_the_catalogue_has_a_contract():
    assert set(SUITES) | set(DATA_SUITES) == set(CATALOGUE)


@pytest.mark.parametrize("name", DATA_SUITES)
def test_it_is_a_suite_and_refuses_an_unknown_task_with_a_suggestion(name, data_dir):
    suite = built(name, data_dir)
    assert isinstance(suite, Suite)
    task = DATA_SUITES[name][2][0]
    with pytest.raises(RequestError, match=f"'{task}x'.*did you mean"):
        suite.check(task + "x")


@pytest.mark.parametrize(("name", "task"), CASES)
def test_a_task_says_what_its_score_and_its_texts_are(name, task, data_dir):
    suite = built(name, data_dir)
    suite.check(task)
    assert 0 <= suite.metric(task).chance < 1
    artifacts = suite.artifacts(task)
    assert all(len(sha) == 64 for sha in artifacts.values())
    assert artifacts or task.startswith(("niah_single_1", "niah_multikey_3", "vt", "fwe", "cwe"))


@pytest.mark.parametrize(("name", "task"), CASES)
def test_samples_are_a_prefix_and_depend_on_nothing_but_their_key(name, task, data_dir, byte_tokenizer):
    suite = built(name, data_dir)
    state = random.getstate()
    some = drawn(suite, name, task, byte_tokenizer, 2)
    assert random.getstate() == state
    random.seed(17)
    again = drawn(suite, name, task, byte_tokenizer, 4)
    random.setstate(state)
    assert again[:2] == some
    assert len({example.id for example in again}) == 4
    assert min(example.n_tokens for example in again) > 0
