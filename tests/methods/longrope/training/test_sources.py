"""What is read as a document, from where, and what cannot be."""

import gzip
import json
import lzma
import random
import re
from itertools import islice

import huggingface_hub
import numpy as np
import pytest
from transformers import AutoTokenizer

from harness.assets import tiny_llama
from harness.catalogue import build
from harness.errors import RequestError
from methods.longrope.training.prepare import DataPlan
from methods.longrope.training.sources import HubRows, JsonLines, TextFiles, find_source
from methods.longrope.training.synthetic import TinyLlamaRows
from tasks.haystack import evaluation_topics, load, training_docs
from tests.methods.longrope.training.corpora import tokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def tiny():
    return AutoTokenizer.from_pretrained(str(tiny_llama.Path(tiny_llama.__file__).parent / "tiny-llama"))


def read(source, start=0):
    return [document.token_ids_L.tolist() for document in source.documents(tokenizer(), start)]


def test_a_folder_gives_a_document_a_file_by_name_packed_or_not(tmp_path):
    (tmp_path / "c.txt").write_text("w30 w31\r\nw32\n")
    (tmp_path / "notes.md").write_text("w99")
    with lzma.open(tmp_path / "a.txt.xz", "wt") as file:
        file.write("w10")
    with gzip.open(tmp_path / "b.txt.gz", "wt") as file:
        file.write("w20 <s> w21")
    source = TextFiles(path=str(tmp_path))
    found = read(source)
    assert found[0] == [10]
    assert found[1][0] == 20 and found[1][-1] == 21
    assert 0 not in found[1]  # what looks like a BOS in a text is text
    assert found[2] == [30, 31, 32]
    assert read(source, 2) == found[2:]


def test_a_file_that_changed_is_another_source(tmp_path):
    (tmp_path / "a.txt").write_text("w10")
    before = TextFiles(path=str(tmp_path)).identity()
    (tmp_path / "a.txt").write_text("w10 w11")
    assert TextFiles(path=str(tmp_path)).identity() != before


def test_rows_of_json_give_a_document_each(tmp_path):
    rows = [{"text": "w10 w11"}, {"text": "", "id": 3}, {"text": "w12"}]
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(json.dumps({"text": "w13"}))
    assert read(JsonLines(path=str(tmp_path))) == [[10, 11], [], [12], [13]]
    assert read(JsonLines(path=str(tmp_path)), 2) == [[12], [13]]
    assert read(JsonLines(path=str(tmp_path / "a.jsonl"))) == [[10, 11], [], [12]]
    (tmp_path / "c.jsonl").write_text(json.dumps({"body": "w14"}))
    assert read(JsonLines(path=str(tmp_path / "c.jsonl"), text_field="body")) == [[14]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "w1"}\n{"tex', "row 2: "),
        ('{"body": "w1"}', "row 1: there is no 'text'; the row has body"),
        ('["w1"]', "row 1: should be an object"),
        ('{"text": 3}', "row 1: 'text' should be a text, it is 3"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, content, message):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(RequestError, match=r"a\.jsonl, row") as error:
        read(JsonLines(path=str(tmp_path / "a.jsonl")))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_cut_gzip_file_is_named(tmp_path):
    data = gzip.compress(b'{"text": "w10"}\n' * 500)
    (tmp_path / "a.jsonl.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(RequestError, match="cut or damaged"):
        read(JsonLines(path=str(tmp_path)))


@pytest.mark.parametrize("cls", [TextFiles, JsonLines])
def test_a_folder_without_texts_is_refused(tmp_path, cls):
    with pytest.raises(RequestError, match=r"no .*file is there"):
        read(cls(path=str(tmp_path)))
    with pytest.raises(RequestError, match="should be a folder of texts"):
        read(cls(path=str(tmp_path / "nowhere")))


def test_the_hub_is_streamed_at_a_commit_and_goes_on_where_it_was_left(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)

    def load_dataset(repo, config, **settings):
        asked.append((repo, config, settings))
        return datasets.IterableDataset.from_generator(lambda: ({"text": f" w{i}\n"} for i in range(10, 15)))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = HubRows(repo="one/two", revision=COMMIT, config="sample")
    assert read(source) == [[10], [11], [12], [13], [14]]
    assert read(source, 3) == [[13], [14]]
    assert asked[0] == ("one/two", "sample", {"split": "train", "revision": COMMIT, "streaming": True})


def test_without_a_network_the_hub_is_one_line_at_once(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def dataset_info(*_, **__):
        raise ConnectionError("Couldn't reach\nthe host")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("nothing is there to stream"))
    with pytest.raises(RequestError, match=f"one/two train at revision {COMMIT} cannot be streamed") as error:
        read(HubRows(repo="one/two", revision=COMMIT))
    assert "\n" not in str(error.value)


def test_a_branch_of_the_hub_is_refused_for_it_moves():
    with pytest.raises(RequestError, match="revision = 'main': it should be a commit"):
        build(HubRows, {"repo": "one/two", "revision": "main"}, where="data source 'hub'")


def test_a_misspelt_source_is_refused():
    with pytest.raises(RequestError, match="did you mean 'texts'"):
        find_source("text")


# The embedded model's rows


def test_the_rows_have_every_length_to_the_longest_and_hold_each_kind_of_task(tiny):
    source = TinyLlamaRows(max_length=1500, min_length=600, dense_share=0.2)
    found = list(islice(source.documents(tiny), 80))
    lengths = [len(ids) for ids, _ in found]
    assert 1490 < max(lengths) <= 1500
    assert 599 <= min(lengths) < 900
    assert 30 < sum(n >= 1499 for n in lengths) < 70
    texts = [tiny.decode(ids) for ids, _ in found]
    for phrase in ("magic numbers for", "VAR ", "The grass is green", "memorize it"):
        assert 2 < sum(phrase in text for text in texts) < 78
    assert all(len(ids) == len(weights) for ids, weights in found)


def test_an_answer_weighs_ten_times_and_stands_in_the_text(tiny):
    found = list(islice(TinyLlamaRows(max_length=900, dense_share=1.0, dense_keys=6).documents(tiny), 8))
    full = [(ids, weights) for ids, weights in found if len(ids) == 900]
    assert full
    for ids, weights in full:
        numbers = tiny.decode(ids[weights == 10]).split()
        assert len(numbers) == 6
        text = tiny.decode(ids)
        assert all(len(number) == 7 and text.count(number) == 2 for number in numbers)
        for part in text.split("What is the special magic number for ")[1:]:
            key, number = part.split(" ")[0], part.split("text is: ")[1][:7]
            assert f"One of the special magic numbers for {key} is: {number}." in text


def test_keys_can_be_made_of_the_texts_words(tiny, tmp_path):
    (tmp_path / "a.txt").write_text("There are herons, otters and 7 Beavers at any weir. " * 60)
    words = {"are", "herons", "otters", "and", "any", "weir"}
    settings = {"max_length": 700, "dense_share": 1.0, "dense_keys": 5, "texts": str(tmp_path)}
    found = islice(TinyLlamaRows(dense_words="text", **settings).documents(tiny), 6)
    keys = [key for ids, _ in found for key in re.findall(r"magic number for (\S+) mentioned", tiny.decode(ids))]
    assert len(keys) >= 30
    assert {word for key in keys for word in key.split("-")} <= words
    assert TinyLlamaRows(**settings).identity() != TinyLlamaRows(dense_words="text", **settings).identity()
    few = TinyLlamaRows(**settings | {"dense_words": "text", "dense_keys": 65})
    with pytest.raises(RequestError, match="dense_words = 'text': the text has 6 words, too few for 65 keys"):
        next(few.documents(tiny))


def test_blends_are_halves_of_the_texts_words_and_others_for_another_seed(tiny, tmp_path):
    (tmp_path / "a.txt").write_text("There are herons, otters and 7 Beavers at any weir. " * 60)
    firsts, ends = {"ar", "her", "ott", "an", "we"}, {"re", "ons", "ers", "nd", "ny", "ir"}
    settings = {"max_length": 700, "dense_share": 1.0, "dense_keys": 5, "texts": str(tmp_path)}

    def words(seed: int) -> list[str]:
        found = islice(TinyLlamaRows(dense_words="blends", seed=seed, **settings).documents(tiny), 6)
        keys = [key for ids, _ in found for key in re.findall(r"magic number for (\S+) mentioned", tiny.decode(ids))]
        return sorted({word for key in keys for word in key.split("-")})

    assert len(words(1)) >= 5
    assert all(any(word.startswith(first) and word[len(first) :] in ends for first in firsts) for word in words(1))
    assert words(1) != words(2)


def test_the_same_seed_gives_the_same_rows_from_any_start_and_another_seed_others(tiny):
    source = TinyLlamaRows(max_length=300, seed=4)
    first = list(islice(source.documents(tiny), 6))
    again = list(islice(source.documents(tiny, start=4), 2))
    for (ids, weights), (same_ids, same_weights) in zip(first[4:], again, strict=True):
        assert np.array_equal(ids, same_ids) and np.array_equal(weights, same_weights)
    other = next(TinyLlamaRows(max_length=300, seed=5).documents(tiny)).token_ids_L
    assert not np.array_equal(first[0].token_ids_L, other)


def test_no_evaluation_text_is_trained_on(tiny):
    evaluated = load("docs")
    assert len(evaluation_topics()) > 20
    text = TinyLlamaRows(max_length=300)._text()
    assert len(text) > 0.9 * len(training_docs().text)
    rng = random.Random(0)
    for _ in range(50):
        start = rng.randrange(len(evaluated.text) - 300)
        assert evaluated.filler(start, 300).strip() not in text


def test_rows_can_be_longer_than_the_text_they_hide_in(tiny, tmp_path):
    (tmp_path / "a.txt").write_text("A short text. " * 20)
    document = next(TinyLlamaRows(max_length=2000, full_share=1.0, texts=str(tmp_path)).documents(tiny))
    assert len(document.token_ids_L) >= 1999


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 20}, "max_length = 20"),
        ({"max_length": 500, "min_length": 501}, "min_length = 501"),
        ({"max_length": 500, "dense_share": 1.5}, "dense_share = 1.5"),
        ({}, "'max_length' is missing"),
    ],
)
def test_rows_that_cannot_be_are_refused(settings, message):
    with pytest.raises(RequestError, match=message):
        build(TinyLlamaRows, settings, where="data source 'tiny-llama'")


# The table


def plan(tmp_path, *sources, **settings):
    bins = [{"name": "short", "kind": "short", "share": 1, "max_length": "window"}]
    table = {"total_tokens": 100, "source": list(sources), "bin": bins, **settings}
    return DataPlan.from_table(table, relative_to=tmp_path)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], r"write a table \[\[data.source\]\]"),
        ([{"name": "texts"}], "'texts': the setting 'path' is missing"),
        ([{"path": "x"}], "the setting 'name' is missing"),
        ([{"name": "texts", "path": "x", "label": "../x"}], "label = '../x'"),
        ([{"name": "texts", "path": "x", "max_tokens": 0}], "max_tokens = 0"),
        ([{"name": "texts", "path": "x"}, {"name": "texts", "path": "y"}], "two data sources are called 'texts'"),
        ([{"name": "tiny-llama", "max_length": 500}], "it has no end: add max_tokens"),
        ([{"name": "shards", "path": "x", "max_tokens": 3}], "shards are taken whole"),
        ([{"name": "texts", "path": "${LONGREACH_NOT_SET}"}], "LONGREACH_NOT_SET is not set"),
        ([{"name": "hub", "repo": "a/b"}], "'revision' is missing"),
    ],
)
def test_a_wrong_table_of_a_source_is_refused(tmp_path, sources, message):
    with pytest.raises(RequestError, match=message):
        plan(tmp_path, *sources)


def test_paths_are_taken_from_the_presets_folder_and_shards_are_used_as_they_are(tmp_path):
    (tmp_path / "texts").mkdir()
    for i in range(40):
        (tmp_path / "texts" / f"{i:02d}.txt").write_text("w10 w11 w12")
    first = plan(tmp_path, {"name": "texts", "path": "texts/"}).open(
        tokenizer(), tmp_path / "made", window=16, target=20
    )
    folder = {"name": "shards", "label": "texts", "path": str(tmp_path / "made" / "texts")}
    again = plan(tmp_path, folder).open(tokenizer(), tmp_path / "other", window=16, target=20)
    assert again.key == first.key
    assert not (tmp_path / "other").exists()
    assert np.array_equal(again[0].input_ids_L, first[0].input_ids_L)
