"""Shards on disk: what goes in comes out, a killed writer goes on, and what does not fit is refused."""

import errno
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import RequestError
from methods.longrope.training import shards
from methods.longrope.training.corpus import Corpus
from methods.longrope.training.shards import TokenizerFacts, write_shards
from tests.methods.longrope.training.corpora import BOS, EOS, FIRST, Numbered, corpus, tokenizer


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name[0] != "."}


def opened(folder, **settings):
    return Corpus.open({"numbered": folder}, tokenizer(**settings))


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=30).filter(any),
    shard_tokens=st.integers(1, 200),
    weighted=st.booleans(),
)
def test_what_goes_in_comes_out(tmp_path_factory, lengths, shard_tokens, weighted):
    found = corpus(tmp_path_factory.mktemp("s"), lengths, shard_tokens=shard_tokens, weighted=weighted)
    there = [n for n in lengths if n]
    assert found.lengths_N.tolist() == there
    at = FIRST
    for i, n in enumerate(there):
        ids, weights = found.read(i, 0, n)
        assert ids.tolist() == list(range(at, at + n))
        assert weights.tolist() == (ids.tolist() if weighted else [1] * n)
        assert found.read(i, n // 2, n)[0].tolist() == ids[n // 2 :].tolist()
        at += n


def test_small_vocabularies_take_two_bytes_a_token_and_large_ones_four(tmp_path):
    for n_tokens, n_bytes in ((6_000, 2), (70_000, 4)):
        folder = tmp_path / str(n_tokens)
        known = tokenizer(n_tokens)
        write_shards(Numbered((9,), first=n_tokens - 9), known, folder)
        tokens_L = np.load(folder / "00000.tokens.npy", mmap_mode="r")
        assert tokens_L.itemsize == n_bytes
        ids, _ = Corpus.open({"numbered": folder}, known).read(0, 0, 9)
        assert ids.tolist() == list(range(n_tokens - 9, n_tokens))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("where", ["_save", "_write_index"])
@pytest.mark.parametrize("at", range(0, 14, 3))
def test_a_killed_writer_goes_on_to_the_same_bytes(tmp_path, monkeypatch, where, at):
    source = Numbered(tuple(range(25)), weighted=True)
    write_shards(source, tokenizer(), tmp_path / "whole", shard_tokens=50)
    calls = itertools.count()
    real = getattr(shards, where)

    def killed(*arguments):
        if next(calls) == at:
            raise Killed
        real(*arguments)

    monkeypatch.setattr(shards, where, killed)
    try:
        write_shards(source, tokenizer(), tmp_path / "cut", shard_tokens=50)
    except Killed:
        with pytest.raises(RequestError, match=r"unfinished|no token shards"):
            opened(tmp_path / "cut")
    monkeypatch.undo()
    starts = []
    monkeypatch.setattr(
        Numbered,
        "documents",
        lambda self, known, start=0, real=Numbered.documents: starts.append(start) or real(self, known, start),
    )
    write_shards(source, tokenizer(), tmp_path / "cut", shard_tokens=50)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    if where == "_save" and at >= 3:
        assert starts[0] > 0  # finished shards were not made again


def test_a_finished_folder_is_left_alone_and_says_nothing(tmp_path):
    lines = []
    write_shards(Numbered((5, 5)), tokenizer(), tmp_path, say=lines.append)
    assert lines == [f"{tmp_path.name}: 10 tokens in 1 shards"]
    before = contents(tmp_path)
    write_shards(Numbered((5, 5)), tokenizer(), tmp_path, say=lines.append)
    assert len(lines) == 1
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("max_tokens", "n_documents"), [(1, 1), (10, 1), (11, 2), (30, 3), (31, 4), (99, 4)])
def test_the_document_that_reaches_max_tokens_is_the_last(tmp_path, max_tokens, n_documents):
    write_shards(Numbered((10, 10, 10, 10)), tokenizer(), tmp_path, max_tokens=max_tokens, shard_tokens=15)
    assert len(opened(tmp_path).lengths_N) == n_documents


def test_other_settings_or_another_source_do_not_mix_into_a_folder(tmp_path):
    write_shards(Numbered((5, 5)), tokenizer(), tmp_path)
    with pytest.raises(RequestError, match="another source"):
        write_shards(Numbered((5, 6)), tokenizer(), tmp_path)
    with pytest.raises(RequestError, match="another max_tokens"):
        write_shards(Numbered((5, 5)), tokenizer(), tmp_path, max_tokens=3)
    with pytest.raises(RequestError, match="another tokenizer"):
        write_shards(Numbered((5, 5)), tokenizer(bos=False), tmp_path)


@pytest.mark.parametrize("other", [{"bos": False}, {"eos": False}, {"n_tokens": 6_001}])
def test_shards_of_another_tokenizer_are_refused_in_one_line(tmp_path, other):
    write_shards(Numbered((5,)), tokenizer(), tmp_path)
    with pytest.raises(RequestError, match="shards of another tokenizer") as error:
        opened(tmp_path, **other)
    assert "\n" not in str(error.value)


def test_a_tokenizer_is_known_by_its_rules_not_by_how_it_was_used():
    known = tokenizer()
    before = TokenizerFacts.of(known)
    assert (before.leading_ids, before.trailing_ids) == ((BOS,), (EOS,))
    known.backend_tokenizer.enable_truncation(2)
    known.backend_tokenizer.enable_padding()
    assert TokenizerFacts.of(known) == before


def test_what_is_damaged_is_refused(tmp_path):
    write_shards(Numbered((5, 5)), tokenizer(), tmp_path)
    np.save(tmp_path / "00000.tokens.npy", np.zeros(9, dtype=np.uint16))
    with pytest.raises(RequestError, match="is not what its index says"):
        opened(tmp_path)
    (tmp_path / "00000.tokens.npy").unlink()
    with pytest.raises(RequestError, match=r"shard 00000 .* cannot be read"):
        opened(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**index, "format": 7}))
    with pytest.raises(RequestError, match="format 7: it should be 1"):
        opened(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(RequestError, match="should be a readable index"):
        opened(tmp_path)
    with pytest.raises(RequestError, match="holds no token shards"):
        opened(tmp_path / "nowhere")


def test_a_full_disk_is_one_line_and_keeps_what_is_finished(tmp_path, monkeypatch):
    real = np.save

    def full(file, array):
        if "00001" in file.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, array)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(RequestError, match="the disk is full"):
        write_shards(Numbered((9, 9)), tokenizer(), tmp_path, shard_tokens=5)
    assert not list(tmp_path.glob("*00001*"))
    monkeypatch.undo()
    write_shards(Numbered((9, 9)), tokenizer(), tmp_path, shard_tokens=5)
    assert opened(tmp_path).lengths_N.tolist() == [9, 9]


def test_a_source_without_a_token_is_refused(tmp_path):
    with pytest.raises(RequestError, match="holds no text"):
        write_shards(Numbered((0, 0)), tokenizer(), tmp_path)


def test_several_folders_are_one_corpus_with_labels(tmp_path):
    for name, lengths in (("one", (3, 4)), ("two", (5,))):
        write_shards(Numbered(lengths), tokenizer(), tmp_path / name)
    both = Corpus.open({"one": tmp_path / "one", "two": tmp_path / "two"}, tokenizer())
    assert both.lengths_N.tolist() == [3, 4, 5]
    assert [both.labels[i] for i in both.source_N] == ["one", "one", "two"]
    assert both.read(2, 0, 5)[0].tolist() == list(range(FIRST, FIRST + 5))
    assert both.sha256 != opened(tmp_path / "one").sha256
