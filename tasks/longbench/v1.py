"""LongBench: 21 tasks in English, Chinese and code, and LongBench-E's 13 of them in three bins of length."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from harness.errors import RequestError, unknown
from harness.types import JSON, Example, Metric, Output, Score
from tasks import data
from tasks.base import Tokenizer, check_length
from tasks.longbench import chinese, prompts
from tasks.longbench.metrics import METRICS, PARAGRAPH, first_line, is_code
from tasks.longbench.rows import AbstractRowTasks, checked, drawn
from tasks.longbench.table import LENGTH_BINS, TASKS, Task

NAME = "longbench-thudm"
REPO, FILE, REVISION = "THUDM/LongBench", "data.zip", "f72191f71cd6fcd0da8a54f0915078efda579449"


class _Parsed(NamedTuple):
    file: str  # the task's file, without its ending
    task: Task
    length_bin: str | None  # one of LENGTH_BINS when only its rows are asked for
    in_e: bool


@dataclass(frozen=True, kw_only=True)
class LongBench(AbstractRowTasks):
    """Tasks as the authors name them; `<task>_e` is LongBench-E's, `<task>_e_<bin>` one of its bins of length.

    prompt: `base` (the text as it is) or `chat` (inside the tokenizer's chat template, but for the six tasks that the
    authors leave bare).
    max_length: how many tokens of the text are kept, before the chat template. `thudm` is the authors' number,
    1000 for every 1024 of the length less 500 (3500 at 4096, 31500 at 32768); `fill` is as many as leave room for the
    template and the new tokens.
    data_dir: a folder of `<task>.jsonl[.gz]`; without one, the Hub's THUDM/LongBench is fetched (`data.zip`, 114 MB).

    Rows are drawn without replacement, the same ones at every length. A cut prompt says `truncated` in its metadata.

    Source: THUDM/LongBench 2e00731, LongBench/{pred.py, eval.py, metrics.py, config}.
    Differs: a prompt that the chat template or new tokens would carry beyond the length is cut further, where the
    authors run over their window; the model's own chat template in place of the authors' hand-written ones; in samsum
    the first new token may be a line break (which is not scored), and generation goes on after the first line.
    """

    version: ClassVar[int] = 1

    prompt: Literal["base", "chat"] = "base"
    max_length: Literal["thudm", "fill"] = "thudm"
    data_dir: str | None = field(default=None, metadata={"path": True})

    def metric(self, task: str) -> Metric:
        """The authors' metric of the task."""
        return Metric(name=_parse(task).task.metric, kind="graded")

    def tasks(self) -> tuple[str, ...]:
        """The 21 tasks; LongBench-E is asked for by name."""
        return tuple(TASKS)

    def check(self, task: str) -> None:
        """Raises RequestError for an unknown task, absent or wrong data, or Chinese without jieba."""
        if _parse(task).task.metric.endswith("_zh"):
            chinese.check_available()
        self._facts_of(task)

    def shortest(self, task: str, tokenizer: Tokenizer) -> int:
        """Where the task's fixed text outlives the cut, and the template and the answer still fit."""
        parsed = _parse(task)
        chat = self._chat(parsed.task, tokenizer)
        before, _, after = parsed.task.template.partition("{context}")
        after = after.replace("{input}", "")
        fixed = 2 * max(len(prompts.encode(tokenizer, text)) for text in (before, after))
        around = prompts.wrapper_length(tokenizer, chat=chat) + parsed.task.max_new_tokens
        if self.max_length == "fill":
            return fixed + around
        seq_len = 1024
        while _thudm_length(seq_len) < fixed or _thudm_length(seq_len) + around > seq_len:
            seq_len += 1024
        return seq_len

    def examples(self, task: str, *, seq_len: int, n: int, seed: int, tokenizer: Tokenizer) -> Iterator[Example]:
        """`n` rows, drawn without replacement. Raises RequestError when the task has fewer."""
        check_length(NAME, task, seq_len=seq_len, shortest=self.shortest(task, tokenizer))
        parsed = _parse(task)
        chat = self._chat(parsed.task, tokenizer)
        n_prompt = seq_len - parsed.task.max_new_tokens
        max_length = n_prompt - prompts.wrapper_length(tokenizer, chat=chat)
        if self.max_length == "thudm":
            max_length = _thudm_length(seq_len)
        for row in drawn(self._rows(task), n=n, key=[NAME, self.version, task, seed], what=f"{NAME} task '{task}'"):
            fitted = prompts.fit(
                tokenizer,
                parsed.task.template.format(context=row.text("context"), input=row.text("input")),
                max_length=max_length,
                n_prompt=n_prompt,
                chat=chat,
                cut=prompts.cut_halves,
            )
            yield Example(
                id=f"{task}/{seq_len}/{row.text('_id')}",
                prompt_ids=fitted.ids,
                max_new_tokens=parsed.task.max_new_tokens,
                answers=row.texts("answers"),
                metadata={**fitted.metadata(), **_metadata(parsed, row)},
            )

    def score(self, task: str, example: Example, output: Output) -> Score:
        """The best of the gold answers' scores."""
        wanted = _parse(task).task
        text = first_line(output.text) if wanted.first_line else output.text
        metric, classes = METRICS[wanted.metric], example.metadata.get("all_classes", ())
        return Score(value=max(metric(text, answer, classes) for answer in example.answers))

    def settled(self, task: str, example: Example, text: str) -> bool:
        """The line that is scored has ended, where only one is."""
        wanted = _parse(task).task
        *ended, _ = text.lstrip("\n").split("\n")
        if wanted.first_line:
            return bool(ended)
        return wanted.metric == "code_sim" and any(map(is_code, ended))

    def _chat(self, task: Task, tokenizer: Tokenizer) -> bool:
        if self.prompt == "base" or not task.chat:
            return False
        prompts.check_chat(tokenizer, NAME)
        return True

    def _rows(self, task: str) -> list[data.Row]:
        """The task's rows, each of them checked."""
        parsed = _parse(task)
        rows = checked(self._read(parsed.file), lambda row: _check(row, parsed.task))
        if parsed.length_bin is None:
            return rows
        rows = [row for row in rows if _length_bin(row) == parsed.length_bin]
        if not rows:
            raise RequestError(f"{NAME} task '{task}': no row of {parsed.file} is of this length")
        return rows

    def _read(self, file: str) -> list[data.Row]:
        if self.data_dir is not None:
            return data.read_rows(data.find_file(Path(self.data_dir), file))
        instead = f"set data_dir of suite '{NAME}' to a folder of <task>.jsonl[.gz]"
        archive = data.hub_file(REPO, FILE, revision=REVISION, instead=instead)
        member = f"data/{file}.jsonl"
        return data.parse_rows(data.read_zip_member(archive, member), name=f"{archive}:{member}", lines=True)


def _thudm_length(seq_len: int) -> int:
    """The authors' 3500, 7500, 15500 and 31500 tokens for windows of 4k, 8k, 16k and 32k, and so on."""
    return seq_len // 1024 * 1000 - 500


def _parse(task: str) -> _Parsed:
    known = {name: _Parsed(name, found, None, False) for name, found in TASKS.items()}
    for name, found in TASKS.items():
        if found.in_e:
            known[f"{name}_e"] = _Parsed(f"{name}_e", found, None, True)
            known |= {f"{name}_e_{part}": _Parsed(f"{name}_e", found, part, True) for part in LENGTH_BINS}
    if task not in known:
        raise unknown(f"{NAME} task", task, known)
    return known[task]


def _check(row: data.Row, task: Task) -> None:
    for name in ("_id", "input", "context"):
        row.text(name)
    row.number("length")
    answers = row.texts("answers")
    if task.metric == "classification" and not set(answers) & set(row.texts("all_classes")):
        raise row.error("no answer is one of 'all_classes'")
    if task.metric in PARAGRAPH:
        for answer in answers:
            if not PARAGRAPH[task.metric].search(answer):
                raise row.error(f"the answer '{answer}' names no paragraph")


def _length_bin(row: data.Row) -> str:
    return next(name for name, bound in LENGTH_BINS.items() if row.number("length") < bound)


def _metadata(parsed: _Parsed, row: data.Row) -> dict[str, JSON]:
    found: dict[str, JSON] = {"row": row.text("_id"), "length": row.number("length")}
    if parsed.in_e:
        found["length_bin"] = _length_bin(row)
    if parsed.task.metric == "classification":
        found["all_classes"] = list(row.texts("all_classes"))
    return found
