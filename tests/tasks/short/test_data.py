"""Documents from a folder or the Hub: the right ones, or one line that says what is wrong with which row."""

import gzip
import json
import shutil

import pytest

from harness.errors import RequestError
from tasks.short.data import REVISIONS
from tasks.short.lists import Short
from tasks.short.suite import LmEval

PIQA = [{"goal": f"goal {i}", "sol1": "yes", "sol2": "no", "label": i % 2} for i in range(6)]


COMMIT = "0123456789abcdef" * 2 + "01234567"


def folder_with(tmp_path, rows=None, *, raw=None, place="short/piqa/validation.jsonl"):
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw if raw is not None else b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    return path


def draw(suite, task, tokenizer, n=3):
    return list(suite.examples(task, seq_len=4096, n=n, seed=0, tokenizer=tokenizer))


def refusal(function, *args, **kwargs) -> str:
    with pytest.raises(RequestError) as raised:
        function(*args, **kwargs)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def with_row(index, row):
    rows = list(PIQA)
    rows[index] = row
    return rows


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (with_row(2, {"goal": "g", "sol1": "a", "sol2": "b"}), "row 3 lacks 'label'"),
        (with_row(2, {**PIQA[2], "odd": 1}), "row 3 has 'odd'"),
        (with_row(3, {**PIQA[3], "label": None}), "row 4 has no 'label': it is null"),
        (with_row(1, {**PIQA[1], "label": 2}), "row 2: ValueError: its answer 2 is none of its 2 choices"),
        (with_row(1, [1, 2]), "row 2 is list, it should be a JSON object"),
        ([{"question": "q", "answer": "a"}] * 3, "is not what the task reads: UndefinedError: 'goal' is undefined"),
        ([], "is empty"),
    ],
)
def test_a_wrong_row_is_named_and_nothing_is_asked(tmp_path, tokenizer, rows, says):
    path = folder_with(tmp_path, rows)
    message = refusal(draw, LmEval(data_dir=str(tmp_path)), "piqa", tokenizer)
    assert says in message
    assert str(path) in message


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b'{"goal": "g"}\n{"goal": "\xff"}\n', "row 2 is no valid UTF-8 (byte 10)"),
        (b'{"goal": "g"}\n{"goal":\n', "row 2 is no JSON document"),
    ],
)
def test_a_line_that_is_no_document_is_named(tmp_path, tokenizer, raw, says):
    path = folder_with(tmp_path, raw=raw)
    assert f"{path}: {says}" in refusal(draw, LmEval(data_dir=str(tmp_path)), "piqa", tokenizer)


def test_a_gzip_file_cut_short_is_named(few_rows, tmp_path, tokenizer):
    whole = (few_rows / "short/piqa/validation.jsonl.gz").read_bytes()
    path = folder_with(tmp_path, raw=whole[: len(whole) // 2], place="short/piqa/validation.jsonl.gz")
    assert f"{path} is no whole gzip file" in refusal(draw, LmEval(data_dir=str(tmp_path)), "piqa", tokenizer)


def test_an_answer_that_is_empty_is_named(tmp_path, tokenizer):
    rows = [{"question": "q", "answer": "#### 1"}, {"question": "q", "answer": ""}]
    path = folder_with(tmp_path, rows, place="short/gsm8k/test.jsonl")
    message = refusal(draw, LmEval(data_dir=str(tmp_path), num_fewshot=0), "gsm8k", tokenizer, n=2)
    assert f"{path}: row 2: ValueError: it has no answer" in message


def test_a_file_that_is_not_there_is_named_before_anything_is_built(tmp_path):
    message = refusal(LmEval(data_dir=str(tmp_path)).check, "piqa")
    assert str(tmp_path / "short/piqa/validation.jsonl.gz") in message


def test_few_shot_examples_that_are_not_there_are_named(data_dir):
    message = refusal(Short(data_dir=str(data_dir)).check, "hellaswag")
    assert f"{data_dir / 'short/hellaswag/train'}.jsonl.gz for its 10 few-shot examples" in message
    Short(data_dir=str(data_dir), num_fewshot={"hellaswag": 0}).check("hellaswag")


def test_a_subject_without_rows_is_named(tmp_path, tokenizer):
    rows = [{"question": "q", "subject": "anatomy", "choices": ["a", "b", "c", "d"], "answer": 1}]
    for split in ("dev", "test"):
        path = folder_with(tmp_path, rows, place=f"mmlu/{split}.jsonl")
    message = refusal(draw, LmEval(data_dir=str(tmp_path)), "mmlu_virology", tokenizer)
    assert f"{path} has no row whose subject is 'virology'" in message


def test_more_samples_than_documents_are_refused(few_rows, tokenizer):
    message = refusal(draw, LmEval(data_dir=str(few_rows)), "piqa", tokenizer, n=41)
    assert "'piqa' has 40 documents: n_samples = 41" in message


class FakeBuilder:
    """What `datasets` gives for a repository."""

    def __init__(self, revision):
        self.hash = revision

    def download_and_prepare(self):
        pass

    def as_dataset(self):
        import datasets

        return {split: datasets.Dataset.from_list(PIQA) for split in ("train", "validation")}


def test_a_hub_data_set_is_read_at_its_pinned_revision(monkeypatch, tokenizer):
    asked = []

    def load_dataset_builder(path, name, *, revision):
        asked.append((path, name, revision))
        return FakeBuilder(revision)

    monkeypatch.setattr("datasets.load_dataset_builder", load_dataset_builder)
    assert len(draw(LmEval(), "piqa", tokenizer, n=6)) == 6
    draw(LmEval(revisions={"baber/piqa": COMMIT}), "piqa", tokenizer)
    assert asked == [("baber/piqa", None, REVISIONS["baber/piqa"]), ("baber/piqa", None, COMMIT)]


def test_another_revision_in_the_cache_is_refused(monkeypatch, tokenizer):
    monkeypatch.setattr("datasets.load_dataset_builder", lambda *args, **settings: FakeBuilder(COMMIT))
    assert f"the cache has commit {COMMIT} of it" in refusal(draw, LmEval(), "piqa", tokenizer)


def test_a_downloaded_snapshot_is_enough_without_a_network(monkeypatch, tmp_path, tokenizer):
    snapshot = tmp_path / "datasets--baber--piqa" / "snapshots" / REVISIONS["baber/piqa"]
    for split in ("train", "validation"):
        folder_with(snapshot, PIQA, place=f"{split}.jsonl")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "prepared"))
    LmEval().check("piqa")
    examples = draw(LmEval(), "piqa", tokenizer, n=6)
    assert [example.answers for example in examples] == [("yes",), ("no",)] * 3


def test_a_data_set_that_cannot_be_fetched_says_what_and_where_to_put_it(monkeypatch, tokenizer):
    def load_dataset_builder(*args, **settings):
        raise ConnectionError("Couldn't reach\nthe Hub")

    monkeypatch.setattr("datasets.load_dataset_builder", load_dataset_builder)
    for message in (refusal(LmEval().check, "piqa"), refusal(draw, LmEval(), "piqa", tokenizer)):
        assert f"hf download --repo-type dataset baber/piqa --revision {REVISIONS['baber/piqa']}" in message
        assert "short/piqa/<split>.jsonl.gz" in message


def test_a_data_set_without_a_pinned_revision_asks_for_one(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    message = refusal(LmEval().check, "triviaqa")
    assert 'revisions = {"mandarjoshi/trivia_qa" = "<commit>"}' in message
    LmEval(revisions={"mandarjoshi/trivia_qa": COMMIT}).check("triviaqa")
    with pytest.raises(ValueError, match="it should be a whole commit"):
        LmEval(revisions={"mandarjoshi/trivia_qa": "main"})


def test_what_a_sample_is_made_from_is_part_of_its_identity(few_rows, tmp_path):
    there = LmEval(data_dir=str(few_rows))
    shutil.copytree(few_rows / "short" / "piqa", tmp_path / "short" / "piqa")
    here = LmEval(data_dir=str(tmp_path))
    assert here.artifacts("piqa") == there.artifacts("piqa")  # where the files lie does not matter
    assert here.artifacts("piqa") != LmEval(data_dir=str(tmp_path), metrics={"piqa": "acc"}).artifacts("piqa")
    assert LmEval().artifacts("piqa") != LmEval(revisions={"baber/piqa": COMMIT}).artifacts("piqa")
    path = tmp_path / "short/piqa/validation.jsonl.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"guinea pig", b"hamster")))
    assert here.artifacts("piqa") != there.artifacts("piqa")
