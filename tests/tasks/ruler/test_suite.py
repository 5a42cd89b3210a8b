"""What a sample of each task is, at any length, as a user meets it."""

import pickle
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from harness.errors import RequestError
from harness.types import Example, Output
from tasks.base import check_length
from tasks.ruler.prompts import Prompt
from tasks.ruler.qa_data import load
from tasks.ruler.sample import authors_shuffle, drawn_shuffle
from tasks.ruler.spec import TASKS, QaTask
from tasks.ruler.suite import RulerFixed, RulerNvidia

SUITES = {suite.name: suite for suite in (RulerNvidia, RulerFixed)}


@pytest.fixture(params=SUITES)
def suite(request, questions):
    return SUITES[request.param](data_dir=questions)


def draw(suite, task, tokenizer, *, seq_len=1024, n=2, seed=0) -> list[Example]:
    return list(suite.examples(task, seq_len=seq_len, n=n, seed=seed, tokenizer=tokenizer))


def text(example, tokenizer) -> str:
    return tokenizer.decode(example.prompt_ids)


def test_samples_fill_the_length_and_never_exceed_it(suite, task, tokenizer):
    for seq_len in (suite.shortest(task, tokenizer), 1024, 4096):
        examples = draw(suite, task, tokenizer, seq_len=seq_len, n=3)
        assert len({example.id for example in examples}) == 3
        for example in examples:
            assert example.max_new_tokens == TASKS[task].n_new_tokens
            assert (0.95 * seq_len if seq_len >= 4096 else 0) <= example.n_tokens <= seq_len


@pytest.mark.parametrize("task", ["qa_1", "qa_2"])
@pytest.mark.parametrize("seq_len", [4096, 16384])
def test_real_questions_fill_the_length(data_dir, byte_tokenizer, task, seq_len):
    suite = RulerNvidia(data_dir=str(data_dir / "ruler"))
    for example in draw(suite, task, byte_tokenizer, seq_len=seq_len, n=3):
        assert 0.95 * seq_len <= example.n_tokens <= seq_len


def test_a_sample_depends_on_nothing_but_its_key(suite, task, byte_tokenizer):
    seq_len = 700
    some, more = (draw(suite, task, byte_tokenizer, n=n, seq_len=seq_len) for n in (2, 4))
    assert more[:2] == some
    assert draw(pickle.loads(pickle.dumps(suite)), task, byte_tokenizer, n=2, seq_len=seq_len) == some
    other = draw(suite, task, byte_tokenizer, n=2, seed=1, seq_len=seq_len)
    assert [example.prompt_ids for example in other] != [example.prompt_ids for example in some]


def test_a_perfect_answer_scores_1_and_silence_0(suite, task, byte_tokenizer):
    for example in draw(suite, task, byte_tokenizer):
        assert suite.score(task, example, Output(text=" " + ", ".join(example.answers) + ".")).value == 1
        assert suite.score(task, example, Output(text="")).value == 0


def test_one_reference_is_right_or_wrong_several_are_a_share():
    suite = RulerNvidia()
    kinds = {task: suite.metric(task).kind for task in suite.tasks()}
    graded = {task for task, kind in kinds.items() if kind == "graded"}
    assert graded == {"niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe"}
    example = Example(id="x", answers=("a1", "b2", "c3", "d4"))
    assert suite.score("niah_multivalue", example, Output(text="b2 and A1")).value == 0.5
    assert suite.score("qa_1", example, Output(text="b2 and A1")).value == 1


# What is in a prompt


def test_needles(task, questions, byte_tokenizer):
    if not task.startswith("niah"):
        return
    spec = TASKS[task]
    for example in draw(RulerNvidia(), task, byte_tokenizer):
        prompt, keys = text(example, byte_tokenizer), example.metadata["keys"]
        found = re.findall(rf"One of the special magic {spec.value} for (\S+) is: (\S+)\.", prompt)
        if spec.haystack == "needle":
            assert len(found) > 2
        else:
            assert len(found) == spec.n_keys * spec.n_values
        assert [value for key in keys for value in example.answers if (key, value) in found] == list(example.answers)
        assert len(keys) == spec.n_queries
        assert 0 <= example.metadata["depth_fraction"] <= 1
        plural = spec.n_answers > 1
        assert prompt.startswith(("Some" if plural else "A") + " special magic")
        noun = spec.value if plural else spec.value[:-1]
        query = ", ".join(keys[:-1]) + ", and " + keys[-1] if len(keys) > 1 else keys[0]
        ending = f" The special magic {noun} for {query} mentioned in the provided text {'are' if plural else 'is'}"
        assert prompt.endswith("?" + ending)


def test_the_chain_can_be_followed(byte_tokenizer):
    for seq_len, n_prompts in ((4096, 2), (600, 1)):
        for example in draw(RulerNvidia(), "vt", byte_tokenizer, seq_len=seq_len):
            prompt = text(example, byte_tokenizer)
            assert prompt.count("Memorize and track") == n_prompts
            chain = re.findall(r"VAR ([A-Z]{5}) = (?:VAR )?([A-Z]{5}|\d{5})", prompt)
            assert [name for name, _ in chain] == list(example.answers)
            value, names = chain[0][1], [name for name, _ in chain]
            assert [before for _, before in chain] == [value, *names[:-1]]
            assert prompt.endswith(f" 5 variables are assigned the value {value}, they are: ")


def _lists(prompt: str) -> list[list[str]]:
    """The numbered lists of a prompt."""
    lists = []
    for found in re.findall(r"most often\.\n(.*)\nQuestion", prompt):
        numbers, words = zip(*re.findall(r"(\d+)\. (.*?)(?= \d+\. |$)", found), strict=True)
        assert list(map(int, numbers)) == list(range(1, len(numbers) + 1))
        lists.append(list(words))
    return lists


@pytest.mark.parametrize(
    ("seq_len", "repeats", "shot"), [(4096, (30, 3), (40, 10, 3)), (2048, (6, 1), (20, 3, 1)), (700, (6, 1), None)]
)
def test_common_words_are_the_most_common(byte_tokenizer, seq_len, repeats, shot):
    for example in draw(RulerNvidia(), "cwe", byte_tokenizer, seq_len=seq_len):
        *shots, words = _lists(text(example, byte_tokenizer))
        counts = Counter(words)
        assert {word for word, _ in counts.most_common(10)} == set(example.answers)
        assert [n for _, n in counts.most_common()] == [repeats[0]] * 10 + [repeats[1]] * (len(counts) - 10)
        if shot is None:
            assert not shots
        else:
            assert sorted(Counter(shots[0]).values()) == [shot[2]] * (shot[0] - 10) + [shot[1]] * 10


@pytest.mark.parametrize("seq_len", [256, 300, 512, 1000, 4096, 20000])
def test_frequent_words_are_the_most_frequent(byte_tokenizer, seq_len):
    for example in draw(RulerNvidia(), "fwe", byte_tokenizer, seq_len=seq_len, n=4):
        body = text(example, byte_tokenizer).split("coded words. ", 1)[1].split("\nQuestion", 1)[0]
        ranked = Counter(body.split(" ")).most_common()
        assert ranked[0][0] == "..."
        assert {word for word, _ in ranked[1:4]} == set(example.answers)
        assert len(ranked) == 4 or ranked[3][1] > ranked[4][1]


@pytest.mark.parametrize(("task", "data"), [("qa_1", "squad"), ("qa_2", "hotpotqa")])
def test_documents_are_numbered_and_hold_the_answer(questions, byte_tokenizer, task, data):
    documents = load(data, questions)
    for seq_len in (600, 1500):
        for example, question in zip(
            draw(RulerNvidia(data_dir=questions), task, byte_tokenizer, seq_len=seq_len),
            documents.questions,
            strict=False,
        ):
            prompt = text(example, byte_tokenizer)
            numbers = list(map(int, re.findall(r"^Document (\d+):$", prompt, re.MULTILINE)))
            assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) == example.metadata["n_documents"]
            assert prompt.endswith(f"\n\nQuestion: {question.query} Answer:")
            assert example.answers == question.answers
            assert all(documents.documents[i] in prompt for i in question.needed)


def test_documents_repeat_where_there_are_too_few(questions, byte_tokenizer):
    (example,) = draw(RulerNvidia(data_dir=questions), "qa_1", byte_tokenizer, seq_len=8192, n=1)
    prompt = text(example, byte_tokenizer)
    assert prompt.count("Lot 00 was sold") > 1 and example.n_tokens > 0.98 * 8192


# Variants


def _places(suite, task, byte_tokenizer) -> set[tuple[int, ...]]:
    """Where the answers of samples of one size stand."""
    places: dict[int, set[tuple[int, ...]]] = {}
    for example in draw(suite, task, byte_tokenizer, seq_len=4096 if task == "cwe" else 600, n=8):
        if task == "cwe":
            words = _lists(text(example, byte_tokenizer))[-1]
            found = tuple(i for i, word in enumerate(words) if word in example.answers)
            places.setdefault(len(words), set()).add(found)
        else:
            found = (example.metadata["depth_fraction"],)
            places.setdefault(example.metadata["n_documents"], set()).add(found)
    return max(places.values(), key=len)


@pytest.mark.parametrize("task", ["cwe", "qa_1"])
def test_the_authors_variant_keeps_positions_the_fixed_one_draws_them(questions, byte_tokenizer, task):
    assert len(_places(RulerNvidia(data_dir=questions), task, byte_tokenizer)) == 1
    assert len(_places(RulerFixed(data_dir=questions), task, byte_tokenizer)) > 1


def test_shuffles():
    import random

    def shuffled(shuffle, rng):
        items = list(range(20))
        shuffle(rng, items)
        return items

    rng = random.Random(1)
    assert shuffled(authors_shuffle, rng) == shuffled(authors_shuffle, rng)
    assert shuffled(drawn_shuffle, rng) != shuffled(drawn_shuffle, rng)


# Chat

TEMPLATE = (
    "<s>{% for message in messages %}<|{{ message.role }}|>\n{{ message.content | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture
def chat_tokenizer(bos_tokenizer):
    bos_tokenizer.chat_template = TEMPLATE
    yield bos_tokenizer
    bos_tokenizer.chat_template = None


def test_a_chat_prompt_is_the_models_template_and_the_prefix_behind_its_header(task, questions, chat_tokenizer):
    suite = RulerNvidia(prompt="chat", data_dir=questions)
    for example in draw(suite, task, chat_tokenizer, seq_len=4096, n=1):
        prompt, n_turns = text(example, chat_tokenizer), 2 if task == "cwe" else 1
        user = re.search(r"<\|user\|>\n(.*?)</s>", prompt, re.DOTALL)[1]
        head = chat_tokenizer.apply_chat_template(
            [{"role": "user", "content": user}], tokenize=False, add_generation_prompt=True
        )
        assert head.replace(" ", "") in prompt.replace(" ", "")
        assert prompt.count("<|assistant|>") == n_turns
        assert re.search(r"<\|assistant\|>\n? *(The special|Answer:)[^\n]*$", prompt)
        assert 0.95 * 4096 <= example.n_tokens <= 4096
        assert example.prompt_ids.count(chat_tokenizer.bos_token_id) == n_turns
    bare = RulerNvidia(data_dir=questions)
    assert suite.shortest(task, chat_tokenizer) >= bare.shortest(task, chat_tokenizer)


def test_chat_without_a_template_is_refused_in_one_line(questions, byte_tokenizer):
    suite = RulerNvidia(prompt="chat", data_dir=questions)
    for ask in (suite.shortest, lambda task, tokenizer: draw(suite, task, tokenizer)):
        with pytest.raises(RequestError, match=r"prompt = 'chat'.*no chat template.*'base'"):
            ask("qa_1", byte_tokenizer)


def test_the_bos_is_counted_and_no_eos_ends_the_prompt(questions, bos_tokenizer):
    (example,) = draw(RulerNvidia(data_dir=questions), "niah_single_1", bos_tokenizer, n=1)
    assert example.prompt_ids[0] == bos_tokenizer.bos_token_id
    assert bos_tokenizer.eos_token_id not in example.prompt_ids


# Cost and refusals


def test_a_sample_costs_at_most_two_tokenizations(monkeypatch, questions, task, byte_tokenizer):
    passes, ids = [], Prompt.ids

    def counted(self, sample):
        found = ids(self, sample)
        passes.append(len(found))
        return found

    monkeypatch.setattr(Prompt, "ids", counted)
    n = 4 if isinstance(TASKS[task], QaTask) else 12
    draw(RulerNvidia(data_dir=questions), task, byte_tokenizer, seq_len=8192, n=n)
    estimates = 3
    assert sum(length > 6000 for length in passes) <= 2 * n + estimates


def test_a_length_below_the_shortest_is_refused(suite, task, byte_tokenizer):
    shortest = suite.shortest(task, byte_tokenizer)
    check_length(suite.name, task, seq_len=shortest, shortest=shortest)
    with pytest.raises(RequestError, match=f"{suite.name} task '{task}': a length of {shortest - 1} .* {shortest}"):
        draw(suite, task, byte_tokenizer, seq_len=shortest - 1)


def test_an_unknown_task_is_refused_with_a_suggestion(suite):
    with pytest.raises(RequestError, match=r"unknown RULER task 'niah_multikey3': did you mean 'niah_multikey_3'"):
        suite.check("niah_multikey3")


def test_more_samples_than_questions_are_refused(questions, byte_tokenizer):
    n = len(load("hotpotqa", questions).questions)
    with pytest.raises(RequestError, match=rf"{n + 1} samples .* has {n} questions that fit"):
        draw(RulerNvidia(data_dir=questions), "qa_2", byte_tokenizer, n=n + 1)


def test_artifacts_name_what_samples_are_made_from(suite, task):
    names = set(suite.artifacts(task))
    spec = TASKS[task]
    wanted = {"qa_1": {"squad"}, "qa_2": {"hotpotqa"}, "vt": set(), "fwe": set(), "cwe": {"words"}}.get(task, {"words"})
    assert names == wanted | ({"essays"} if getattr(spec, "haystack", "") == "essay" else set())
    assert all(len(sha) == 64 for sha in suite.artifacts(task).values())


def test_importing_the_suite_loads_no_model_library():
    code = (
        "import sys, tasks.ruler.suite; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'datasets')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False).returncode == 0
