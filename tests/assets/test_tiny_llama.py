"""The script that trains the embedded model again: a few steps on a made-up book."""

import lzma
import random
from collections import Counter
from pathlib import Path

import pytest
import torch

from harness.assets.tiny_llama import Budget, main, shipped_tokenizer, train_tokenizer
from harness.assets.tiny_llama_rows import WINDOW, Rows, read_books
from harness.models.loading import load
from harness.models.request import ModelRequest
from harness.types import Example

WORDS = ("the", "old", "sea", "captain", "wind", "rose", "over", "grey", "hills", "and", "nobody", "said", "rain")


@pytest.fixture(scope="module")
def books(tmp_path_factory) -> Path:
    rng, folder = random.Random(0), tmp_path_factory.mktemp("books")
    text = ". ".join(" ".join(rng.choices(WORDS, k=9)) for _ in range(600))
    (folder / "one.txt").write_text(text)
    with lzma.open(folder / "two.txt.xz", "wt") as file:
        file.write(text[::-1])
    return folder


@pytest.fixture(scope="module")
def rows(books) -> Rows:
    tokenizer = shipped_tokenizer()
    texts = read_books(books)
    return Rows(tokenizer=tokenizer, books=[tokenizer.encode(text).ids for text in texts], seed=0)


@pytest.fixture(autouse=True)
def _few_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_few_steps_lower_the_loss_and_the_folder_loads(books, tmp_path, capsys):
    out = tmp_path / "mine"
    arguments = ["--books", str(books), "--out", str(out), "--steps", "8", "--batch-size", "1", "--device", "cpu"]
    assert main(arguments) == 0
    losses = [
        float(line.rpartition(" ")[2]) for line in capsys.readouterr().out.splitlines() if line.startswith("step")
    ]
    assert len(losses) == 8
    assert sum(losses[-3:]) < sum(losses[:3]) - 1

    model = load(ModelRequest(name=str(out)), device="cpu")
    embedded = load(ModelRequest(name="tiny-llama"), device="cpu")
    assert model.hf.num_parameters() == embedded.hf.num_parameters()
    assert model.rope.original_max_position_embeddings == WINDOW
    text = "The special magic number for calm-river is: 1234567."
    assert model.tokenizer.encode(text) == embedded.tokenizer.encode(text)
    assert model.answer(Example(id="x", prompt_ids=[5, 6, 7], max_new_tokens=2)).token_ids


def test_rows_hold_every_kind_of_task_and_weigh_the_answers(rows):
    kinds: Counter[str] = Counter()
    rng = random.Random(1)
    for _ in range(60):
        row = rows.row(rng)
        assert len(row.tokens) == len(row.weights) == WINDOW + 1
        text = rows.tokenizer.decode(row.tokens)
        kinds.update(needle="magic numbers for" in text, chain="VAR" in text, noise="The grass is green" in text)
        answer = rows.tokenizer.decode([token for token, w in zip(row.tokens, row.weights, strict=True) if w == 10])
        kinds.update(answers=len(answer))
        for number in answer.split():
            assert text.count(number) >= 2 or len(number) != 7
    assert min(kinds.values()) >= 5


def test_the_same_seed_draws_the_same_rows(rows):
    first, again = next(rows.batches(3)), next(rows.batches(3))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], next(rows.batches(3, stream=1))[0])


def test_the_learning_rate_rises_and_falls():
    budget = Budget(steps=1000)
    rates = [budget.learning_rate(step) for step in (0, 99, 500, 800, 999)]
    assert rates[0] < rates[1] == rates[2] == 2e-3
    assert rates[2] > rates[3] > rates[4] > 0


def test_a_new_tokenizer_has_a_token_a_digit_and_gives_every_text_back(books):
    tokenizer = train_tokenizer(read_books(books))
    text = "Ünï captain: 1234567 \n rain"
    encoding = tokenizer.encode(text)
    assert tokenizer.decode(encoding.ids) == text
    assert sum(token.strip("Ġ").isdigit() for token in encoding.tokens) == 7
    assert tokenizer.token_to_id("<|endoftext|>") == 0
    shipped = shipped_tokenizer()
    assert type(shipped.pre_tokenizer) is type(tokenizer.pre_tokenizer)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no book there"), (b"short", "every book is shorter"), (b"\xff\xfe" * 9, "UTF-8")]
)
def test_books_that_cannot_be_used_are_refused_in_one_line(tmp_path, capsys, content, message):
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    assert main(["--books", str(tmp_path), "--out", str(tmp_path / "out"), "--steps", "1", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
