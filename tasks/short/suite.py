"""Any lm-eval task as a suite: its documents, prompts and scores, our engine, methods and records."""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.errors import RequestError
from harness.types import Example, Metric, Output, Score, content_hash
from tasks import scoring
from tasks.base import Tokenizer, check_length, sample_id
from tasks.short import conventions
from tasks.short.data import HubData, LocalData, Rows, hub_data, local_data, read_rows
from tasks.short.index import LeafTask, installed_tasks

if TYPE_CHECKING:
    from tasks.short.building import BuiltTask, Prompting

_PROBED = 20  # documents that `shortest` looks at
_ANY_LENGTH = 2**40


@dataclass(frozen=True, kw_only=True)
class LmEval:
    """EleutherAI's lm-evaluation-harness: any of its tasks by name, or a group such as `mmlu`.

    The samples are the task's first documents, in its order. Those of a group are taken from its tasks in turn, each
    as often as its size asks, so that any number of them estimates lm-eval's mean over all documents. A request
    longer than the cell is recorded as truncated, never cut.

    data_dir: a folder with `<data set>/<split>.jsonl.gz` (see `tasks.short.data`); empty reads the Hugging Face Hub at
        pinned revisions.
    num_fewshot: examples before the question, for all tasks or by task; else what the task states.
    metrics: task -> the metric that is its score, such as "exact_match,flexible-extract"; see `scored_metric`.
    chance: task -> the score of blind guessing, where it is not known here.
    revisions: data set -> commit, for those without one in `tasks.short.data`.
    chat_template: prompts go through the tokenizer's chat template, after `system_instruction`; few-shot examples
        stand in one user turn, or with `fewshot_as_multiturn` in turns of their own.
    """

    version: ClassVar[int] = 1
    source: ClassVar[str] = "EleutherAI/lm-evaluation-harness"
    shots: ClassVar[Mapping[str, int]] = {}  # a list's own few-shot counts

    data_dir: str = field(default="", metadata={"path": True})
    num_fewshot: int | Mapping[str, int] | None = None
    metrics: Mapping[str, str] = field(default_factory=dict)
    chance: Mapping[str, float] = field(default_factory=dict)
    revisions: Mapping[str, str] = field(default_factory=dict)
    chat_template: bool = False
    system_instruction: str = ""
    fewshot_as_multiturn: bool = False

    def __post_init__(self) -> None:
        given = self.num_fewshot if isinstance(self.num_fewshot, Mapping) else {"": self.num_fewshot or 0}
        for task, shots in given.items():
            if type(shots) is not int or shots < 0:
                raise ValueError(
                    f"num_fewshot {task} = {shots!r}: it should be a whole number, 0 or more".replace("  ", " ")
                )
        for data, commit in self.revisions.items():
            if not re.fullmatch(r"[0-9a-f]{40}", str(commit)):
                raise ValueError(f"revisions: {data} = {commit!r}: it should be a whole commit, 40 hexadecimal digits")
        for task, level in self.chance.items():
            if isinstance(level, bool) or not isinstance(level, int | float) or not 0 <= level < 1:
                raise ValueError(f"chance of {task} = {level!r}: it should be a fraction below 1")
        if self.fewshot_as_multiturn and not self.chat_template:
            raise ValueError("fewshot_as_multiturn = true needs chat_template = true")

    def tasks(self) -> tuple[str, ...]:
        """None of its own: a preset names them."""
        raise RequestError("suite 'lm_eval' needs tasks = [...]: names that `lm_eval ls tasks` prints")

    def metric(self, task: str) -> Metric:
        """The task's score; see `conventions.scored_metric`."""
        return conventions.metric_of(self._leaves(task)[0], self.metrics.get(task), self.chance.get(task))

    def check(self, task: str) -> None:
        """Raises RequestError for an unknown task, one that cannot be run here, or data that is not there."""
        named = self.num_fewshot if isinstance(self.num_fewshot, Mapping) else {}
        for name in {**named, **self.metrics, **self.chance}:
            self._leaves(name)
        leaves, shots = self._leaves(task), self._num_fewshot(task)
        for leaf in leaves:
            conventions.check_runnable(leaf)
        if len({str(conventions.scored_metric(leaf, self.metrics.get(task))) for leaf in leaves}) > 1:
            raise RequestError(f"lm_eval group '{task}': its tasks have different metrics, name one of its tasks")
        self.metric(task)
        if shots and leaves[0].config.get("num_fewshot") == 0:
            raise RequestError(f"lm_eval task '{task}' is zero-shot by its own definition: num_fewshot = {shots}")
        for leaf in leaves:
            data = self._data(leaf, shots)
            if isinstance(data, HubData):
                data.check(leaf.name)

    def artifacts(self, task: str) -> Mapping[str, str]:
        """lm-eval's version, the task's definition as it is used, and its documents."""
        leaves, shots = self._leaves(task), self._num_fewshot(task)
        definitions = [[leaf.config, [content_hash(path.read_bytes()) for path in leaf.code]] for leaf in leaves]
        return {
            "lm_eval": content_hash(version("lm_eval")),
            "lm_eval_task": content_hash([definitions, shots, str(self._scored(task))]),
            "lm_eval_data": content_hash([self._data(leaf, shots).digest() for leaf in leaves]),
        }

    def shortest(self, task: str, tokenizer: Tokenizer) -> int:
        """The shortest of the first 20 documents: below it, all of them would be truncated."""
        if conventions.output_type(self._leaves(task)[0]) == "loglikelihood_rolling":
            return 2
        known = self._measured.get(task)
        if known is None or known[0] is not tokenizer:
            order = _order([built.n_documents for built in self._builds(task)], _PROBED)
            found = self._examples(task, order, seq_len=_ANY_LENGTH, seed=0, tokenizer=tokenizer)
            known = self._measured[task] = tokenizer, min(example.n_tokens for example in found)
        return known[1]

    def examples(self, task: str, *, seq_len: int, n: int, seed: int, tokenizer: Tokenizer) -> Iterator[Example]:
        """The first `n` documents as lm-eval asks them; seed 0 draws few-shot examples as lm-eval does by default.

        Raises RequestError where there are fewer documents.
        """
        sizes = [built.n_documents for built in self._builds(task)]
        if n > sum(sizes):
            raise RequestError(
                f"lm_eval task '{task}' has {sum(sizes)} documents: n_samples = {n} should be at most that"
            )
        check_length("lm_eval", task, seq_len=seq_len, shortest=self.shortest(task, tokenizer))
        return self._examples(task, _order(sizes, n), seq_len=seq_len, seed=seed, tokenizer=tokenizer)

    def score(self, task: str, example: Example, output: Output) -> Score:
        """The task's metric on this document; all its metrics and the choices' log-likelihoods are measures."""
        from harness.lm_eval_bridge import loglikelihoods

        leaf = next(leaf for leaf in self._leaves(task) if leaf.name == example.metadata["lm_eval_task"])
        built, kind = self._built(leaf, self._num_fewshot(task)), conventions.output_type(leaf)
        responses: Sequence[Any] = [output.text]
        measures: dict[str, Any] = {}
        if kind == "loglikelihood_rolling":
            likelihood = scoring.likelihood(output.logprobs)
            responses, measures = [-likelihood.measures["nll"]], dict(likelihood.measures)
        elif kind != "generate_until":
            responses = loglikelihoods(output)
            measures = {"loglikelihoods": [logprob for logprob, _ in responses]}
        measures |= built.scores(example.metadata["doc_id"], responses)
        if kind == "loglikelihood_rolling":
            return Score(value=likelihood.value, measures=measures)
        name = str(self._scored(task))
        if not isinstance(measures.get(name), float):
            raise ValueError(f"lm_eval's {name} is {measures.get(name)!r} for document {example.metadata['doc_id']}")
        return Score(value=measures[name], measures=measures)

    def _examples(
        self, task: str, order: Sequence[tuple[int, int]], *, seq_len: int, seed: int, tokenizer: Tokenizer
    ) -> Iterator[Example]:
        from harness.lm_eval_bridge import RequestEncoder
        from tasks.short.building import FEWSHOT_SEED

        encoder = RequestEncoder(tokenizer)
        prompting = self._prompting(task, encoder)
        builds = self._builds(task)
        draws = [random.Random(FEWSHOT_SEED + seed) for _ in builds]
        kind = conventions.output_type(self._leaves(task)[0])
        for index, (place, doc_id) in enumerate(order):
            built = builds[place]
            parts = self._parts(built, doc_id, built.requests(doc_id, prompting, draws[place]), kind, encoder, seq_len)
            yield Example(
                id=sample_id(task, seq_len=seq_len, index=index, seed=seed),
                answers=(built.target(doc_id),) if kind != "loglikelihood_rolling" else (),
                metadata={"lm_eval_task": built.name, "doc_id": doc_id},
                **parts,
            )

    def _parts(
        self, built: "BuiltTask", doc_id: int, requests: Sequence[Any], kind: str, encoder: Any, seq_len: int
    ) -> dict[str, Any]:
        """What an example asks of the model."""
        if kind == "generate_until":
            asked = encoder.generation(requests[0])
            return {"prompt_ids": asked.prompt_ids, "max_new_tokens": asked.max_new_tokens, "stop": asked.stop}
        try:
            rolling = kind == "loglikelihood_rolling"
            segments = encoder.windows(requests[0].args[0], seq_len) if rolling else encoder.segments(requests)
        except ValueError as error:
            raise built.wrong(doc_id, str(error)) from error
        if not segments:
            raise built.wrong(doc_id, "it has nothing to score")
        return {"segments": tuple(segments)}

    def _prompting(self, task: str, encoder: Any) -> "Prompting":
        from tasks.short.building import Prompting

        if self.chat_template and not encoder.tokenizer.chat_template:
            raise RequestError("chat_template = true, and the model's tokenizer has no chat template: leave it out")
        return Prompting(
            num_fewshot=self._num_fewshot(task),
            system_instruction=self.system_instruction or None,
            chat_template=encoder.apply_chat_template if self.chat_template else None,
            fewshot_as_multiturn=self.fewshot_as_multiturn,
        )

    def _leaves(self, task: str) -> tuple[LeafTask, ...]:
        if task not in self._named:
            self._named[task] = installed_tasks().leaves(task)
        return self._named[task]

    def _scored(self, task: str) -> conventions.ScoredMetric:
        return conventions.scored_metric(self._leaves(task)[0], self.metrics.get(task))

    def _num_fewshot(self, task: str) -> int:
        given = self.num_fewshot.get(task) if isinstance(self.num_fewshot, Mapping) else self.num_fewshot
        for shots in (given, self.shots.get(task), self._leaves(task)[0].config.get("num_fewshot")):
            if shots is not None:
                return int(shots)
        return 0

    def _data(self, leaf: LeafTask, num_fewshot: int) -> HubData | LocalData:
        if self.data_dir:
            return local_data(leaf, self.data_dir, num_fewshot=num_fewshot)
        return hub_data(leaf, self.revisions)

    def _builds(self, task: str) -> list["BuiltTask"]:
        shots = self._num_fewshot(task)
        return [self._built(leaf, shots) for leaf in self._leaves(task)]

    def _built(self, leaf: LeafTask, num_fewshot: int) -> "BuiltTask":
        from tasks.short.building import BuiltTask

        key = (leaf.name, num_fewshot)
        if key not in self._kept:
            data = self._data(leaf, num_fewshot)
            self._kept[key] = BuiltTask(leaf, data, num_fewshot=num_fewshot, read=self._read)
        return self._kept[key]

    def _read(self, path: Path) -> Rows:
        if path not in self._rows:
            self._rows[path] = read_rows(path)
        return self._rows[path]

    @cached_property
    def _named(self) -> dict[str, tuple[LeafTask, ...]]:
        """The definitions of the tasks that were asked for."""
        return {}

    @cached_property
    def _measured(self) -> dict[str, tuple[Tokenizer, int]]:
        """task -> its shortest request, in tokens of a tokenizer."""
        return {}

    @cached_property
    def _kept(self) -> dict[tuple[str, int], "BuiltTask"]:
        """Tasks that are built, for the next cell and for scoring."""
        return {}

    @cached_property
    def _rows(self) -> dict[Path, Rows]:
        """Local files that were read: one may serve many tasks."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # built tasks stay in their process


def _order(sizes: Sequence[int], n: int) -> list[tuple[int, int]]:
    """(task, document) of the first n samples: every prefix holds each task in proportion to its size."""
    places = [((document + 0.5) / size, task, document) for task, size in enumerate(sizes) for document in range(size)]
    return [(task, document) for _, task, document in sorted(places)[:n]]
