"""Documents of a search: exact lengths, answers that are whole, needles where the policy says, splits apart."""

import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.catalogue import build
from harness.errors import RequestError
from methods.longrope.search.documents import Documents, Objective
from methods.longrope.search.evaluator import Draw
from tasks import corpora
from tasks.haystack import load, training_docs
from tasks.tokens import encode, leading_ids
from tests.tasks.conftest import TINY_LLAMA

SPLITS = ("search", "held_out", "test")
NEEDLE = "One of the special magic numbers for "


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """A folder of twelve books that share no sentence."""
    folder = tmp_path_factory.mktemp("library")
    for i in range(12):
        text = " ".join(f"Sentence {j} of book {'abcdefghijkl'[i]} says nothing of use." for j in range(300 + 20 * i))
        (folder / f"{i:02}.txt").write_text(text)
    return folder


def made(tokenizer, *, seq_len=600, n=4, split="search", block=0, seed=0, **settings):
    draw = Draw(split=split, block=block, seq_len=seq_len, n_documents=n)
    return Documents(Objective(**settings), tokenizer, target_length=seq_len, seed=seed).make(draw)


def read(tokenizer, ids) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=True)


def test_a_document_reads_as_the_paper_s(byte_tokenizer):
    (document,) = made(byte_tokenizer, n=1)
    text = read(byte_tokenizer, document.token_ids)
    key = text.split(NEEDLE)[1].split(" is: ")[0]
    assert text.startswith(
        "A special magic number is hidden within the following text. Make sure to memorize it. I will quiz you about "
        f"the number afterwards.\n{NEEDLE}{key} is: {document.answers[0]}. "
    )
    assert text.endswith(
        f"\nWhat is the special magic number for {key} mentioned in the provided text? "
        f"The special magic number for {key} mentioned in the provided text is: {document.answers[0]}"
    )
    assert text.count(document.answers[0]) == 2


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seq_len=st.integers(300, 2500),
    n_keys=st.integers(1, 5),
    position=st.sampled_from(["start", "grid", "uniform"]),
    haystacks=st.sampled_from([("noise",), ("docs",), ("noise", "docs")]),
    block=st.integers(0, 50),
    seed=st.integers(0, 1000),
)
def test_every_document_has_exactly_its_length_and_a_whole_answer(
    tokenizer, seq_len, n_keys, position, haystacks, block, seed
):
    for document in made(
        tokenizer,
        seq_len=seq_len,
        n=2,
        n_keys=n_keys,
        position=position,
        haystacks=haystacks,
        block=block,
        seed=seed,
    ):
        ids = document.token_ids
        assert len(ids) == seq_len
        assert (
            read(tokenizer, ids[document.n_context :]).strip() == document.answers[0] and len(document.answers[0]) == 7
        )
        prompt = read(tokenizer, ids[: document.n_context])
        assert prompt.endswith(" mentioned in the provided text is:")
        assert prompt.count(NEEDLE) == n_keys and prompt.count(document.answers[0]) == 1
        asked = read(tokenizer, ids[document.needle_at : document.needle_at + 40]).lstrip()
        assert asked.startswith(NEEDLE[:20]) and document.answers[0] in asked


def test_a_needle_just_before_the_end_leaves_filler_to_cut(byte_tokenizer):
    documents = made(
        byte_tokenizer, seq_len=300, n=2, n_keys=1, position="uniform", haystacks=("noise",), block=42, seed=1
    )
    assert [len(document.token_ids) for document in documents] == [300, 300]


def test_several_keys_are_asked_for_one_after_another_and_only_their_answers_count(tokenizer):
    documents = made(tokenizer, seq_len=700, n_keys=4, n_asked=3, position="uniform")
    assert len(documents) == 4
    for document in documents:
        ids = document.token_ids
        assert len(ids) == 700
        assert len(set(document.answers)) == 3
        ends = [*(begin for begin, _ in document.questions), len(ids)]
        begins = [document.n_context, *(end for _, end in document.questions)]
        read_back = [read(tokenizer, ids[begin:end]).strip() for begin, end in zip(begins, ends, strict=True)]
        assert tuple(read_back) == document.answers
        prompt = read(tokenizer, ids[: document.n_context])
        for (begin, end), answer in zip(document.questions, document.answers[1:], strict=True):
            question = read(tokenizer, ids[begin:end])
            key = question.split("number for ")[1].split(" mentioned")[0]
            assert question.endswith("mentioned in the provided text is:")
            assert f"{NEEDLE}{key} is: {answer}." in prompt


def test_search_documents_may_hold_more_keys_than_those_of_the_last_choice_and_the_report(tokenizer):
    objective = Objective(n_keys=4, n_asked=1, search_keys=8, position="uniform", n_documents=2)
    documents = Documents(objective, tokenizer, target_length=1024)
    for split, seq_len, n_keys, n_asked in (
        ("search", 1024, 8, 8),
        ("search", 640, 5, 5),  # one in 128 tokens
        ("search", 500, 4, 4),  # but the objective's at least
        ("held_out", 1024, 4, 1),
        ("test", 1024, 4, 1),
    ):
        for document in documents.make(Draw(split=split, seq_len=seq_len, n_documents=2)):
            assert len(document.token_ids) == seq_len
            assert read(tokenizer, document.token_ids[: document.n_context]).count(NEEDLE) == n_keys
            assert len(set(document.answers)) == n_asked == len(document.questions) + 1


def test_documents_are_the_same_without_more_keys_for_the_search(tokenizer):
    draw = Draw(split="search", seq_len=600, n_documents=2)
    plain, same = (
        Documents(Objective(n_keys=4, n_asked=4, search_keys=n), tokenizer, target_length=600).make(draw)
        for n in (None, 4)
    )
    assert plain == same


def test_a_bos_stands_in_front_once_and_no_eos_behind(bos_tokenizer):
    for kind in ("needle", "perplexity"):
        for document in made(bos_tokenizer, kind=kind):
            assert document.token_ids[0] == bos_tokenizer.bos_token_id
            assert document.token_ids.count(bos_tokenizer.bos_token_id) == 1
            assert bos_tokenizer.eos_token_id not in document.token_ids


def test_the_needle_stands_where_the_policy_says(tokenizer):
    """`start` is right behind the introduction, whatever other needles there are; the grid goes on over the draws."""
    for document in made(tokenizer, n_keys=4, n=6):
        before = read(tokenizer, document.token_ids[: document.needle_at])
        assert before.rstrip().endswith("I will quiz you about the number afterwards.")
    grid = {"position": "grid", "depths": 5, "haystacks": ("noise", "docs"), "seq_len": 4096, "n": 5}
    documents = [*made(tokenizer, **grid), *made(tokenizer, **grid, block=1)]
    assert [document.haystack for document in documents] == ["noise", "docs"] * 5
    assert [document.depth_fraction for document in documents] == [x for i in range(5) for x in [i / 4, i / 4]]
    uniform = made(tokenizer, position="uniform", seq_len=2048, n=20)
    assert len({document.depth_fraction for document in uniform}) == 20
    for document in (*documents, *uniform):
        assert document.needle_at / document.n_context == pytest.approx(document.depth_fraction, abs=0.06)


def test_a_draw_gives_the_same_documents_in_another_process(byte_tokenizer):
    code = """
import json
from methods.longrope.search.documents import Documents, Objective
from methods.longrope.search.evaluator import Draw
from transformers import PreTrainedTokenizerFast
tokenizer = PreTrainedTokenizerFast.from_pretrained("FOLDER")
documents = Documents(Objective(n_keys=2, position="uniform"), tokenizer, target_length=400, seed=3)
print(json.dumps([d.token_ids for d in documents.make(Draw(block=7, seq_len=400, n_documents=2))]))
"""
    code = code.replace("FOLDER", str(TINY_LLAMA))
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    objective = {"n_keys": 2, "position": "uniform"}
    here = made(byte_tokenizer, seq_len=400, n=2, block=7, seed=3, **objective)
    assert json.loads(out) == [document.token_ids for document in here]
    longer = made(byte_tokenizer, seq_len=400, n=3, block=0, seed=3, **objective)
    assert [d.token_ids for d in longer[:2]] == [
        d.token_ids for d in made(byte_tokenizer, seq_len=400, n=2, block=0, seed=3, **objective)
    ]


def test_blocks_splits_and_seeds_share_no_document(byte_tokenizer):
    draws = [{"split": split} for split in SPLITS] + [{"block": 1}, {"seed": 1}]
    for haystack in ("noise", "docs"):
        answers = [{d.answers for d in made(byte_tokenizer, haystacks=(haystack,), **draw)} for draw in draws]
        assert all(a.isdisjoint(b) for a, b in combinations(answers, 2))


def sentences(tokenizer, split, haystack, **settings) -> set[str]:
    """Sentences of many documents of a split."""
    texts = (
        read(tokenizer, document.token_ids)
        for document in made(tokenizer, haystacks=(haystack,), split=split, n=30, **settings)
    )
    return {sentence for text in texts for sentence in text.split("\n")[1].split(". ")[2:-1]}


def test_splits_of_docs_have_other_topics_and_none_of_the_suites(byte_tokenizer):
    found = [sentences(byte_tokenizer, split, "docs") for split in SPLITS]
    assert min(map(len, found)) > 100
    assert all(a.isdisjoint(b) for a, b in combinations(found, 2))
    suites = " ".join(load("docs").text.split())
    training = " ".join(training_docs().text.split())
    assert not [sentence for sentence in set.union(*found) if len(sentence) > 60 and sentence in suites]
    assert all(sentence in training for sentence in set.union(*found))


def books_of(tokenizer, library, split, **settings) -> set[str]:
    found = sentences(tokenizer, split, "book", books=str(library), **settings)
    return {sentence.split(" of book ")[1][0] for sentence in found if " of book " in sentence}


def test_splits_of_many_books_share_no_book(byte_tokenizer, library):
    found = [books_of(byte_tokenizer, library, split) for split in SPLITS]
    assert all(a.isdisjoint(b) for a, b in combinations(found, 2))
    assert [len(books) for books in found] == [4, 4, 4]


def test_a_book_is_read_alone(byte_tokenizer, library):
    for document in made(byte_tokenizer, haystacks=("book",), books=str(library), seq_len=2000, n=8):
        text = read(byte_tokenizer, document.token_ids)
        assert len({part[0] for part in text.split(" of book ")[1:]}) == 1


def test_the_search_may_have_few_of_the_books_and_the_others_choose(byte_tokenizer, library):
    for n_books in (1, 3):
        found = [books_of(byte_tokenizer, library, split, n_books=n_books) for split in SPLITS]
        assert len(found[0]) == n_books and sum(map(len, found)) == 12
        assert all(a.isdisjoint(b) for a, b in combinations(found, 2))
    seeds = [books_of(byte_tokenizer, library, "search", n_books=1, seed=seed) for seed in range(6)]
    assert len(set.union(*seeds)) > 1


def test_few_books_are_parted_by_place_where_a_third_is_long_enough(byte_tokenizer, tmp_path):
    text = " ".join(f"Sentence {j} says nothing of use." for j in range(900))
    (tmp_path / "a.txt").write_text(text)
    settings = {"haystacks": ("book",), "books": str(tmp_path)}

    def places(seq_len):
        documents = Documents(Objective(**settings), byte_tokenizer, target_length=seq_len)
        found = [
            {
                int(part.split()[0])
                for document in documents.make(Draw(split=split, seq_len=seq_len, n_documents=20))
                for part in read(byte_tokenizer, document.token_ids).split("Sentence ")[1:-1]
            }
            for split in SPLITS
        ]
        return documents.splits, found

    by, found = places(800)
    assert by == {"book": "places"} and all(a.isdisjoint(b) for a, b in combinations(found, 2))
    by, found = places(5000)
    assert by == {"book": "samples"} and not found[0].isdisjoint(found[1])


def test_plain_text_is_running_text_scored_from_the_first_token_on(tokenizer, library):
    n_context = len(leading_ids(tokenizer)) or 1
    text = " ".join(training_docs().text.split())
    for document in made(tokenizer, kind="perplexity", seq_len=1000):
        assert len(document.token_ids) == 1000 and document.n_context == n_context
        assert " ".join(read(tokenizer, document.token_ids[:900]).split()) in text
    noise = Documents(Objective(haystacks=("noise",)), tokenizer, target_length=4096)
    short = noise.plain(Draw(seq_len=128, n_documents=3))
    assert [len(document.token_ids) for document in short] == [128] * 3
    assert {document.haystack for document in short} == {"docs"}


def test_pg19_is_its_validation_split(byte_tokenizer, library, monkeypatch, tmp_path):
    asked = []

    def hub_file(repo, file, *, revision, instead):
        asked.append((repo, file, revision))
        return tmp_path / "pg19.parquet"

    corpora._from_hub.cache_clear()
    monkeypatch.setattr(corpora, "hub_file", hub_file)
    entry = corpora.SEARCH_CORPORA["pg19_validation"]
    texts = [prose_of(i) for i in range(10)]
    monkeypatch.setitem(
        corpora.SEARCH_CORPORA, "pg19_validation", corpora._Corpus(**{**vars(entry), "read": lambda path: texts})
    )
    try:
        (document,) = made(byte_tokenizer, haystacks=("pg19",), n=1)
    finally:
        corpora._from_hub.cache_clear()
    assert len(document.token_ids) == 600
    assert asked == [(entry.repo, entry.file, entry.revision)]
    assert "validation" in entry.file and len(entry.revision) == 40
    (tmp_path / "pg19_validation").symlink_to(library)
    (document,) = made(byte_tokenizer, haystacks=("pg19",), n=1, data_dir=str(tmp_path))
    assert " of book " in read(byte_tokenizer, document.token_ids)


def prose_of(i: int) -> str:
    return " ".join(f"Sentence {j} of text {i} is here." for j in range(400))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_keys": 0}, "n_keys = 0: it should be at least 1"),
        ({"n_asked": 0}, "n_asked = 0: it should be at least 1"),
        ({"n_keys": 2, "n_asked": 3}, "n_asked = 3: it should be at most n_keys = 2"),
        ({"n_keys": 99999}, "n_keys = 99999: there are"),
        ({"search_keys": 99999}, "search_keys = 99999: there are"),
        ({"n_keys": 4, "search_keys": 3}, "search_keys = 3: it should be at least n_keys = 4"),
        ({"kind": "perplexity", "search_keys": 3}, "search_keys = 3: kind = 'perplexity' has no keys"),
        ({"n_documents": 0}, "n_documents = 0"),
        ({"position": "end"}, "'end'"),
        ({"position": "grid", "depths": [0.1, 2]}, "2: each should be a fraction"),
        ({"haystacks": []}, "haystacks = .*one or more"),
        ({"haystacks": ["docs", "docs"]}, "each once"),
        ({"haystacks": ["doc"]}, "did you mean 'docs'"),
        ({"kind": "perplexity", "haystacks": ["noise"]}, "needs prose"),
        ({"n_books": 2}, "n_books = 2: haystacks should have 'book' or 'pg19'"),
        ({"document": "fresh"}, "did you mean 'documents'"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(RequestError, match=message):
        build(Objective, settings, where="objective")


def test_texts_too_short_say_how_many_tokens_are_missing(byte_tokenizer, library, tmp_path):
    def refused(message, **settings):
        with pytest.raises(RequestError, match=message) as raised:
            made(byte_tokenizer, **settings)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    book = {"haystacks": ("book",), "books": str(library)}
    message = refused("'book' is too short for documents of 9000 tokens", **book, seq_len=9000)
    longest = max(len(encode(byte_tokenizer, file.read_text())) for file in library.iterdir())
    missing = int(message.split("about ")[1].split()[0])
    assert missing == pytest.approx(1.2 * 9000 - longest, rel=0.1)
    refused(r"part of a split .* tokens are missing", kind="perplexity", seq_len=50_000)
    refused(r"n_books = 11: it should be at most 10, so many of the 12 texts", **book, n_books=11, seq_len=4000)
    refused("n_keys = 20: the needles, the questions and a sentence of text do not fit", n_keys=20, seq_len=300)
    refused('books = "path"', haystacks=("book",))
    refused("no .txt, .txt.xz or .txt.gz file", haystacks=("book",), books=str(tmp_path))
    refused("pg19_validation", haystacks=("pg19",), data_dir=str(tmp_path))


def test_importing_the_room_loads_neither_torch_nor_transformers():
    code = "import sys, methods.longrope.search.documents; print(*{'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_the_training_docs_repeat_nothing_and_nothing_that_samples_are_made_from():
    paragraphs = training_docs().text.strip().split("\n\n")
    assert len(set(paragraphs)) == len(paragraphs) > 300
    assert set(paragraphs).isdisjoint(load("docs").text.split("\n\n"))
