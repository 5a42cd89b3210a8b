"""Row files: what is read, and how every broken one is named."""

import gzip
import json
import os
import sys
from types import ModuleType

import pytest

from harness.errors import RequestError
from tasks.data import find_file, hub_rows, read_json, read_rows, read_zip_member, rows_sha256

ROWS = [{"n": i, "text": f"row {i}, 中文\u2028é"} for i in range(1, 4)]


def lines(rows=ROWS) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", lines()),
        ("a.jsonl", lines().rstrip(b"\n")),
        ("a.jsonl", lines().replace(b"\n", b"\r\n")),
        ("a.jsonl.gz", gzip.compress(lines(), mtime=0)),
        ("a.jsonl.gz", gzip.compress(lines(ROWS[:1]), mtime=0) + gzip.compress(lines(ROWS[1:]), mtime=0)),
        ("a.json", json.dumps(ROWS, indent=1).encode()),
        ("a.json.gz", gzip.compress(json.dumps(ROWS).encode(), mtime=0)),
    ],
)
def test_the_same_rows_however_they_are_stored(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    rows = read_rows(tmp_path / name)
    assert [dict(row.fields) for row in rows] == ROWS
    assert rows[1].where == f"{tmp_path / name}, row 2"
    (tmp_path / "plain.jsonl").write_bytes(lines())
    assert rows_sha256(rows) == rows_sha256(read_rows(tmp_path / "plain.jsonl"))
    assert rows_sha256(rows[:2]) != rows_sha256(rows) != rows_sha256(rows[::-1])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", lines() + b'{"n": "\xff"}\n', r"row 4: not UTF-8 \(invalid start byte at byte 8\)"),
        ("a.jsonl", lines() + b'{"n": 4\n' + lines(), r"row 4: not JSON \(.* column 8\)"),
        ("a.jsonl", lines() + b"\n" + lines(), "row 4: not JSON"),
        ("a.jsonl", lines() + b"[1]\n", "row 4: should be an object with named fields, it is a list"),
        ("a.jsonl", b"[" * 100_000, "row 1: JSON that is nested too deep"),
        ("a.jsonl", b"", ": holds no rows"),
        ("a.json", b'{"n": 1}', ": should hold a list of rows, it holds an object"),
        ("a.json", b"[]", ": holds no rows"),
        ("a.json", b"[1]", "row 1: should be an object with named fields, it is 1"),
        ("a.jsonl.gz", gzip.compress(lines(), mtime=0)[:-12], "row [34]: the gzip file is cut short or broken"),
        ("a.jsonl.gz", lines(), "row 1: the gzip file is cut short or broken"),
        ("a.jsonl.gz", b"", ": holds no rows"),
    ],
)
def test_a_broken_file_is_named_with_its_row(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RequestError, match=message) as raised:
        read_rows(tmp_path / name)
    assert str(raised.value).startswith(str(tmp_path / name))
    assert "\n" not in str(raised.value)


def test_a_gz_cut_short_says_the_row_it_ends_in(tmp_path):
    rows = [{"n": i, "text": os.urandom(500).hex()} for i in range(1000)]
    packed = gzip.compress(lines(rows))
    (tmp_path / "a.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(RequestError, match=r"row (4[89]\d|50\d|51\d): the gzip file is cut short"):
        read_rows(tmp_path / "a.jsonl.gz")


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(RequestError, match=r"a\.jsonl: there is no such file"):
        read_rows(tmp_path / "a.jsonl")
    with pytest.raises(RequestError, match="there is no such folder"):
        find_file(tmp_path / "absent", "a")
    with pytest.raises(RequestError, match=r"lacks a file: it should hold a\.jsonl\[\.gz\] or b\.jsonl\[\.gz\]"):
        find_file(tmp_path, "a", "b")
    (tmp_path / "b.json").write_bytes(b"[]")
    assert find_file(tmp_path, "a", "b") == tmp_path / "b.json"
    (tmp_path / "a.jsonl").write_bytes(lines())
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(), mtime=0))
    with pytest.raises(RequestError, match=r"holds a\.jsonl and a\.jsonl\.gz: keep one of them"):
        find_file(tmp_path, "a")


def test_json_of_any_shape(tmp_path):
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b'{"data": [1]}'))
    assert read_json(tmp_path / "a.json.gz") == {"data": [1]}


def test_a_broken_archive_is_named(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(RequestError, match=r"data\.zip: cannot be unpacked"):
        read_zip_member(tmp_path / "data.zip", "a")


def test_a_hub_split_is_read_at_its_revision(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        if kwargs["revision"] == "bad":
            raise ConnectionError("many\nlines")
        return ROWS

    module = ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    rows = hub_rows("org/set", config="c", split="test", revision="0123abc", instead="set data_dir")
    assert [dict(row.fields) for row in rows] == ROWS
    assert rows[2].where == "org/set c test, row 3"
    assert asked == [(("org/set", "c"), {"split": "test", "revision": "0123abc"})]
    with pytest.raises(RequestError, match=r"org/set test at revision bad .*ConnectionError.* set data_dir") as raised:
        hub_rows("org/set", split="test", revision="bad", instead="set data_dir")
    assert "\n" not in str(raised.value)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RequestError, match="pip install datasets, or set data_dir"):
        hub_rows("org/set", split="test", revision="0123abc", instead="set data_dir")
