"""lm-eval's own task objects: its documents, its prompts, its scores. The one place that imports lm-eval's tasks."""

import logging
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import RequestError
from harness.types import JSON
from tasks.short.data import SPLITS, HubData, LocalData, Rows, check_fields, eval_split
from tasks.short.index import LeafTask

# lm-eval seeds these before it loads tasks, whose code may draw from the shared generators.
_RANDOM_SEED, _NUMPY_SEED = 0, 1234
FEWSHOT_SEED = 1234  # of the few-shot examples. Source of all three: lm_eval 0.4.13, evaluator.simple_evaluate


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """How a prompt is put together. chat_template: the tokenizer's, or None for plain text."""

    num_fewshot: int
    system_instruction: str | None
    chat_template: Callable[..., str] | None
    fewshot_as_multiturn: bool


class BuiltTask:
    """One lm-eval task with its documents."""

    def __init__(
        self, leaf: LeafTask, data: HubData | LocalData, *, num_fewshot: int, read: Callable[[Path], Rows]
    ) -> None:
        self.name = leaf.name
        self._data = data
        self._read = read
        self._split = eval_split(leaf.config)
        self._lines: list[int] = []
        with _seeded(), _quiet():
            self._task = self._loaded(leaf, num_fewshot)

    @property
    def n_documents(self) -> int:
        """How many documents there are to ask."""
        return len(self._task.task_docs)

    def requests(self, doc_id: int, prompting: Prompting, draws: random.Random) -> list[Any]:
        """lm-eval's requests for one document. draws: what few-shot examples are drawn with, in document order."""
        task, template = self._task, prompting.chat_template
        if hasattr(task, "sampler"):
            task.sampler.rnd = draws
        try:
            doc = task.task_docs[doc_id]
            with _quiet():
                context = task.fewshot_context(
                    doc,
                    num_fewshot=prompting.num_fewshot,
                    system_instruction=prompting.system_instruction,
                    apply_chat_template=template is not None,
                    fewshot_as_multiturn=prompting.fewshot_as_multiturn,
                    chat_template=template,
                    gen_prefix=task.doc_to_prefix(doc),
                )
                found = task.construct_requests(
                    doc=doc,
                    ctx=context,
                    metadata=(self.name, doc_id, 1),
                    apply_chat_template=template is not None,
                    chat_template=template,
                )
            self._check_target(doc)
        except RequestError:
            raise
        except Exception as error:  # templates and task code raise anything
            raise self.wrong(doc_id, f"{type(error).__name__}: {error}") from error
        return found if isinstance(found, list) else [found]

    def target(self, doc_id: int) -> str:
        """The right answer as a person reads it."""
        doc = self._task.task_docs[doc_id]
        target = self._task.doc_to_text(doc) if self._task.multiple_input else self._task.doc_to_target(doc)
        if isinstance(target, int) and self._task.config.doc_to_choice is not None:
            return str(self._task.doc_to_choice(doc)[target])
        return str(target)

    def scores(self, doc_id: int, responses: Sequence[Any]) -> dict[str, JSON]:
        """Every metric of one document, named `metric,filter`, from what the model said to each request."""
        from lm_eval.api.instance import Instance

        doc = self._task.task_docs[doc_id]
        instances = [
            Instance(request_type=self._task.OUTPUT_TYPE, doc=doc, arguments=(), idx=index, resps=[response])
            for index, response in enumerate(responses)
        ]
        self._task._instances = instances  # the filters work on the task's instances
        self._task.apply_filters()
        found: dict[str, JSON] = {}
        for kind in instances[0].filtered_resps:
            metrics = self._task.process_results(doc, [instance.filtered_resps[kind] for instance in instances])
            found |= {f"{name},{kind}": _plain(value) for name, value in metrics.items()}
        return found

    def wrong(self, doc_id: int, what: str) -> RequestError:
        """The error for a document that is not as it should be: names the file and row where there is one."""
        place = f"document {doc_id} of split '{self._split}'"
        if isinstance(self._data, LocalData):
            known = len(self._lines) == self.n_documents  # else the task's code left some out
            place = f"{self._data.files[self._split]}: {f'row {self._lines[doc_id]}' if known else place}"
        return RequestError(f"lm_eval task '{self.name}': {place}: {what}"[:600])

    def _loaded(self, leaf: LeafTask, num_fewshot: int) -> Any:
        from lm_eval.api.task import ConfigurableTask
        from lm_eval.tasks._yaml_loader import load_yaml

        config = {**load_yaml(leaf.path), **leaf.overrides, "task": leaf.name, "num_fewshot": num_fewshot}
        for key in ("tag", "group", "task_list"):
            config.pop(key, None)
        try:
            if isinstance(self._data, LocalData):
                config |= self._local(leaf, config, self._data)
            else:
                splits = self._data.documents(leaf.name, config.get("dataset_kwargs") or {})
                config |= {"custom_dataset": lambda **_: splits, "dataset_kwargs": None}
            return ConfigurableTask(config=config)
        except RequestError:
            raise
        except ImportError as error:
            raise RequestError(f"lm_eval task '{leaf.name}' needs a package: {error}") from error
        except Exception as error:  # the Hub, datasets and task code raise anything
            if isinstance(self._data, HubData) and _is_network(error):
                raise self._data.unreachable(leaf.name, type(error).__name__) from error
            where = str(self._data.files[self._split]) if isinstance(self._data, LocalData) else self._data.name
            why = str(error).strip().partition("\n")[0]
            raise RequestError(
                f"lm_eval task '{leaf.name}': {where} is not what the task reads: {type(error).__name__}: {why}"[:600]
            ) from error

    def _local(self, leaf: LeafTask, config: Mapping[str, Any], data: LocalData) -> dict[str, Any]:
        """The settings that give a task local documents instead of a data set of the Hub."""
        import datasets

        splits = {}
        for split, path in data.files.items():
            rows = data.chosen(split, self._read(path))
            check_fields(leaf, path, rows)
            if split == self._split:
                self._lines = [line for line, _ in rows]
            splits[split] = datasets.Dataset.from_list([row for _, row in rows])
        absent: dict[str, Any] = {key: None for key in SPLITS if config.get(key) not in splits}
        own = config.get("fewshot_config") or {}
        if own.get("split") and own["split"] not in splits:
            absent["fewshot_config"] = {**own, "split": None}
        return {"custom_dataset": lambda **_: splits, "dataset_kwargs": None, **absent}

    def _check_target(self, doc: Mapping[str, Any]) -> None:
        """Raises ValueError for a document without a right answer, which lm-eval would count as answered wrongly."""
        if self._task.config.process_results is not None or self._task.OUTPUT_TYPE == "loglikelihood_rolling":
            return
        target = self._task.doc_to_text(doc) if self._task.multiple_input else self._task.doc_to_target(doc)
        if target is None or target in ("", []):
            raise ValueError("it has no answer")
        if self._task.OUTPUT_TYPE == "multiple_choice":
            choices = self._task.doc_to_choice(doc)
            for one in target if isinstance(target, list) else [target]:
                if not (one in choices if isinstance(one, str) else 0 <= one < len(choices)):
                    raise ValueError(f"its answer {one!r} is none of its {len(choices)} choices")


def _plain(value: Any) -> JSON:
    """A metric's value as JSON: numbers, texts, or lists of them; None for what is not finite."""
    if isinstance(value, tuple | list) or (hasattr(value, "tolist") and value.ndim):
        return [_plain(item) for item in value]
    if isinstance(value, str) or value is None:
        return value
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return number if math.isfinite(number) else None


def _is_network(error: BaseException) -> bool:
    """Whether the Hub could not be asked, or does not have what it was asked for."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    return isinstance(error, ConnectionError | FileNotFoundError | TimeoutError | HfHubHTTPError | OfflineModeIsEnabled)


@contextmanager
def _seeded() -> Iterator[None]:
    """The shared generators as lm-eval seeds them, so that a task does not depend on what was loaded before it."""
    import numpy as np

    state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(_RANDOM_SEED)
    np.random.seed(_NUMPY_SEED)
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)


@contextmanager
def _quiet() -> Iterator[None]:
    """No notices of lm-eval and no progress bars of datasets: what matters of them is raised here."""
    import datasets

    logger = logging.getLogger("lm_eval")
    level, bars = logger.level, not datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()
