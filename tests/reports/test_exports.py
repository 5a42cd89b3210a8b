"""Tables as files: what a spreadsheet, a parser and LaTeX get, whatever a model wrote."""

import base64
import csv
import io
import json
import re
import zipfile

import pytest

from reports.exports import Table, clean
from tests.reports import hostile


def table(*cells, columns=("name", "score")) -> Table:
    return Table(name="t", caption="A caption\nof two lines", columns=columns, rows=[list(row) for row in cells])


def test_csv_reads_back_with_its_numbers():
    text = table(['a, "b"\nc', 0.25], ["d", None]).csv()
    assert list(csv.reader(io.StringIO(text, newline=""))) == [["name", "score"], ['a, "b"\nc', "0.25"], ["d", ""]]
    assert text.endswith("\r\n")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", "\n=", " =", "%", "|"])
def test_no_text_is_a_formula(start):
    rows = list(csv.reader(io.StringIO(table([f"{start}1+1", -1]).csv(), newline="")))
    assert rows[1][0].startswith("'")
    assert rows[1][1] == "-1"  # a number stays a number


@pytest.mark.parametrize("text", [hostile.TEXT, hostile.FORMULA, hostile.LONG])
def test_hostile_text_in_every_format(text):
    found = table([text, 1], columns=(hostile.TEXT, "score"))
    for contents in found.files().values():
        contents.encode()
        assert not set(contents) & hostile.FORBIDDEN
        assert len(contents) < 30_000
    assert json.loads(found.json())[0]["score"] == 1
    assert len(list(csv.reader(io.StringIO(found.csv(), newline="")))) == 2
    body = [line for line in found.latex().splitlines() if not line.startswith("%")]
    assert len(body) == 7  # no cell breaks a row
    assert not re.search(r"(?<!\\)[#$%&_~^]", "".join(body).replace(" & ", ""))


def test_latex_by_hand():
    lines = table(["50% of $x_1$ & {y}", 0.123456789], ["b", None]).latex().splitlines()
    assert lines == [
        "% A caption of two lines",
        r"\begin{tabular}{lr}",
        r"\hline",
        r"name & score \\",
        r"\hline",
        r"50\% of \$x\_1\$ \& \{y\} & 0.123457 \\",
        r"b & -- \\",
        r"\hline",
        r"\end{tabular}",
    ]


def test_a_page_carries_the_three_files():
    links = table(["a", 1]).links()
    assert [link["name"] for link in links] == ["t.csv", "t.json", "t.tex"]
    assert base64.b64decode(links[0]["href"].partition(",")[2]) == table(["a", 1]).csv().encode()


def test_a_large_table_is_one_archive_of_the_three():
    large = table(*([f"method {i}", i / 7] for i in range(1000)))
    (link,) = large.links()
    archive = zipfile.ZipFile(io.BytesIO(base64.b64decode(link["href"].partition(",")[2])))
    assert archive.namelist() == ["t.csv", "t.json", "t.tex"]
    assert archive.read("t.csv").decode() == large.csv()
    assert large.links() == [link]


def test_clean_cuts_and_keeps_what_is_harmless():
    assert clean("a\u202eb\x00c\ud800é日") == "a\ufffdb\ufffdc\ufffdé日"
    assert clean("abcdef", 4) == "abc…"
