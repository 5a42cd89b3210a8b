"""LongBench v2: 503 questions of four choices over long texts, answered in words."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from harness.errors import RequestError, unknown
from harness.types import Example, Metric, Output, Score
from tasks import data
from tasks.base import Tokenizer, check_length
from tasks.longbench import prompts
from tasks.longbench.rows import AbstractRowTasks, checked, drawn

NAME = "longbench-v2"
REPO, FILE, REVISION = "THUDM/LongBench-v2", "data.json", "2b48e494f2c7a2f0af81aae178e05c7e1dde0fe9"
N_NEW = 128
_CHANCE = 0.25

# Source: THUDM/LongBench 2e00731, prompts/0shot.txt.
_BEFORE = "Please read the following text and answer the question below.\n\n<text>\n"
_AFTER = (
    "\n</text>\n\nWhat is the correct answer to this question: $Q$\n"
    "Choices:\n(A) $C_A$\n(B) $C_B$\n(C) $C_C$\n(D) $C_D$\n\n"
    'Format your response as follows: "The correct answer is (insert answer here)".'
)
_IN_PARENTHESES = re.compile(r"The correct answer is \(([A-D])\)")
_MARKS = {
    "$DOC$": "context",
    "$Q$": "question",
    "$C_A$": "choice_A",
    "$C_B$": "choice_B",
    "$C_C$": "choice_C",
    "$C_D$": "choice_D",
}

# task -> the field and the value that its rows have
_TASKS: dict[str, tuple[str, str] | None] = {
    "short": ("length", "short"),
    "medium": ("length", "medium"),
    "long": ("length", "long"),
    "easy": ("difficulty", "easy"),
    "hard": ("difficulty", "hard"),
    "all": None,
}


@dataclass(frozen=True, kw_only=True)
class LongBenchV2(AbstractRowTasks):
    """Tasks by the text's length (`short`, `medium`, `long`: up to 32k, to 128k and beyond 128k words), by difficulty
    (`easy`, `hard`), or `all`.

    prompt: `base` (the text as it is) or `chat` (inside the tokenizer's chat template, as the authors ask).
    max_length: how many tokens of the text are kept, before the chat template. `thudm` is the authors' number, 120,000
    for a length of 131,072, and in proportion; `fill` is as many as leave room for the template and the new tokens.
    compensated: an answer in which no choice is found counts 0.25 in place of 0. Both scores are in the measures.
    data_dir: a folder of `<task>.jsonl[.gz]`, or of `data.json[.gz]` with all rows; without one, the Hub's
    THUDM/LongBench-v2 is fetched (`data.json`, 465 MB).

    Rows are drawn without replacement, the same ones at every length. A cut prompt says `truncated` in its metadata.

    Source: THUDM/LongBench 2e00731, pred.py and result.py.
    Differs: greedy, where the authors sample at temperature 0.1; an empty answer is wrong, where the authors leave it
    out; a prompt that the chat template would carry beyond the length is cut further.
    """

    version: ClassVar[int] = 1

    prompt: Literal["base", "chat"] = "base"
    max_length: Literal["thudm", "fill"] = "thudm"
    compensated: bool = False
    data_dir: str | None = field(default=None, metadata={"path": True})

    def metric(self, task: str) -> Metric:
        """Right or wrong; with `compensated`, a quarter for no choice."""
        return Metric(name="accuracy", kind="graded" if self.compensated else "binary", chance=_CHANCE)

    def tasks(self) -> tuple[str, ...]:
        """The three lengths, which share no question."""
        return ("short", "medium", "long")

    def check(self, task: str) -> None:
        """Raises RequestError for an unknown task, and for absent or wrong data."""
        self._facts_of(task)

    def shortest(self, task: str, tokenizer: Tokenizer) -> int:
        """Where the fixed text outlives the cut, and the template and the answer still fit."""
        chat = self._chat(tokenizer)
        after = re.sub("|".join(map(re.escape, _MARKS)), "", _AFTER)
        fixed = 2 * max(len(prompts.encode(tokenizer, text)) for text in (_BEFORE, after))
        around = prompts.wrapper_length(tokenizer, chat=chat) + N_NEW
        seq_len = fixed + around
        while self.max_length == "thudm" and not fixed <= _thudm_length(seq_len) <= seq_len - around:
            seq_len += 1
        return seq_len

    def examples(self, task: str, *, seq_len: int, n: int, seed: int, tokenizer: Tokenizer) -> Iterator[Example]:
        """`n` rows, drawn without replacement. Raises RequestError when the task has fewer."""
        check_length(NAME, task, seq_len=seq_len, shortest=self.shortest(task, tokenizer))
        chat = self._chat(tokenizer)
        max_length = seq_len - N_NEW - prompts.wrapper_length(tokenizer, chat=chat)
        if self.max_length == "thudm":
            max_length = _thudm_length(seq_len)
        for row in drawn(self._rows(task), n=n, key=[NAME, self.version, task, seed], what=f"{NAME} task '{task}'"):
            fitted = prompts.fit(
                tokenizer,
                _text(row),
                max_length=max_length,
                n_prompt=seq_len - N_NEW,
                chat=chat,
                cut=prompts.cut_joined,
            )
            names = ("difficulty", "length", "domain", "sub_domain")
            yield Example(
                id=f"{task}/{seq_len}/{row.text('_id')}",
                prompt_ids=fitted.ids,
                max_new_tokens=N_NEW,
                answers=(row.text("answer"),),
                metadata={**fitted.metadata(), "row": row.text("_id"), **{name: row.text(name) for name in names}},
            )

    def score(self, task: str, example: Example, output: Output) -> Score:
        """1 when the choice that the answer names is the right one."""
        choice = extract_choice(output.text)
        exact = float(choice in example.answers)
        compensated = _CHANCE if choice is None else exact
        measures = {"choice": choice, "exact": exact, "compensated": compensated}
        return Score(value=compensated if self.compensated else exact, measures=measures)

    def settled(self, task: str, example: Example, text: str) -> bool:
        """A choice in parentheses is there, which goes before all others."""
        return _IN_PARENTHESES.search(text.replace("*", "")) is not None

    def _chat(self, tokenizer: Tokenizer) -> bool:
        if self.prompt == "chat":
            prompts.check_chat(tokenizer, NAME)
        return self.prompt == "chat"

    def _rows(self, task: str) -> list[data.Row]:
        """The task's rows, each of them checked."""
        if task not in _TASKS:
            raise unknown(f"{NAME} task", task, _TASKS)
        path = self._path(task)
        rows, wanted = checked(data.read_rows(path), _check), _TASKS[task]
        if wanted is None:
            return rows
        name, value = wanted
        found = [row for row in rows if row.text(name) == value]
        if not found or (path.name.startswith(f"{task}.") and len(found) < len(rows)):
            raise RequestError(f"{path}: {len(found)} of its {len(rows)} rows have {name} = '{value}', which {task} is")
        return found

    def _path(self, task: str) -> Path:
        if self.data_dir is not None:
            return data.find_file(Path(self.data_dir), *dict.fromkeys((task, "data")))
        instead = f"set data_dir of suite '{NAME}' to a folder that holds {FILE}"
        return data.hub_file(REPO, FILE, revision=REVISION, instead=instead)


def extract_choice(text: str) -> str | None:
    """The letter that the answer names, asterisks left out, or None.

    Source: THUDM/LongBench 2e00731, pred.py, extract_answer.
    """
    bare = text.strip().replace("*", "")
    found = _IN_PARENTHESES.search(bare) or re.search(r"The correct answer is ([A-D])", bare)
    return found[1] if found else None


def _thudm_length(seq_len: int) -> int:
    return seq_len * 120_000 // 131_072


def _text(row: data.Row) -> str:
    """One mark after the other, in what the marks before it brought along too, as the authors do."""
    text = _BEFORE + "$DOC$" + _AFTER
    for mark, name in _MARKS.items():
        text = text.replace(mark, row.text(name).strip())
    return text


def _check(row: data.Row) -> None:
    for name in ("_id", "domain", "sub_domain", *_MARKS.values()):
        row.text(name)
    for name, values in (
        ("answer", ("A", "B", "C", "D")),
        ("difficulty", ("easy", "hard")),
        ("length", ("short", "medium", "long")),
    ):
        if row.text(name) not in values:
            raise row.error(f"'{name}' is '{row.text(name)}', it should be one of {', '.join(values)}")
