"""Writes golden.json: what the authors' code makes of the inputs in cases.py.

    python -m tests.tasks.retrieval.make_golden NEEDLE KEY_VALUE

NEEDLE and KEY_VALUE are checkouts of gkamradt/LLMTest_NeedleInAHaystack and nelson-liu/lost-in-the-middle at the
commits below. The code runs as it is, with stand-ins for what it imports and never uses here: models, judges, a reader
of packed files. Files are found in the order of their names.
"""

import asyncio
import glob
import hashlib
import importlib.util
import json
import runpy
import sys
import tempfile
import types
from pathlib import Path

from transformers import AutoTokenizer

from tasks.needle_grid import _QUESTION, NEEDLE
from tests.tasks.conftest import TINY_LLAMA
from tests.tasks.retrieval import cases

COMMITS = {"needle": "7b90d28", "key_value": "29b8a6d"}
GOLDEN = Path(__file__).with_name("golden.json")


def main(needle: Path, key_value: Path) -> None:
    """Runs the authors' code on every case."""
    golden = {"commits": COMMITS, "needle": _needle(needle), "key_value": _key_value(key_value)}
    GOLDEN.write_text(json.dumps(golden) + "\n")


def digest(text: str) -> str:
    """What a golden file holds of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


class _Model:
    """The provider of a tokenizer."""

    model_name = "tiny-llama"

    def __init__(self) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(TINY_LLAMA)

    def encode_text_to_tokens(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def decode_tokens(self, tokens: list[int], context_length: int | None = None) -> str:
        return self._tokenizer.decode(tokens[:context_length], clean_up_tokenization_spaces=False)


def _needle(checkout: Path) -> dict:
    package = types.ModuleType("needlehaystack")
    package.__path__ = [str(checkout / "needlehaystack")]
    stand_ins = {"evaluators": "Evaluator", "providers": "ModelProvider"}
    for name, attribute in stand_ins.items():
        module = types.ModuleType(f"needlehaystack.{name}")
        setattr(module, attribute, object)
        sys.modules[module.__name__] = module
    sys.modules["needlehaystack"] = package
    tester = importlib.import_module("needlehaystack.llm_needle_haystack_tester").LLMNeedleHaystackTester
    unsorted, glob.glob = glob.glob, lambda pattern: sorted(unsorted(pattern))

    def grid(n: int, interval: str, folder: str = "any", lengths: tuple[int, ...] = cases.LENGTHS) -> object:
        return tester(
            _Model(), None, NEEDLE, folder, _QUESTION, context_lengths=list(lengths),
            document_depth_percent_intervals=n, document_depth_percent_interval_type=interval,
        )  # fmt: skip

    prompt = (checkout / "needlehaystack" / "providers" / "Anthropic_prompt.txt").read_text()
    return {
        "lengths": [int(length) for length in tester(_Model(), None, NEEDLE, "any", _QUESTION).context_lengths],
        "depths": [sorted(map(float, grid(n, kind).document_depth_percents)) for n, kind in cases.GRIDS],
        "prompt": digest(prompt.format(retrieval_question=_QUESTION, context="A\nB")),
        "contexts": {name: _contexts(grid, files) for name, files in cases.HAYSTACKS.items()},
    }


def _contexts(grid, files: dict[str, str]) -> list[list[str]]:
    """A row a grid and length, a hash a depth in ascending order."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / name).write_bytes(text.encode())
        for n, interval in cases.CONTEXT_GRIDS:
            for length in cases.LENGTHS:
                tester = grid(n, interval, folder)
                depths = sorted(tester.document_depth_percents)
                rows.append([digest(asyncio.run(tester.generate_context(length, depth))) for depth in depths])
    return rows


def _key_value(checkout: Path) -> dict:
    sys.path.insert(0, str(checkout / "src"))
    from lost_in_the_middle.prompting import get_kv_retrieval_prompt

    prompts = []
    for n, asked in cases.KEY_VALUE_PROMPTS:
        pairs = cases.pairs(n)
        prompts.append([digest(get_kv_retrieval_prompt(pairs, pairs[asked].key, aware)) for aware in (False, True)])
    return {"prompts": prompts, "scores": _scores(checkout)}


def _scores(checkout: Path) -> list[int]:
    for name, attribute, value in (("xopen", "xopen", open), ("tqdm", "tqdm", iter)):
        module = types.ModuleType(name)
        setattr(module, attribute, value)
        sys.modules[name] = module
    script = runpy.run_path(str(checkout / "scripts" / "evaluate_kv_responses.py"))
    with tempfile.TemporaryDirectory() as folder:
        said, scored = Path(folder) / "said.jsonl", Path(folder) / "scored.jsonl"
        said.write_text(cases.responses())
        script["main"](said, scored)
        return [int(json.loads(line)["metric_accuracy"]) for line in scored.read_text().splitlines()]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
