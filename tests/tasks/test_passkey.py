import hashlib
import random
from dataclasses import replace

import pytest

from harness.types import Output
from tasks.passkey import Passkey, longrope_prompt


@pytest.mark.parametrize(
    ("n_tokens", "sha256"),
    [
        (256, "e694420a9e6feb94d698278e0695ebe561a48194329c7b00d788a5b18f58da7b"),
        (1024, "bf4ffb613144fed6b5a9e27266ea018f1c6443a7c5dafbbae62350da8c5936ff"),
        (4096, "a85fb60edc87947932bd1328d899084e230269cefadb04822439ff5c0e769e08"),
    ],
)
def test_longrope_prompt_is_the_published_one(n_tokens, sha256):
    # From generate_prompt(calc_str_length(n)) after random.seed(42): microsoft/LongRoPE c9e56aa, evaluation/passkey.py
    text, key, depth = longrope_prompt(random.Random(42), n_tokens)
    assert (hashlib.sha256(text.encode()).hexdigest(), key) == (sha256, 7297)
    assert depth == pytest.approx(0.7, abs=0.01)


def test_longrope_says_its_true_length(byte_tokenizer):
    for example in Passkey().examples("passkey_longrope", seq_len=512, n=3, seed=0, tokenizer=byte_tokenizer):
        assert example.n_tokens == len(example.prompt_ids) + 10 == example.metadata["n_prompt_tokens"] + 10
        assert example.n_tokens > 512


def test_the_key_lies_at_its_depth_and_stands_twice(tokenizer):
    examples = list(Passkey(depths=5).examples("passkey", seq_len=4096, n=5, seed=3, tokenizer=tokenizer))
    for example, depth in zip(examples, [0, 0.25, 0.5, 0.75, 1], strict=True):
        text = tokenizer.decode(list(example.prompt_ids), skip_special_tokens=True)
        line = f"The pass key is {example.answers[0]}. Remember it. {example.answers[0]} is the pass key."
        assert text.count(line) == 1
        assert abs(text.index(line) / len(text) - depth) < 0.05
        assert text.endswith("What is the pass key? The pass key is")
        assert 1 <= int(example.answers[0]) <= 50_000


@pytest.mark.parametrize(
    ("text", "score"), [(" 12.", 1), ("it is 00012", 1), ("123", 0), ("1 2", 0), ("no", 0), ("", 0)]
)
def test_the_first_number_decides(text, score, byte_tokenizer):
    (example,) = Passkey().examples("passkey", seq_len=300, n=1, seed=0, tokenizer=byte_tokenizer)
    assert Passkey().score("passkey", replace(example, answers=("12",)), Output(text=text)).value == score
