"""LongBench: which rows are asked, how they are cut, and what an answer scores."""

import json
import pickle
import zipfile

import pytest

from harness.catalogue import build
from harness.errors import RequestError
from harness.types import Example, Output
from tasks.base import Suite
from tasks.data import read_rows
from tasks.longbench import chinese
from tasks.longbench.table import LENGTH_BINS, TASKS
from tasks.longbench.v1 import FILE, REPO, REVISION, LongBench
from tests.tasks.longbench.rows import CHAT_TEMPLATE, row_v1, with_chat, write_rows

BARE = {"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"}  # without the chat template


@pytest.fixture
def folder(tmp_path):
    """Thirty rows of ours, as every task that needs no special answers."""
    rows = [row_v1(f"r{i}", length=1000 * i) for i in range(30)]
    for task in ("qasper", "qasper_e", "hotpotqa", "samsum", "gov_report"):
        write_rows(tmp_path / f"{task}.jsonl", rows)
    return tmp_path


def draw(folder, task, tokenizer, *, seq_len=4096, n=5, seed=0, **settings):
    suite = LongBench(data_dir=str(folder), **settings)
    return list(suite.examples(task, seq_len=seq_len, n=n, seed=seed, tokenizer=tokenizer))


def test_it_is_a_suite_of_21_tasks_and_13_with_bins():
    suite = LongBench()
    assert isinstance(suite, Suite)
    assert len(suite.tasks()) == 21
    in_e = [task for task in TASKS if TASKS[task].in_e]
    assert len(in_e) == 13
    for task in in_e:
        for name in (f"{task}_e", *(f"{task}_e_{part}" for part in LENGTH_BINS)):
            assert suite.metric(name) == suite.metric(task)
    assert {task for task in TASKS if not TASKS[task].chat} == BARE


@pytest.mark.parametrize("wrong", ["narrativeq", "narrativeqa_e", "qasper_e_4k"])
def test_an_unknown_task_is_refused_with_a_suggestion(wrong):
    with pytest.raises(RequestError, match=f"unknown longbench-thudm task '{wrong}': did you mean '"):
        LongBench().check(wrong)


def test_an_oracle_scores_one_and_silence_zero_on_every_row_of_every_task(data_dir):
    suite = LongBench(data_dir=str(data_dir / "longbench"))
    for task in TASKS:
        for row in read_rows(data_dir / "longbench" / f"{task}.jsonl.gz"):
            classes = {"all_classes": row.fields["all_classes"]}
            example = Example(id="x", answers=row.texts("answers"), metadata=classes)
            best = suite.score(task, example, Output(text=example.answers[0])).value
            if TASKS[task].metric.startswith("rouge"):
                # The package rouge adds 1e-8 to the denominator of F: nothing scores more than 1 - 5e-9.
                assert 1 - 6e-9 < best < 1
            else:
                assert best == 1
            assert suite.score(task, example, Output()).value == 0


@pytest.mark.parametrize(
    ("task", "answer", "classes", "score"),
    [
        ("qasper", "The", (), 0),  # an article is no word
        ("multifieldqa_zh", "。", (), 0),  # nor is punctuation
        ("lcc", "x = 1  # one", (), 0),  # a line with a comment is passed over
        ("samsum", "One.\nTwo three.", (), 0.5),  # only the first line is read
        ("trec", "Other number", ("Other", "number", "Other number"), 0.5),  # the second of two parts still counts
    ],
)
def test_where_a_perfect_answer_scores_less_than_one_with_the_authors_too(task, answer, classes, score):
    example = Example(id="x", answers=(answer,), metadata={"all_classes": classes})
    assert LongBench().score(task, example, Output(text=answer)).value == pytest.approx(score, abs=1e-6)


def test_rows_are_a_prefix_of_more_rows_and_the_same_at_every_length(folder, byte_tokenizer):
    some, more = (draw(folder, "qasper", byte_tokenizer, n=n) for n in (5, 30))
    assert more[:5] == some
    names = [example.metadata["row"] for example in more]
    assert sorted(names) == sorted(f"r{i}" for i in range(30))
    assert names != sorted(names, key=lambda name: int(name[1:]))
    assert [e.metadata["row"] for e in draw(folder, "qasper", byte_tokenizer, seq_len=2048, n=30)] == names
    assert [e.metadata["row"] for e in draw(folder, "qasper", byte_tokenizer, n=30, seed=1)] != names
    assert len({example.id for example in more}) == 30


def test_more_samples_than_rows_are_refused_with_both_numbers(folder, byte_tokenizer):
    assert LongBench(data_dir=str(folder)).n_available("qasper") == 30
    with pytest.raises(RequestError, match="'qasper' has 30 rows, n_samples = 31"):
        draw(folder, "qasper", byte_tokenizer, n=31)


def test_a_bin_holds_the_rows_of_its_length(folder, byte_tokenizer):
    whole = draw(folder, "qasper_e", byte_tokenizer, n=30)
    assert {e.metadata["length"]: e.metadata["length_bin"] for e in whole}[3000] == "0-4k"
    sizes = {}
    for part in LENGTH_BINS:
        task = f"qasper_e_{part}"
        sizes[part] = LongBench(data_dir=str(folder)).n_available(task)
        bins = {e.metadata["length_bin"] for e in draw(folder, task, byte_tokenizer, n=sizes[part])}
        assert bins == {part}
    assert sizes == {"0-4k": 4, "4-8k": 4, "8k+": 22}
    assert "length_bin" not in draw(folder, "qasper", byte_tokenizer)[0].metadata


def test_bins_end_where_the_authors_end_them(tmp_path, byte_tokenizer, golden):
    bins = golden("eval.json")["bins"]
    write_rows(tmp_path / "qasper_e.jsonl", [row_v1(str(length), length=length) for length, _ in bins])
    found = draw(tmp_path, "qasper_e", byte_tokenizer, n=len(bins))
    assert {e.metadata["length"]: e.metadata["length_bin"] for e in found} == dict(map(tuple, bins))


@pytest.mark.parametrize("settings", [{}, {"max_length": "fill"}])
@pytest.mark.parametrize("task", ["qasper", "samsum", "gov_report"])
def test_a_cut_prompt_keeps_both_ends_and_fits(folder, tokenizer, task, settings):
    template, n_new = TASKS[task].template, TASKS[task].max_new_tokens
    long = row_v1("long", context="first words " + "The rain fell on the hills all day long. " * 2000 + " last words")
    write_rows(folder / f"{task}.jsonl", [long])
    for prompt in ("base", "chat"):
        suite = LongBench(data_dir=str(folder), prompt=prompt, **settings)
        chat = with_chat(tokenizer)
        for seq_len in (suite.shortest(task, chat), 2048, 4096):
            (example,) = suite.examples(task, seq_len=seq_len, n=1, seed=0, tokenizer=chat)
            assert example.metadata["truncated"]
            assert example.max_new_tokens == n_new
            assert example.n_tokens <= seq_len
            if settings:
                assert example.n_tokens >= seq_len - 8
            text = chat.decode(example.prompt_ids, skip_special_tokens=True)
            wrapped = prompt == "chat" and task not in BARE
            assert text.lstrip().startswith(("[INST]" if wrapped else "") + template[:30])
            assert text.endswith(template.replace("{input}", long["input"])[-20:] + ("[/INST]" if wrapped else ""))


def test_the_authors_number_of_tokens_is_kept(folder, byte_tokenizer):
    write_rows(folder / "qasper.jsonl", [row_v1(context="The rain fell on the hills all day long. " * 5000)])
    for seq_len, kept in ((4096, 3500), (8192, 7500), (16384, 15500), (32768, 31500)):
        (example,) = draw(folder, "qasper", byte_tokenizer, seq_len=seq_len, n=1)
        assert example.metadata["n_kept_tokens"] == kept
        assert abs(len(example.prompt_ids) - kept) < 5
    (example,) = draw(folder, "hotpotqa", byte_tokenizer, n=1)
    assert example.metadata["truncated"] is False
    assert example.metadata["n_kept_tokens"] == example.metadata["n_text_tokens"] == len(example.prompt_ids)


@pytest.mark.parametrize("settings", [{}, {"max_length": "fill"}])
def test_a_length_below_the_shortest_is_refused(folder, byte_tokenizer, settings):
    for task in TASKS:
        shortest = LongBench(**settings).shortest(task, byte_tokenizer)
        assert TASKS[task].max_new_tokens < shortest <= 2048
    shortest = LongBench(**settings).shortest("qasper", byte_tokenizer)
    with pytest.raises(RequestError, match=f"'qasper'.* {shortest - 1} tokens.*shortest is {shortest}"):
        draw(folder, "qasper", byte_tokenizer, seq_len=shortest - 1, **settings)


def test_a_bos_stands_once_and_no_eos_behind(folder, bos_tokenizer):
    chat = with_chat(bos_tokenizer, "{{ bos_token }}" + CHAT_TEMPLATE)
    for prompt in ("base", "chat"):
        for example in draw(folder, "qasper", chat, prompt=prompt):
            assert list(example.prompt_ids).count(chat.bos_token_id) == 1
            assert example.prompt_ids[0] == chat.bos_token_id
            assert chat.eos_token_id not in example.prompt_ids


def test_a_tokenizer_without_a_chat_template_is_refused(folder, byte_tokenizer):
    suite = LongBench(data_dir=str(folder), prompt="chat")
    with pytest.raises(RequestError, match=r"prompt = 'chat', but the tokenizer of .* has no chat template"):
        suite.shortest("qasper", byte_tokenizer)
    assert draw(folder, "samsum", byte_tokenizer, prompt="chat") == draw(folder, "samsum", byte_tokenizer)


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("qasper", {"answers": []}, "row 2: 'answers' should be a list of at least one text, it is an empty list"),
        ("qasper", {"answers": None}, "row 2: 'answers' .* it is null"),
        ("qasper", {"answers": ["a", 3]}, "row 2: 'answers' should be a list of texts, it is 3"),
        ("qasper", {"context": 3}, "row 2: 'context' should be a text, it is 3"),
        ("qasper", {"input": "\ud800"}, "row 2: 'input' holds half a surrogate pair"),
        ("qasper", {"length": "long"}, "row 2: 'length' should be a whole number, it is the text 'long'"),
        ("qasper", {"_id": "r0"}, "row 2: '_id' = 'r0' is also that of .*row 1"),
        ("passage_retrieval_en", {"answers": ["3"]}, "row 2: the answer '3' names no paragraph"),
        ("passage_retrieval_zh", {"answers": ["Paragraph 3"]}, "row 2: the answer 'Paragraph 3' names no paragraph"),
        ("trec", {"all_classes": None}, "row 2: 'all_classes' should be a list of at least one text, it is null"),
        ("lsht", {"all_classes": ["red"]}, "row 2: no answer is one of 'all_classes'"),
    ],
)
def test_a_row_with_a_wrong_schema_is_named(tmp_path, task, changes, message):
    right = {"answers": ["Paragraph 3, 段落3"], "all_classes": ["Paragraph 3, 段落3"]}
    rows = [row_v1("r0", **right), row_v1("r1", **right | changes), row_v1("r2", **right)]
    (tmp_path / f"{task}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(RequestError, match=f"{task}.jsonl, {message}"):
        LongBench(data_dir=str(tmp_path)).check(task)


def test_a_row_without_a_field_is_named(tmp_path):
    write_rows(tmp_path / "qasper.jsonl", [{name: value for name, value in row_v1().items() if name != "answers"}])
    with pytest.raises(RequestError, match="row 1: there is no 'answers'; the row has input, context"):
        LongBench(data_dir=str(tmp_path)).check("qasper")


def test_an_empty_bin_and_an_absent_file_are_named(tmp_path):
    write_rows(tmp_path / "qasper_e.jsonl", [row_v1()])
    suite = LongBench(data_dir=str(tmp_path))
    with pytest.raises(RequestError, match=r"'qasper_e_8k\+': no row of qasper_e is of this length"):
        suite.check("qasper_e_8k+")
    with pytest.raises(RequestError, match=r"lacks a file: it should hold qasper\.jsonl"):
        suite.check("qasper")


def test_the_hub_is_named_when_it_cannot_be_reached(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RequestError, match="HF_HUB_OFFLINE is set") as raised:
        LongBench().check("qasper")
    for part in (REPO, FILE, REVISION, str(tmp_path), "data_dir"):
        assert part in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_hubs_archive_gives_the_same_rows_as_a_folder(monkeypatch, tmp_path, folder, byte_tokenizer):
    archive = tmp_path / "data.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(folder / "qasper.jsonl", "data/qasper.jsonl")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: str(archive))
    hub, local = LongBench(), LongBench(data_dir=str(folder))
    assert hub.artifacts("qasper") == local.artifacts("qasper")
    drawn = list(hub.examples("qasper", seq_len=4096, n=3, seed=0, tokenizer=byte_tokenizer))
    assert drawn == draw(folder, "qasper", byte_tokenizer, n=3)
    with pytest.raises(RequestError, match=r"data\.zip: holds no 'data/hotpotqa\.jsonl'"):
        hub.check("hotpotqa")


def test_chinese_without_jieba_is_refused_before_anything_is_read(monkeypatch):
    monkeypatch.setattr(chinese, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match="pip install jieba"):
        LongBench(data_dir="/nowhere").check("vcsum")


def test_settings_come_from_a_preset_and_travel_to_a_worker(folder, byte_tokenizer):
    suite = build(LongBench, {"prompt": "base", "max_length": "fill", "data_dir": str(folder)}, where="suite")
    suite.check("qasper")
    again = pickle.loads(pickle.dumps(suite))
    assert again == suite
    assert again.artifacts("qasper") == suite.artifacts("qasper")
    with pytest.raises(RequestError, match="prompt = 'chatty': did you mean 'chat'"):
        build(LongBench, {"prompt": "chatty"}, where="suite")
