"""The stream: exact accounts, the same for a seed, and the same rest after it was left."""

import json
import tomllib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config import PRESETS
from harness.errors import RequestError
from methods.longrope.training.bins import Bin, shuffled
from methods.longrope.training.corpus import Corpus
from methods.longrope.training.mix import Mix, MixStream
from methods.longrope.training.prepare import DataPlan
from methods.longrope.training.shards import write_shards
from tests.methods.longrope.training.corpora import LONG, SHORT, TARGET, Numbered, corpus, mix, tokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Corpus:
    rng = np.random.RandomState(0)
    lengths = [*rng.randint(1, 15, 150).tolist(), *rng.randint(15, 199, 25).tolist()]
    return corpus(tmp_path_factory.mktemp("c"), lengths, shard_tokens=400)


@pytest.fixture(scope="module")
def planned(made):
    return mix(made, SHORT, LONG, total_tokens=24 * TARGET)


def read(segments):
    return [(s.bin, s.input_ids_L.tolist(), s.position_ids_L.tolist(), s.loss_weights_L.tolist()) for s in segments]


def test_each_bin_gets_its_share_of_tokens(made):
    thrice = Bin(**{**vars(SHORT), "share": 3.0, "max_epochs": 3})
    planned = mix(made, thrice, LONG, total_tokens=40 * TARGET)
    bins = Counter()
    for segment in planned:
        bins[segment.bin] += segment.n_tokens
    assert bins == {"short": 30 * TARGET, "long": 10 * TARGET}
    for count in planned.counts():
        assert count.n_tokens_planned == count.n_tokens_asked == bins[count.name]
        assert count.n_segments * count.segment_length == count.n_tokens_planned


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 14), min_size=4, max_size=60).filter(lambda many: sum(many) > 40),
    n_segments=st.integers(1, 12),
    segment_length=st.integers(16, 40),
)
def test_every_token_is_accounted_for(tmp_path_factory, lengths, n_segments, segment_length):
    made = corpus(tmp_path_factory.mktemp("c"), lengths)
    bin = Bin(**{**vars(SHORT), "max_epochs": 40})
    planned = mix(made, bin, total_tokens=n_segments * segment_length, segment_length=segment_length)
    (count,) = planned.counts()
    assert count.n_pieces == len(lengths)
    assert count.n_tokens_there == sum(lengths) + 2 * len(lengths)
    uses, given = Counter(), 0
    for segment in planned:
        starts = segment.cu_seqlens[:-1]
        # the first token behind its BOS tells which document it is; a document cut to its BOS alone does not
        uses.update(int(segment.input_ids_L[at + 1]) if at + 1 < segment.n_tokens else -1 for at in starts)
        given += segment.n_tokens
    n_used = sum(uses.values())
    assert n_used == round(count.epochs * len(lengths))
    assert max(n for first, n in uses.items() if first != -1) <= np.ceil(count.epochs)
    if -1 not in uses:
        sizes = dict(zip(np.cumsum([10, *lengths]), lengths, strict=False))
        assert sum((sizes[first] + 2) * n for first, n in uses.items()) == given + count.n_tokens_cut


def test_no_document_repeats_within_an_epoch(planned):
    bodies = Counter(token for segment in planned for token in segment.input_ids_L.tolist() if token >= 10)
    assert set(bodies.values()) == {1}
    assert all(count.epochs <= 1 for count in planned.counts())


def test_every_epoch_has_an_order_of_its_own(tmp_path):
    made = corpus(tmp_path / "c", [14] * 20)
    twice = Bin(**{**vars(SHORT), "max_epochs": 2, "segment_length": "window"})
    planned = mix(made, twice, total_tokens=40 * 16)
    seen = [int(planned.bins[0].segment(i).input_ids_L[1]) for i in range(40)]
    assert sorted(seen[:20]) == sorted(seen[20:]) == sorted(set(seen))
    assert seen[:20] != seen[20:]


def test_the_table_says_what_was_asked_what_is_there_and_what_no_bin_takes(tmp_path):
    made = corpus(tmp_path / "c", [8] * 20 + [40] * 10 + [500])
    lines = []
    mix(
        made, SHORT, Bin(**{**vars(LONG), "max_epochs": 2}), total_tokens=300, say=lines.append, segment_length=30
    )  # fmt: skip
    head, short, long, left = (line.split() for line in lines)
    assert head == ["bin", "kind", "asked", "planned", "segments", "there", "documents", "cut", "off", "epochs"]
    assert short[:7] == ["short", "short", "150", "150", "5", "200", "20"]
    assert long[:7] == ["long", "long", "150", "150", "5", "420", "10"]
    assert long[7:] == ["60", "0.50"]  # 5 documents of 42 give 30 each
    assert left == ["in", "no", "bin", "502", "1"]


def test_a_bin_that_cannot_be_filled_says_how_many_tokens_are_missing(tmp_path):
    made = corpus(tmp_path / "c", [8] * 20 + [40] * 10)
    bins = (SHORT, Bin(**{**vars(LONG), "share": 9.0}))
    with pytest.raises(RequestError, match="bin 'long': 320 of 640 tokens are missing") as error:
        mix(made, *bins, total_tokens=720, segment_length=64, group_size=1)
    message = str(error.value)
    assert "holds 420 in 10 documents of 17 to 200 tokens, seen in 1 epoch" in message
    assert "\n" not in message
    again = (SHORT, Bin(**{**vars(LONG), "share": 9.0, "max_epochs": 2}))
    assert mix(made, *again, total_tokens=720, segment_length=64).counts()[1].epochs == 2


def test_a_corpus_without_a_document_long_enough_is_one_line(tmp_path):
    made = corpus(tmp_path / "c", [8] * 20)
    with pytest.raises(RequestError, match="bin 'long': no document has 17 to 200 tokens") as error:
        mix(made, LONG, total_tokens=64)
    assert "the corpus holds 20, of 10 to 10" in str(error.value)


def test_the_same_seed_gives_the_same_stream_and_another_seed_another(made, planned):
    again = mix(made, SHORT, LONG, total_tokens=24 * TARGET)
    other = mix(made, SHORT, LONG, total_tokens=24 * TARGET, seed=1)
    assert again.key == planned.key != other.key
    assert read(again) == read(planned)
    assert read(other) != read(planned)
    assert [s.bin for s in other] != [s.bin for s in planned]


def test_the_order_of_a_seed_never_changes():
    assert shuffled(10, 0).tolist() == [3, 2, 1, 8, 6, 0, 7, 4, 5, 9]


@settings(max_examples=20, deadline=None)
@given(at=st.integers(0, 24), sizes=st.sampled_from([(1, 1), (2, 2), (1, 2), (3, 2), (4, 1)]))
def test_after_restore_the_rest_is_the_same_whatever_the_world_size(planned, at, sizes):
    before, after = sizes
    whole = read(planned)
    streams = [MixStream(planned, rank=rank, world_size=before) for rank in range(before)]
    steps = at // before
    seen = [segment for _ in range(steps) for stream in streams for segment in read([next(stream)])]
    states = [json.loads(json.dumps(stream.state())) for stream in streams]
    assert all(state == states[0] for state in states)
    streams = [MixStream(planned, rank=rank, world_size=after) for rank in range(after)]
    for stream in streams:
        stream.restore(states[0])
    parts = [read(stream) for stream in streams]
    seen += [segment for step in zip(*parts, strict=True) for segment in step]
    assert seen == whole[: len(seen)]
    assert len(whole) - len(seen) < after


def test_ranks_share_the_samples_out_and_get_equally_many(planned):
    whole = read(planned)
    halves = [read(MixStream(planned, rank=rank, world_size=2)) for rank in (0, 1)]
    assert halves[0] == whole[::2] and halves[1] == whole[1::2]
    thirds = [MixStream(planned, rank=rank, world_size=5) for rank in range(5)]
    assert [len(stream) for stream in thirds] == [len(planned) // 5] * 5
    assert [len(list(stream)) for stream in thirds] == [len(planned) // 5] * 5
    with pytest.raises(ValueError, match="rank = 2"):
        MixStream(planned, rank=2, world_size=2)


def test_the_state_of_another_stream_is_refused(made, planned):
    state = MixStream(mix(made, SHORT, LONG, total_tokens=24 * TARGET, document_mask=True)).state()
    with pytest.raises(RequestError, match="the checkpoint read another stream") as error:
        MixStream(planned).restore(state)
    assert "\n" not in str(error.value)


def test_a_group_is_of_one_bin(made):
    planned = mix(made, SHORT, LONG, total_tokens=24 * TARGET, group_size=3)
    bins = [segment.bin for segment in planned]
    assert Counter(bins) == {"short": 12, "long": 12}
    assert all(len(set(bins[at : at + 3])) == 1 for at in range(0, 24, 3))
    assert bins != sorted(bins)
    assert [planned.place(i)[0].bin.name for i in range(24)] == bins
    assert Counter(map(str, read(planned))) == Counter(map(str, read(mix(made, SHORT, LONG, total_tokens=24 * TARGET))))


def test_segments_are_had_by_number(planned):
    assert read([planned[-1]]) == read([planned[23]]) == read(planned)[23:]
    assert read(planned[2:4]) == read(planned)[2:4]
    with pytest.raises(IndexError, match="24"):
        planned[24]


def test_bins_may_have_lengths_of_their_own(made):
    short = Bin(**{**vars(SHORT), "segment_length": "window"})
    planned = mix(made, short, LONG, total_tokens=16 * TARGET)
    assert Counter(segment.n_tokens for segment in planned) == {16: 32, TARGET: 8}


def test_a_bin_takes_only_its_sources(tmp_path):
    for name, first in (("one", 10), ("two", 3_000)):
        write_shards(Numbered((8,) * 40, first=first), tokenizer(), tmp_path / name)
    both = Corpus.open({"one": tmp_path / "one", "two": tmp_path / "two"}, tokenizer())
    planned = mix(both, Bin(**{**vars(SHORT), "sources": ("two",)}), total_tokens=2 * TARGET)
    assert all(token < 2 or token >= 3_000 for segment in planned for token in segment.input_ids_L)
    with pytest.raises(RequestError, match="unknown source in bin 'short' 'tow': did you mean 'two'"):
        mix(both, Bin(**{**vars(SHORT), "sources": ("tow",)}), total_tokens=TARGET)


def table(bin=None, **settings):
    first = {"name": "short", "kind": "short", "share": 1, "max_length": "window"} | (bin or {})
    return {"total_tokens": 640, "bin": [{k: v for k, v in first.items() if v is not None}]} | settings


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (table(bin=None, extra=1), "data has no setting 'extra'"),
        (table({"sahre": 2}), "data.bin 'short' has no setting 'sahre': did you mean 'share'"),
        (table({"name": None}), "data.bin 1: the setting 'name' is missing"),
        (table({"kind": "shrt"}), "kind = 'shrt': did you mean 'short'"),
        (table({"share": -1}), "share = -1: it should be positive"),
        (table({"max_epochs": 0}), "max_epochs = 0"),
        (table({"max_length": "windw"}), "max_length = 'windw'"),
        (table({"max_length": -3}), "max_length = -3"),
        (table({"max_length": None, "overlong": "split"}), "it should come with a max_length"),
        (table({"max_length": None}), "it should be at most the window of 16 tokens"),
        (table({"max_length": 17}), "max_length = 17: a 'short' bin"),
        (table({"above_length": "window"}), "it should be more than above_length = 16"),
        (table({"segment_length": 65}), "segment_length = 65: it should be at most the target of 64"),
        (table({"segment_length": 1}), "at least 2 tokens"),
        (table({"kind": "pose"}), "a 'pose' segment of 64 tokens is one document, it should be at least 63"),
        (table({"kind": "long", "max_length": 2}), "more than a document's 2 special tokens"),
        (table({"share": 1}, total_tokens=20), "less than half a group of 1 segments of 64"),
        (table(total_tokens=0), "total_tokens = 0"),
        (table(bin={}) | {"bin": []}, r"write a table \[\[data.bin\]\]"),
        (table() | {"bin": table()["bin"] * 2}, "two bins are called 'short'"),
        (table() | {"bin": 3}, r"write \[\[data.bin\]\]"),
    ],
)
def test_a_wrong_mix_is_one_line(made, changed, message):
    with pytest.raises(RequestError, match=message) as error:
        Mix.from_table(changed).plan(made, window=16, target=64)
    assert "\n" not in str(error.value)


def test_the_papers_mix_is_its_table_1(monkeypatch, tmp_path):
    monkeypatch.setenv("LONGREACH_CORPORA", str(tmp_path))
    data = tomllib.loads((PRESETS / "train" / "longrope2-paper-llama3-8b.toml").read_text())["data"]
    plan = DataPlan.from_table(data, relative_to=tmp_path)
    shares = [bin.share / 10 * plan.mix.total_tokens for bin in plan.mix.bins]
    assert shares == [3e9, 3e9, 4e9]
    short, middle, upper = plan.mix.bins
    assert (short.kind, short.max_length) == ("short", "window")
    assert (middle.kind, middle.above_length, middle.max_length) == ("long", "window", 100_000)
    assert (upper.kind, upper.above_length, upper.max_length) == ("long", 100_000, 200_000)
    assert plan.mix.document_mask is False
