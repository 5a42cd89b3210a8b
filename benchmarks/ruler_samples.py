"""What it costs to build RULER's samples: ours, and lm-eval's generator beside it.

    python benchmarks/ruler_samples.py TOKENIZER --data-dir FOLDER [--length 32768] [--samples 20] [--json FILE]

TOKENIZER is a folder or a Hugging Face id; FOLDER holds SQuAD and HotpotQA. Both sides read the same essays, questions
and sentence splitter, in one process. A tokenization is one of at least half the length. `fill` is prompt + new tokens
over the length. lm-eval's generators run as they are, for fewer samples than the 500 they are written for, and with
their downloads replaced by local data.
"""

import argparse
import contextlib
import importlib
import io
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness.errors import RequestError
from tasks import haystack
from tasks.ruler import qa_data
from tasks.ruler.essays import punkt
from tasks.ruler.spec import TASKS, QaTask
from tasks.ruler.suite import RulerNvidia

LM_EVAL = "0.4.13"


class CountingTokenizer:
    """A tokenizer that counts how often it reads a long text."""

    def __init__(self, tokenizer: Any, long: int) -> None:
        self._tokenizer, self._long, self.n_long = tokenizer, long, 0

    def __call__(self, text: str, **options: Any) -> Any:
        """The tokenizer's encoding."""
        found = self._tokenizer(text, **options)
        self.n_long += len(found["input_ids"]) >= self._long
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


@dataclass(frozen=True)
class Cost:
    """Of the samples of one task."""

    seconds: float
    cpu_s: float
    tokenizations_per_sample: float
    fill_min: float
    fill_mean: float


@dataclass(frozen=True)
class Setting:
    """What is built."""

    tokenizer: Any
    length: int
    n_samples: int
    data_dir: str | None


def measure(setting: Setting, build: Callable[[CountingTokenizer], list[Any]], n_tokens: Callable[[Any], int]) -> Cost:
    """The cost of building. n_tokens: of one sample, new tokens included; not counted in."""
    tokenizer = CountingTokenizer(setting.tokenizer, setting.length // 2)
    wall, cpu = time.perf_counter(), time.process_time()
    samples = build(tokenizer)
    seconds, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    fills = [n_tokens(sample) / setting.length for sample in samples]
    return Cost(
        seconds=seconds,
        cpu_s=cpu_s,
        tokenizations_per_sample=tokenizer.n_long / len(fills),
        fill_min=min(fills),
        fill_mean=sum(fills) / len(fills),
    )


def ours(setting: Setting, task: str) -> Cost:
    """The suite `ruler-nvidia`."""
    suite = RulerNvidia(data_dir=setting.data_dir)

    def build(tokenizer: CountingTokenizer) -> list[Any]:
        return list(suite.examples(task, seq_len=setting.length, n=setting.n_samples, seed=0, tokenizer=tokenizer))

    return measure(setting, build, lambda example: example.n_tokens)


# lm-eval

_GENERATORS = {  # module and function of a task, and the function that draws its samples
    **{task: ("niah_utils", task, "generate_samples") for task in TASKS if task.startswith("niah")},
    "vt": ("vt_utils", "get_vt_dataset", "sys_vartrack_w_noise_random"),
    "cwe": ("cwe_utils", "get_cw_dataset", "sys_word_pair_random"),
    "fwe": ("fwe_utils", "fwe_download", "sys_kwext"),
    "qa_1": ("qa_utils", "get_squad", "generate_samples"),
    "qa_2": ("qa_utils", "get_hotpotqa", "generate_samples"),
}


def lm_eval_missing() -> str | None:
    """Why lm-eval cannot be measured, or None."""
    try:
        with _offline():
            found = importlib.import_module("lm_eval").__version__
            importlib.import_module("lm_eval.tasks.ruler.niah_utils")
    except ImportError as error:
        return f"lm-eval is not measured: {error}; pip install 'lm-eval[ruler]=={LM_EVAL}'"
    return None if found == LM_EVAL else f"lm-eval is not measured: version {found}, this script knows {LM_EVAL}"


def lm_eval(setting: Setting, task: str) -> Cost:
    """lm-eval's generator of the same task."""
    module_name, function, drawer = _GENERATORS[task]
    module = importlib.import_module(f"lm_eval.tasks.ruler.{module_name}")
    random.seed(0)

    def build(tokenizer: CountingTokenizer) -> list[Any]:
        with _patched(_replacements(setting, module, drawer, tokenizer)), _quiet():
            return list(getattr(module, function)(max_seq_lengths=[setting.length], tokenizer="x")["test"])

    def n_tokens(row: dict[str, str]) -> int:
        prompt = row["input"] + " " + row["gen_prefix"].strip()
        return len(setting.tokenizer(prompt)["input_ids"]) + TASKS[task].n_new_tokens

    return measure(setting, build, n_tokens)


def _replacements(setting: Setting, module: Any, drawer: str, tokenizer: Any) -> list[tuple[Any, str, Any]]:
    draw = getattr(module, drawer)

    def fewer(*args: Any, num_samples: int = 500, **options: Any) -> Any:
        return draw(*args, num_samples=min(num_samples, setting.n_samples), **options)

    found: list[tuple[Any, str, Any]] = [(module, drawer, fewer), (module, "get_tokenizer", lambda name: tokenizer)]
    if hasattr(module, "get_haystack"):
        prepare = importlib.import_module("lm_eval.tasks.ruler.prepare_niah")
        read, essays = prepare.get_haystack, haystack.load("essay").text.split()

        def get_haystack(type_haystack: str) -> Any:
            return essays if type_haystack == "essay" else read(type_haystack)

        found += [(module, "get_haystack", get_haystack), (prepare, "sent_tokenize", punkt().tokenize)]
    if hasattr(module, "read_squad"):
        found.append((module, "read_squad", lambda: _questions(setting, "squad")))
        found.append((module, "read_hotpotqa", lambda: _questions(setting, "hotpotqa")))
    return found


def _questions(setting: Setting, kind: qa_data.Kind) -> tuple[list[dict[str, Any]], list[str]]:
    data = qa_data.load(kind, setting.data_dir)
    rows = []
    for question in data.questions:
        row: dict[str, Any] = {
            "query": question.query,
            "outputs": list(question.answers),
            "context": list(question.own),
        }
        rows.append(row | ({"more_context": list(question.more)} if kind == "squad" else {}))
    return rows, list(data.documents)


@contextlib.contextmanager
def _patched(replacements: list[tuple[Any, str, Any]]) -> Iterator[None]:
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in replacements]
    for owner, name, value in replacements:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Imports of lm-eval's modules do not ask NLTK for a download."""
    data = importlib.import_module("nltk.data")

    with _patched([(data, "find", lambda name, *args: name)]), _quiet():
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


# The report


def show(costs: dict[str, dict[str, Cost]]) -> Table:
    """A row a task, and their sum."""
    table = Table()
    table.add_column("task")
    for name in costs:
        for column in ("s", "CPU s", "tokenizations", "fill min", "mean"):
            table.add_column(f"{name}\n{column}", justify="right")
    for task in TASKS:
        table.add_row(task, *(cell for found in costs.values() for cell in _cells(found.get(task))))
    totals = (
        [f"{sum(getattr(c, key) for c in found.values()):.1f}" for key in ("seconds", "cpu_s")]
        for found in costs.values()
    )
    table.add_section()
    table.add_row("all", *(cell for total in totals for cell in [*total, "", "", ""]))
    return table


def _cells(cost: Cost | None) -> list[str]:
    if cost is None:
        return [""] * 5
    counts = f"{cost.seconds:.2f}", f"{cost.cpu_s:.2f}", f"{cost.tokenizations_per_sample:.2f}"
    return [*counts, f"{cost.fill_min:.3f}", f"{cost.fill_mean:.3f}"]


def main() -> int:
    """Measures and prints; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer")
    parser.add_argument("--length", type=int, default=32768)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--data-dir")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    from transformers import AutoTokenizer

    console = Console()
    setting = Setting(AutoTokenizer.from_pretrained(args.tokenizer), args.length, args.samples, args.data_dir)
    sides = {"ours": ours, "lm-eval": lm_eval}
    missing = lm_eval_missing()
    if missing:
        console.print(missing, markup=False)
        del sides["lm-eval"]
    costs: dict[str, dict[str, Cost]] = {name: {} for name in sides}
    try:
        for task, spec in TASKS.items():
            for name, side in sides.items():
                if isinstance(spec, QaTask):
                    qa_data.load(spec.data, setting.data_dir)
                costs[name][task] = side(setting, task)
    except RequestError as error:
        console.print(str(error), markup=False)
        return 2
    console.print(f"{args.samples} samples a task, {args.length} tokens, {args.tokenizer}", markup=False)
    console.print(show(costs))
    if args.json:
        found = {name: {task: asdict(cost) for task, cost in tasks.items()} for name, tasks in costs.items()}
        setup = {"tokenizer": args.tokenizer, "length": args.length, "samples": args.samples}
        args.json.write_text(json.dumps(setup | {"skipped": missing, "costs": found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
