"""A suite that calls a generation settled is right: whatever the model would still have written, the score stands."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.catalogue import names, resolve
from harness.types import Example, Output
from tasks import scoring
from tasks.base import SettlesEarly

SUITES = {
    "needle": ({}, ["keys1_noise", "keys2_values2_noise"], ("7302945", "1234567")),
    "needle-sf": ({}, ["san_francisco"], ("moon", "B", "sun")),
    "key_value": ({}, ["kv_retrieval"], ("abcde",)),
    "passkey": ({}, ["passkey"], ("730",)),
    "ruler-nvidia": ({}, ["niah_single_1", "niah_multivalue", "qa_1", "vt"], ("ABCDE", "7302945", "ας")),
    "ruler-fixed": ({}, ["cwe"], ("moon", "Sun")),
    "longbench-thudm": ({}, ["trec", "triviaqa", "lcc", "repobench-p", "hotpotqa"], ("moon",)),
    "longbench-v2": ({}, ["short"], ("B",)),
}
CASES = [(suite, task) for suite, (_, tasks, _) in SUITES.items() for task in tasks]
PIECES = [
    "7302945", "1234567", "730", "ABCDE", "abcde", "moon", "Sun", "sun", "ας", "ΑΣ", "Α", "B",
    "The correct answer is (B)", "The correct answer is A", "The correct answer is (", ")", "*",
    "0", "5", "x", " ", "\n", "\n\n", ".", ",", "`", "#", "//", "\x07", "\x1c", "\t", "is: ", "\u0130",
]  # fmt: skip


def test_every_suite_that_settles_early_is_tested():
    assert {name for name in names("suite") if issubclass(resolve("suite", name), SettlesEarly)} == SUITES.keys()


@pytest.mark.parametrize(("name", "task"), CASES)
@settings(max_examples=150, deadline=None)
@given(
    pieces=st.lists(st.sampled_from(PIECES) | st.text(max_size=2), max_size=12),
    n_answers=st.integers(1, 3),
)
def test_nothing_written_behind_a_settled_text_moves_its_score_or_measures(name, task, pieces, n_answers):
    given_settings, _, answers = SUITES[name]
    suite = resolve("suite", name)(**given_settings)
    if name in ("longbench-v2", "passkey"):
        n_answers = 1
    example = Example(id="x", answers=answers[:n_answers], metadata={"all_classes": ["moon", "sun", "moons"]})
    text = "".join(pieces)
    final = suite.score(task, example, Output(text=text))
    for end in range(len(text) + 1):
        if suite.settled(task, example, text[:end]):
            assert suite.score(task, example, Output(text=text[:end])) == final


def test_a_letter_whose_lower_case_depends_on_what_follows():
    assert scoring.string_match_all("\u0391\u03a3", ["\u03b1\u03c2"]) == 1
    assert scoring.string_match_all("\u0391\u03a3\u0391", ["\u03b1\u03c2"]) == 0
    assert not scoring.holds_all("\u0391\u03a3", ["\u03b1\u03c2"])


@pytest.mark.parametrize(
    ("name", "task", "text"),
    [
        ("needle", "keys1_noise", " is 7302945."),
        ("passkey", "passkey", " 12 "),
        ("ruler-nvidia", "niah_single_1", "abcde"),
        ("ruler-nvidia", "qa_1", "it is abcde"),
        ("longbench-thudm", "trec", "\nmoon\n"),
        ("longbench-thudm", "lcc", "# no\nmoon\n"),
        ("longbench-v2", "short", "The **correct** answer is (D"),
    ],
)
def test_settles_as_soon_as_the_last_thing_that_counts_is_written(name, task, text):
    suite = resolve("suite", name)()
    example = Example(id="x", answers=SUITES[name][2][:1])
    whole = text + ")" if name == "longbench-v2" else text
    assert suite.settled(task, example, whole)
    assert not suite.settled(task, example, whole[:-1])
