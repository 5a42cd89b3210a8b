"""PG19 and Proof-pile: from a folder or from the Hub, each document alone."""

import gzip
import json

import pandas as pd
import pytest

from harness.errors import RequestError
from tasks import corpora as room
from tasks.corpora import CORPORA, load_corpus
from tasks.perplexity import Perplexity

ROWS = [{"text": "\r\nA first document. It has two sentences.\r\n"}, {"text": "Another one.\n"}, {"text": " \n"}]
TEXTS = ("A first document. It has two sentences.", "Another one.")


@pytest.fixture(autouse=True)
def _fresh():
    room._from_hub.cache_clear()


def hub_copy(name, folder):
    """A file as the Hub has it."""
    path = folder / CORPORA[name].file.rpartition("/")[2]
    if name == "pg19":
        pd.DataFrame([{**row, "url": "x"} for row in ROWS]).to_parquet(path)
    else:
        path.write_bytes(gzip.compress("".join(json.dumps({**row, "meta": "{}"}) + "\n" for row in ROWS).encode()))
    return path


def texts_of(haystack):
    return tuple(haystack.text[start : start + length] for start, length in haystack.documents)


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_is_the_same_from_the_hub_and_from_every_kind_of_file(name, tmp_path, monkeypatch):
    asked = []

    def hub_file(repo, file, *, revision, instead):
        asked.append((repo, file, revision))
        return hub_copy(name, tmp_path)

    if name == "pg19":
        pytest.importorskip("pyarrow", reason="needs the extra `suites`")
    monkeypatch.setattr(room, "hub_file", hub_file)
    from_hub = load_corpus(name, None)
    assert texts_of(from_hub) == TEXTS
    assert asked == [(CORPORA[name].repo, CORPORA[name].file, CORPORA[name].revision)]
    assert len(CORPORA[name].revision) == 40 and "test" in CORPORA[name].file

    (tmp_path / name).mkdir()
    (tmp_path / name / "1.txt").write_text(ROWS[0]["text"])
    (tmp_path / name / "2.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[1:]))
    from_files = load_corpus(name, str(tmp_path))
    assert texts_of(from_files) == TEXTS and from_files.sha256 == from_hub.sha256


@pytest.mark.parametrize("name", CORPORA)
def test_offline_says_what_would_be_fetched_and_where_to_put_it(name, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RequestError) as raised:
        Perplexity().check(f"{name}_whole")
    message = str(raised.value)
    corpus = CORPORA[name]
    assert "\n" not in message and "HF_HUB_OFFLINE is set" in message
    assert f"hf download {corpus.repo} {corpus.file} --repo-type dataset --revision {corpus.revision}" in message
    assert f"(.txt or .jsonl) into a folder {name} and name the folder above it as data_dir" in message


CUT_SHORT = gzip.compress(b'{"text": "One."}\n', mtime=0)[:-9]  # without the time of day, which names the test


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.csv", b"text", "data_dir/pg19 = '.*pg19': no .txt, .txt.xz, .txt.gz, .jsonl or .jsonl.gz file"),
        ("a.txt", b"caf\xe9", r"a.txt': byte 3 is not UTF-8"),
        ("a.jsonl", b'{"text": "One."}\n{"body": "Two."}\n', "a.jsonl, row 2: there is no 'text'; the row has body"),
        ("a.jsonl", b'{"text": 3}\n', "a.jsonl, row 1: 'text' should be a text"),
        ("a.jsonl", b'{"text": " "}\n', "pg19: holds no text"),
        ("a.jsonl.gz", CUT_SHORT, "a.jsonl.gz, row [12]: the gzip file is cut short"),
    ],
)
def test_broken_files_are_named(file, content, message, tmp_path):
    (tmp_path / "pg19").mkdir()
    (tmp_path / "pg19" / file).write_bytes(content)
    with pytest.raises(RequestError, match=message):
        load_corpus("pg19", str(tmp_path))


def test_a_folder_without_the_corpus_is_named(tmp_path):
    with pytest.raises(RequestError, match=r"data_dir/proofpile = '.*proofpile': No such file"):
        Perplexity(data_dir=str(tmp_path)).check("proofpile_whole")


def test_a_broken_download_is_named(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow", reason="needs the extra `suites`")
    (tmp_path / "a.parquet").write_bytes(b"not parquet at all")
    monkeypatch.setattr(room, "hub_file", lambda *args, **kwargs: tmp_path / "a.parquet")
    with pytest.raises(RequestError, match=r"a\.parquet: cannot be read .*download it again"):
        load_corpus("pg19", None)


def corpus_of(folder, *texts):
    (folder / "proofpile").mkdir()
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "proofpile" / "a.jsonl").write_text(rows)
    return Perplexity(data_dir=str(folder))


def test_a_window_lies_in_one_document_that_is_long_enough(tmp_path, byte_tokenizer):
    suite = corpus_of(tmp_path, *["Short words. " * 20] * 50, "Alpha beta. " * 400, "Gamma delta. " * 400)
    seen = set()
    for example in suite.examples("proofpile_whole", seq_len=500, n=20, seed=0, tokenizer=byte_tokenizer):
        assert example.metadata["haystack"] == "proofpile"
        text = byte_tokenizer.decode(list(example.segments[0].token_ids))
        seen.add(text[:5])
        assert len({word for word in ("Short", "Alpha", "Gamma") if word in text}) == 1
        assert "Short" not in text
    assert len(seen) > 1


def test_no_document_that_is_long_enough_is_refused(tmp_path, byte_tokenizer):
    suite = corpus_of(tmp_path, *["A few words. " * 100] * 50)
    with pytest.raises(RequestError, match=r"2000 tokens is too long, the longest document should be .* about \d+"):
        list(suite.examples("proofpile_whole", seq_len=2000, n=1, seed=0, tokenizer=byte_tokenizer))


def test_the_folder_that_is_given_is_what_is_read(corpora, books):
    assert Perplexity(data_dir=corpora).tasks() == ("pg19_whole", "pg19_sliding")
    assert Perplexity(data_dir=corpora, books=books).tasks() == ("book_whole", "book_sliding")
    assert Perplexity().tasks() == ("docs_whole", "docs_sliding")
    one, other = (Perplexity(data_dir=corpora).artifacts(f"{name}_whole")["haystack"] for name in CORPORA)
    assert one != other
