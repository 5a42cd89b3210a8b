"""LongBench v2: which questions are asked, and what an answer scores."""

import gzip
import json

import pytest

from harness.errors import RequestError
from harness.types import Example, Output
from tasks.base import Suite
from tasks.longbench.v2 import FILE, REPO, REVISION, LongBenchV2
from tests.tasks.longbench.rows import row_v2, with_chat, write_rows


@pytest.fixture
def folder(tmp_path):
    rows = [
        row_v2(f"r{i}", length=("short", "medium", "long")[i % 3], difficulty=("easy", "hard")[i % 2])
        for i in range(12)
    ]
    write_rows(tmp_path / "data.jsonl", rows)
    return tmp_path


def test_it_is_a_suite_whose_chance_is_a_quarter():
    suite = LongBenchV2()
    assert isinstance(suite, Suite)
    assert suite.metric("all").chance == 0.25
    assert (suite.metric("all").kind, LongBenchV2(compensated=True).metric("all").kind) == ("binary", "graded")
    with pytest.raises(RequestError, match="unknown longbench-v2 task 'shor': did you mean 'short'"):
        suite.check("shor")


def test_tasks_are_the_questions_of_a_length_or_a_difficulty(folder, byte_tokenizer):
    suite = LongBenchV2(data_dir=str(folder))
    sizes = {task: suite.n_available(task) for task in ("short", "medium", "long", "easy", "hard", "all")}
    assert sizes == {"short": 4, "medium": 4, "long": 4, "easy": 6, "hard": 6, "all": 12}
    for example in suite.examples("hard", seq_len=4096, n=6, seed=0, tokenizer=byte_tokenizer):
        assert example.metadata["difficulty"] == "hard"
    with pytest.raises(RequestError, match="'hard' has 6 rows, n_samples = 7"):
        list(suite.examples("hard", seq_len=4096, n=7, seed=0, tokenizer=byte_tokenizer))


def test_rows_stored_otherwise_are_the_same_rows(folder, tmp_path):
    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text(encoding="utf-8").splitlines()]
    other = tmp_path / "other"
    other.mkdir()
    (other / "data.json.gz").write_bytes(gzip.compress(json.dumps(rows, indent=1).encode()))
    write_rows(other / "short.jsonl", [row for row in rows if row["length"] == "short"])
    for task in ("short", "easy", "all"):
        assert LongBenchV2(data_dir=str(other)).artifacts(task) == LongBenchV2(data_dir=str(folder)).artifacts(task)


def test_the_prompt_is_the_authors_with_stripped_fields(folder, byte_tokenizer):
    (example,) = LongBenchV2(data_dir=str(folder)).examples(
        "short", seq_len=4096, n=1, seed=0, tokenizer=byte_tokenizer
    )
    text = byte_tokenizer.decode(example.prompt_ids)
    assert text.startswith("Please read the following text and answer the question below.\n\n<text>\nText r")
    assert (
        "What is the correct answer to this question: Which colour has the door?\nChoices:\n(A) red\n(B) green\n"
        in text
    )
    assert text.endswith('Format your response as follows: "The correct answer is (insert answer here)".')
    assert example.max_new_tokens == 128
    assert example.answers == ("B",)


@pytest.mark.parametrize("max_length", ["thudm", "fill"])
@pytest.mark.parametrize("prompt", ["base", "chat"])
def test_a_cut_prompt_keeps_both_ends_and_fits(tmp_path, bos_tokenizer, prompt, max_length):
    write_rows(tmp_path / "short.jsonl", [row_v2(context="The rain fell on the hills all day. " * 4000)])
    tokenizer = with_chat(bos_tokenizer)
    suite = LongBenchV2(data_dir=str(tmp_path), prompt=prompt, max_length=max_length)
    shortest = suite.shortest("short", tokenizer)
    for seq_len in (shortest, 4096, 8192):
        (example,) = suite.examples("short", seq_len=seq_len, n=1, seed=0, tokenizer=tokenizer)
        assert example.metadata["truncated"]
        assert example.n_tokens <= seq_len
        text = tokenizer.decode(example.prompt_ids, skip_special_tokens=True)
        assert "Please read the following" in text[:40]
        assert 'as follows: "The correct answer is (insert answer here)".' in text[-80:]
    if max_length == "thudm":
        assert example.metadata["n_kept_tokens"] == 7500
    with pytest.raises(RequestError, match=f"shortest is {shortest}"):
        list(suite.examples("short", seq_len=shortest - 1, n=1, seed=0, tokenizer=tokenizer))


def test_right_wrong_and_no_choice():
    example = Example(id="x", answers=("B",))
    answers = {
        "The correct answer is (B).": (1, 1),
        "**The correct answer is A**": (0, 0),
        "B": (0, 0.25),
        "": (0, 0.25),
    }
    for text, (exact, compensated) in answers.items():
        for suite, value in ((LongBenchV2(), exact), (LongBenchV2(compensated=True), compensated)):
            score = suite.score("all", example, Output(text=text))
            assert score.value == value
            assert (score.measures["exact"], score.measures["compensated"]) == (exact, compensated)


def test_an_oracle_scores_one_on_every_real_question(data_dir):
    suite = LongBenchV2(data_dir=str(data_dir / "longbench_v2"))
    suite.check("short")
    assert suite.n_available("short") == 180
    for letter in "ABCD":
        output = Output(text=f"The correct answer is ({letter}).")
        assert suite.score("short", Example(id="x", answers=(letter,)), output).value == 1
    with pytest.raises(RequestError, match=r"should hold easy\.jsonl.* or data\.jsonl"):
        suite.check("easy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "E"}, "row 2: 'answer' is 'E', it should be one of A, B, C, D"),
        ({"answer": None}, "row 2: 'answer' should be a text, it is null"),
        ({"difficulty": "Hard"}, "row 2: 'difficulty' is 'Hard'"),
        ({"choice_C": ["x"]}, "row 2: 'choice_C' should be a text, it is a list"),
        ({"length": "long"}, ": 1 of its 2 rows have length = 'short', which short is"),
        ({"_id": "a"}, "row 2: '_id' = 'a' is also that of .*row 1"),
    ],
)
def test_a_row_with_a_wrong_schema_is_named(tmp_path, changes, message):
    write_rows(tmp_path / "short.jsonl", [row_v2("a"), row_v2("b", **changes)])
    with pytest.raises(RequestError, match=f"short.jsonl(, )?{message}"):
        LongBenchV2(data_dir=str(tmp_path)).check("short")


def test_the_hub_is_named_when_it_cannot_be_reached(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RequestError, match="HF_HUB_OFFLINE is set") as raised:
        LongBenchV2().check("short")
    for part in (REPO, FILE, REVISION, "data_dir"):
        assert part in str(raised.value)
