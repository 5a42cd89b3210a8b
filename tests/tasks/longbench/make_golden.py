"""Writes golden/*.json by running the authors' own code on inputs of ours and on the data sets' rows.

    python -m tests.tasks.longbench.make_golden CHECKOUT DATA

CHECKOUT: THUDM/LongBench at 2e00731. DATA: the folder of test data. Needs rouge 1.0.1, jieba 0.42.1, datasets, and
fuzzywuzzy 0.18.0 without python-Levenshtein, besides the project's own packages.
"""

import ast
import contextlib
import importlib.util
import io
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from harness.models.loading import load_tokenizer
from harness.models.request import ModelRequest
from tests.tasks.longbench import golden_inputs as inputs
from tests.tasks.longbench.rows import PROMPT_CASES, V2_PROMPT_CASES, first_rows, ids_hash

GOLDEN = Path(__file__).parent / "golden"
COMMIT = "2e00731"
N = 220


def main(checkout: Path, data: Path) -> None:
    v1 = checkout / "LongBench"
    write("metrics.json", {"commit": COMMIT, **metric_scores(load(v1 / "metrics.py")), "paths": path_scores(v1)})
    write("eval.json", {"commit": COMMIT, **eval_scores(v1)})
    write("choices.json", {"commit": COMMIT, "choices": choices(checkout / "pred.py")})
    write("prompts.json", {"commit": COMMIT, **prompt_hashes(v1, data / "longbench")})
    write("prompts_v2.json", {"commit": COMMIT, **prompt_hashes_v2(checkout, data / "longbench_v2")})


def metric_scores(metrics: ModuleType) -> dict[str, Any]:
    rng = random.Random(20240229)
    english = inputs.text_cases(rng, inputs.ENGLISH, N)
    chinese = inputs.text_cases(rng, inputs.CHINESE + inputs.ENGLISH[:2], N)
    numbers = inputs.number_cases(rng, N)
    pages, pages_zh = ([[text, form + answer] for text, answer in numbers] for form in ("Paragraph ", "段落"))
    sets = {
        ("qa_f1", "rouge"): english,
        ("qa_f1_zh", "rouge_zh"): chinese,
        ("count",): numbers,
        ("retrieval",): pages,
        ("retrieval_zh",): pages_zh,
        ("classification",): inputs.class_cases(rng, N),
        ("code_sim",): inputs.code_cases(rng, N),
    }

    def scores(name: str, cases: list[list[str]]) -> list[float]:
        score = getattr(metrics, f"{name}_score")
        return [score(text, answer, all_classes=list(inputs.CLASSES)) for text, answer in cases]

    return {
        "classes": inputs.CLASSES,
        "sets": [{"cases": cases, "scores": {name: scores(name, cases) for name in s}} for s, cases in sets.items()],
    }


def eval_scores(folder: Path) -> dict[str, Any]:
    """What eval.py makes of predictions with several gold answers, in percent; and the bin of a length."""
    sys.modules["metrics"] = load(folder / "metrics.py")
    authors = load(folder / "eval.py")
    rng, cases = random.Random(20240229), []
    for task, texts in inputs.EVAL_TEXTS.items():
        for _ in range(50):
            answers = rng.sample(texts, rng.randrange(1, 4))
            text = "\n" * rng.randrange(3) + inputs.mutated(rng, rng.choice(answers), texts)
            cases.append([task, text, answers, authors.scorer(task, [text], [answers], list(inputs.CLASSES))])
    bins = []
    for length in (0, 1, 3999, 4000, 7999, 8000, 100000):
        with warnings.catch_warnings(action="ignore"):  # of means of nothing
            found = authors.scorer_e("qasper", ["a b"], [["a b"]], [length], None)
        bins.append([length, next(name for name, score in found.items() if score == 100)])
    return {"cases": cases, "bins": bins}


def path_scores(folder: Path) -> list[Any]:
    """What eval.py itself gives a text of so many words against itself: from some length on, it cannot follow."""
    found = []
    for task, name in (("gov_report", "rouge"), ("vcsum", "rouge_zh")):
        for size in (989, 990, 991):
            text = " ".join(f"w{i}" for i in range(size))
            with tempfile.TemporaryDirectory() as scratch:
                (out := Path(scratch, "pred", "m")).mkdir(parents=True)
                line = {"pred": text, "answers": [text], "all_classes": None, "length": size}
                (out / f"{task}.jsonl").write_text(json.dumps(line) + "\n")
                command = [sys.executable, "-W", "ignore", folder / "eval.py", "--model", "m"]
                subprocess.run(command, cwd=scratch, check=True, capture_output=True)
                found.append([name, size, json.loads((out / "result.json").read_text())[task] / 100])
    return found


def choices(pred: Path) -> list[list[str | None]]:
    """extract_answer, taken out of a module that wants a server to be imported."""
    tree = ast.parse(pred.read_text(encoding="utf-8"))
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "extract_answer"]
    space: dict[str, Any] = {"re": re}
    exec(compile(ast.Module(found, []), str(pred), "exec"), space)
    responses = inputs.response_cases(random.Random(20240229), N)
    return [[text, space["extract_answer"](text.strip())] for text in responses]


def prompt_hashes(folder: Path, data: Path) -> dict[str, Any]:
    """Case -> task -> hash of the token ids that pred.py gives its model."""
    sys.modules["llama_flash_attn_monkey_patch"] = stub(replace_llama_attn_with_flash_attn=None)
    pred = load(folder / "pred.py")
    pred.dist, pred.tqdm = SimpleNamespace(destroy_process_group=lambda: None), iter
    templates = json.loads((folder / "config" / "dataset2prompt.json").read_text(encoding="utf-8"))
    limits = json.loads((folder / "config" / "dataset2maxlen.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    for case in PROMPT_CASES:
        tokenizer = load_tokenizer(ModelRequest(name=case.tokenizer))
        hashes = found[case.name] = {}
        for task, template in templates.items():
            rows, model = first_rows(data / f"{task}.jsonl.gz"), Recorder()
            pred.load_model_and_tokenizer = lambda *_, m=model, t=tokenizer: (m, OnDevice(t))
            name = "llama2" if case.prompt == "chat" else "another"  # which the authors wrap in [INST], or not at all
            pred.get_pred(0, 1, rows, case.max_length, limits[task], template, task, None, name, {name: ""}, os.devnull)
            hashes[task] = ids_hash({row["_id"]: read for row, read in zip(rows, model.read, strict=True)})
    return found


def prompt_hashes_v2(checkout: Path, data: Path) -> dict[str, str]:
    """Case -> hash of the token ids of what pred.py sends its server, which adds the chat template."""
    sent: list[str] = []

    def create(*, messages: list[dict[str, str]], **_: Any) -> Any:
        sent.append(messages[0]["content"])
        message = SimpleNamespace(content="The correct answer is (A)")
        return SimpleNamespace(choices=[SimpleNamespace(message=message)])

    client = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))
    sys.modules["openai"] = stub(OpenAI=lambda **_: client)
    sys.modules["tiktoken"] = stub()
    with contextlib.chdir(checkout):
        pred = load(checkout / "pred.py")
    found: dict[str, str] = {}
    for case in V2_PROMPT_CASES:
        tokenizer = load_tokenizer(ModelRequest(name=case.tokenizer))
        pred.AutoTokenizer = SimpleNamespace(from_pretrained=lambda *_, t=tokenizer, **__: t)
        pred.model_map, pred.maxlen_map, pred.tqdm = {"m": "m"}, {"m": case.max_length}, iter
        rows = first_rows(data / "short.jsonl.gz")
        names = [row["_id"] for row in rows]
        sent.clear()
        pred.get_pred(rows, SimpleNamespace(model="m", rag=0, no_context=False, cot=False), io.StringIO())
        found[case.name] = ids_hash({n: tokenizer(text)["input_ids"] for n, text in zip(names, sent, strict=True)})
    return found


class Recorder:
    """A model that remembers what it was given and answers nothing."""

    def __init__(self) -> None:
        self.read: list[list[int]] = []

    def generate(self, *, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        self.read.append(input_ids[0].tolist())
        return input_ids


class OnDevice:
    """A tokenizer whose tensors stay where they are."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __call__(self, text: str, **options: Any) -> Any:
        class Ids(dict):
            def to(self, device: object) -> "Ids":
                return self

            input_ids = property(lambda self: self["input_ids"])

        return Ids(input_ids=self._tokenizer(text, **options)["input_ids"])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def stub(**attributes: Callable[..., Any] | None) -> Any:
    module = ModuleType("stub")
    vars(module).update(attributes)
    return module


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"authors_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(name: str, value: Any) -> None:
    """One case a line, so that a difference can be read."""
    text = json.dumps(value, ensure_ascii=False).replace("], [", "],\n[") + "\n"
    assert json.loads(text) == json.loads(json.dumps(value))
    (GOLDEN / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute())
