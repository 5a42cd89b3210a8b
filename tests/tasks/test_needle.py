import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from harness.catalogue import build
from harness.errors import RequestError
from harness.types import Output
from tasks.needle import Needle
from tasks.words import ADJECTIVES, NOUNS


def draw(task, tokenizer, *, seq_len, n=1, seed=0, **fields):
    return list(Needle(**fields).examples(task, seq_len=seq_len, n=n, seed=seed, tokenizer=tokenizer))


def read(tokenizer, example):
    return tokenizer.decode(list(example.prompt_ids), skip_special_tokens=True)


def test_one_number_is_asked_for_in_the_singular(byte_tokenizer):
    (example,) = draw("keys1_docs", byte_tokenizer, seq_len=400, depths=(0.0,))
    text, key, (value,) = read(byte_tokenizer, example), example.metadata["key"], example.answers
    assert text.startswith(
        "A special magic number is hidden within the following text. Make sure to memorize it. I will quiz you about "
        f"the number afterwards.\nOne of the special magic numbers for {key} is: {value}. "
    )
    assert text.endswith(
        f"\nWhat is the special magic number for {key} mentioned in the provided text? "
        f"The special magic number for {key} mentioned in the provided text is"
    )
    assert example.max_new_tokens == 16


def test_several_numbers_are_asked_for_in_the_plural(byte_tokenizer):
    (example,) = draw("keys1_values4_noise", byte_tokenizer, seq_len=600)
    text, key = read(byte_tokenizer, example), example.metadata["key"]
    assert text.startswith("Some special magic numbers are hidden within the following text. Make sure to memorize it.")
    assert " I will quiz you about the numbers afterwards.\n" in text
    assert text.endswith(
        f"\nWhat are all the special magic numbers for {key} mentioned in the provided text? "
        f"The special magic numbers for {key} mentioned in the provided text are"
    )
    assert example.max_new_tokens == 64
    assert draw("keys1_values4_noise", byte_tokenizer, seq_len=600, max_new_tokens=40)[0].max_new_tokens == 40


def test_each_key_owns_its_numbers_and_only_one_key_is_asked_for(tokenizer):
    for example in draw("keys3_values2_docs", tokenizer, seq_len=900, n=6):
        text = read(tokenizer, example)
        needles = [
            part.split(".")[0].split(" is: ") for part in text.split("One of the special magic numbers for ")[1:]
        ]
        owned = {key: [value for owner, value in needles if owner == key] for key, _ in needles}
        assert len(needles) == 6 and len({value for _, value in needles}) == 6
        assert [len(values) for values in owned.values()] == [2, 2, 2]
        assert sorted(owned[example.metadata["key"]]) == sorted(example.answers)
        for answer in example.answers:
            assert len(answer) == 7 and text.count(answer) == 1


@pytest.mark.parametrize("haystack", ["noise", "docs", "book"])
def test_the_needle_lies_at_its_depth(haystack, tokenizer, books):
    examples = draw(f"keys2_values2_{haystack}", tokenizer, seq_len=8192, n=5, depths=5, books=books)
    assert [example.metadata["depth_fraction"] for example in examples] == [0, 0.25, 0.5, 0.75, 1]
    for example in examples:
        text = read(tokenizer, example)
        place = text.index(example.answers[0]) / len(text)
        assert abs(place - example.metadata["depth_fraction"]) < 0.03
        assert abs(example.metadata["needle_positions"][0] - example.metadata["depth_fraction"]) < 0.03


def test_positions_are_where_the_needles_begin(byte_tokenizer):
    (example,) = draw("keys2_values3_docs", byte_tokenizer, seq_len=1000)
    for position, value in zip(example.metadata["needle_positions"], example.answers, strict=True):
        behind = byte_tokenizer.decode(example.prompt_ids[round(position * len(example.prompt_ids)) :]).lstrip()
        assert behind.startswith(f"One of the special magic numbers for {example.metadata['key']} is: {value}.")


def test_needles_stand_between_sentences(byte_tokenizer):
    for example in draw("keys4_docs", byte_tokenizer, seq_len=2000, n=10, depths=(0.1, 0.5, 0.9)):
        context = read(byte_tokenizer, example).split("\n")[1]
        for before in context.split("One of the special magic numbers")[1:-1]:
            assert before.rstrip()[-1] in ".!?\"')]*\u201d\u2019"


def test_every_depth_is_covered_by_a_prefix(byte_tokenizer):
    depths = [example.metadata["depth_fraction"] for example in draw("keys1_noise", byte_tokenizer, seq_len=256, n=23)]
    assert sorted(set(depths[:10])) == [i / 9 for i in range(10)]
    assert depths[10:20] == depths[:10]


def test_samples_begin_at_places_of_their_own(byte_tokenizer):
    examples = draw("keys1_docs", byte_tokenizer, seq_len=512, n=20, depths=(1.0,))
    openings = {read(byte_tokenizer, example).split("\n")[1][:60] for example in examples}
    assert len(openings) >= 18
    assert all(not opening[0].isspace() for opening in openings)


def test_a_haystack_shorter_than_the_length_is_read_again(tmp_path, byte_tokenizer):
    (tmp_path / "short.txt").write_text("It was a dark night. The rain fell in torrents. Nobody saw the light go out.")
    (example,) = draw("keys1_book", byte_tokenizer, seq_len=2000, books=str(tmp_path))
    assert read(byte_tokenizer, example).count("Nobody saw the light go out.") > 20
    assert example.n_tokens >= 1990


def test_numbers_of_the_haystack_are_never_a_value(tmp_path, byte_tokenizer, monkeypatch):
    import random

    first = random.Random(0).randint
    monkeypatch.setattr(random.Random, "randint", lambda self, a, b: 7_654_321 if first(0, 1) else 1_234_567)
    (tmp_path / "numbers.txt").write_text("They counted 17654321 sheep. Then they slept. " * 20)
    for example in draw("keys1_book", byte_tokenizer, seq_len=300, n=4, books=str(tmp_path)):
        assert example.answers == ("1234567",)


def test_special_tokens_in_a_text_are_text(tmp_path, bos_tokenizer):
    (tmp_path / "odd.txt").write_text("A page says <s> and </s> in the middle of it. " * 30)
    (example,) = draw("keys1_book", bos_tokenizer, seq_len=700, books=str(tmp_path))
    assert list(example.prompt_ids).count(bos_tokenizer.bos_token_id) == 1
    assert bos_tokenizer.eos_token_id not in example.prompt_ids


def test_a_tokenizer_without_places_is_refused(byte_tokenizer):
    class Slow:
        is_fast = False

        def __call__(self, text, **options):
            return byte_tokenizer(text, **options)

    with pytest.raises(RequestError, match=r"Slow.*fast"):
        draw("keys1_noise", Slow(), seq_len=300)


def test_the_teacher_forced_answer_is_the_numbers_in_their_order(tokenizer):
    for example in draw("keys2_values3_docs", tokenizer, seq_len=700, n=5, scoring="teacher_forced"):
        (segment,) = example.segments
        prompt = tokenizer.decode(list(segment.token_ids[: segment.n_context]), skip_special_tokens=True)
        answer = tokenizer.decode(list(segment.token_ids[segment.n_context :]))
        a, b, c = sorted(example.answers, key=prompt.index)
        assert prompt.endswith(" mentioned in the provided text are:")
        assert answer.strip() == f"{a}, {b}, and {c}"


def test_both_ways_of_scoring_see_the_same_sample(byte_tokenizer):
    (generated,) = draw("keys4_docs", byte_tokenizer, seq_len=700)
    (forced,) = draw("keys4_docs", byte_tokenizer, seq_len=700, scoring="teacher_forced")
    assert generated.answers == forced.answers and generated.id == forced.id
    assert generated.metadata["key"] == forced.metadata["key"]


def test_scores_of_generated_text(byte_tokenizer):
    suite = Needle()
    (one,) = draw("keys1_noise", byte_tokenizer, seq_len=300)
    (many,) = draw("keys1_values4_noise", byte_tokenizer, seq_len=500)
    longer = suite.score("keys1_noise", one, Output(text=f": 9{one.answers[0]}9"))
    assert (longer.value, longer.measures) == (1, {"number_match_all": 0})  # RULER's substring, and the whole number
    assert suite.score("keys1_values4_noise", many, Output(text=" and ".join(many.answers[1:]))).value == 0.75
    assert suite.metric("keys1_noise").kind == "binary"
    assert suite.metric("keys1_values4_noise").kind == "graded"
    assert Needle(scoring="teacher_forced").metric("keys1_values4_noise").kind == "binary"


def test_one_wrong_token_fails_the_teacher_forced_answer():
    suite = Needle(scoring="teacher_forced")
    output = Output(logprobs=((-0.5, -1.0),), greedy=((True, False),))
    score = suite.score("keys1_noise", None, output)
    assert (score.value, score.measures) == (0, {"nll": 1.5, "n_scored_tokens": 2})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"depths": 0}, "depths = 0"),
        ({"depths": [0.1, 1.5]}, "1.5.*from 0 to 1"),
        ({"depths": [float("nan")]}, "nan.*from 0 to 1"),
        ({"depths": []}, "empty"),
        ({"depths": "all"}, "'all'"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0"),
        ({"scoring": "generate"}, "did you mean 'generated'"),
    ],
)
def test_bad_settings_are_named(params, message):
    with pytest.raises(RequestError, match=message):
        build(Needle, params, where="suite 'needle'")


@pytest.mark.parametrize(
    "task", ["keys0_noise", "keys1", "keys1_values0_docs", "keys1_web", "keys 1_noise", "", "keys١_docs"]
)
def test_names_outside_the_grammar_are_refused(task):
    with pytest.raises(RequestError, match="the form is keys"):
        Needle().check(task)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("keys9999_noise", f"there are {len(ADJECTIVES) * len(NOUNS)} keys"),
        ("keys1000_values11_docs", "at most 10000"),
        ("keys1_values99999_docs", "the form is keys"),
    ],
)
def test_more_needles_than_there_can_be_are_refused(task, message):
    with pytest.raises(RequestError, match=message):
        Needle().check(task)


def test_a_book_needs_a_folder():
    with pytest.raises(RequestError, match='books = "path"'):
        Needle().check("keys1_book")


def test_no_key_hides_in_another():
    assert len(set(ADJECTIVES)) == len(ADJECTIVES) and len(set(NOUNS)) == len(NOUNS)
    assert not [(a, b) for a in ADJECTIVES for b in ADJECTIVES if a != b and b.endswith(a)]
    assert not [(a, b) for a in NOUNS for b in NOUNS if a != b and b.startswith(a)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seq_len=st.integers(120, 3000),
    n_keys=st.integers(1, 7),
    n_values=st.integers(1, 3),
    haystack=st.sampled_from(["noise", "docs", "book"]),
    depths=st.lists(st.floats(0, 1), min_size=1, max_size=4).map(tuple),
    scoring=st.sampled_from(["generated", "teacher_forced"]),
    seed=st.integers(0, 10_000),
)
def test_any_length_is_kept_to(seq_len, n_keys, n_values, haystack, depths, scoring, seed, tokenizer, books):
    suite = Needle(scoring=scoring, depths=depths, books=books)
    task = f"keys{n_keys}_values{n_values}_{haystack}"
    assume(seq_len >= suite.shortest(task, tokenizer))
    (example,) = suite.examples(task, seq_len=seq_len, n=1, seed=seed, tokenizer=tokenizer)
    ids = example.segments[0].token_ids[: example.segments[0].n_context] if example.segments else example.prompt_ids
    text = tokenizer.decode(list(ids), skip_special_tokens=True)
    assert 0.95 * seq_len <= example.n_tokens <= seq_len
    assert text.count("One of the special magic numbers for ") == n_keys * n_values
    assert all(text.count(answer) == 1 for answer in example.answers)


@pytest.mark.parametrize("task", ["keys1_noise", "keys4_docs"])
def test_the_embedded_model_knows_these_words(task, byte_tokenizer):
    import torch
    from transformers import AutoModelForCausalLM

    from .conftest import TINY_LLAMA

    model = AutoModelForCausalLM.from_pretrained(TINY_LLAMA, dtype=torch.float32)
    found = 0
    for example in draw(task, byte_tokenizer, seq_len=400, n=6, scoring="teacher_forced"):
        (segment,) = example.segments
        ids = torch.tensor([list(segment.token_ids)])
        with torch.no_grad():
            best = model(ids).logits[0, segment.n_context - 1 : -1].argmax(-1)
        found += torch.equal(best, ids[0, segment.n_context :])
    assert found >= 5
