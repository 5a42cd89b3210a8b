"""From a command to its scores, the first time: `run_bench.py run` beside lm-eval, each a process of its own.

Scores are there when `summary.json` stands, and when lm-eval's call returns. Ours then draws its report, and both
processes end: the whole is given too.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness.errors import RequestError
from harness.models.locate import locate
from harness.models.request import ModelRequest

ROOT = Path(__file__).parents[1]

_LM_EVAL = """
import json, sys, time
import nltk.data
nltk.data.find = lambda name, *paths: name  # what it would download is not used by tasks with noise
from lm_eval import simple_evaluate
folder, task, length, samples, batch, device = sys.argv[1:]
found = simple_evaluate(
    model="hf", model_args={"pretrained": folder, "dtype": "float32", "max_length": int(length) + 256},
    tasks=[task], limit=int(samples), batch_size=int(batch), device=device,
    metadata={"pretrained": folder, "max_seq_lengths": [int(length)]},
)
scores = [sample[length] for sample in found["samples"][task]]
print("SCORE", sum(scores) / len(scores), time.time())
"""

Found = tuple[float, float]  # the score, and the time of day at which it was there


def compare_commands(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each command; the caches of both are empty. YaRN stands in the model's configuration for lm-eval."""
    rows = []
    for task in args.tasks:
        for length in args.lengths:
            for name, command in (("longreach", _ours), ("lm-eval", _theirs)):
                with tempfile.TemporaryDirectory() as folder:
                    began = time.time()
                    score, scored = command(args, task, length, Path(folder))
                    seconds, in_all = scored - began, time.time() - began
                rows.append(
                    {
                        "model": args.model, "device": args.device, "task": task, "seq_len": length,
                        "engine": f"{name}, the command", "seconds_per_sample": seconds / args.samples,
                        "score": score, "peak_memory_bytes": None,
                        "note": f"{seconds:.1f} s to the scores, {in_all:.1f} s in all",
                    }
                )  # fmt: skip
    return rows


def _ours(args: argparse.Namespace, task: str, length: int, folder: Path) -> Found:
    preset = folder / "preset.toml"
    method = {"name": args.method} | ({"target_length": max(args.lengths)} if args.method == "yarn" else {})
    preset.write_text(
        f"seq_lens = [{length}]\nn_samples = {args.samples}\nmodel = {{name = {json.dumps(args.model)}}}\n"
        f"method = {{{', '.join(f'{key} = {json.dumps(value)}' for key, value in method.items())}}}\n"
        f'suite = {{name = {json.dumps(args.suite)}, tasks = ["{task}"]}}\n'
    )
    command = ["run", str(preset), "--out", str(folder / "run"), "--device", args.device]
    _run([sys.executable, str(ROOT / "run_bench.py"), *command], folder)
    summary = folder / "run" / "summary.json"
    return json.loads(summary.read_text())["scores"][0]["score"], summary.stat().st_mtime


def _theirs(args: argparse.Namespace, task: str, length: int, folder: Path) -> Found:
    source = locate(ModelRequest(name=args.model)).folder
    if source is None or args.method not in ("yarn", "vanilla"):
        raise RequestError("--command needs a model that is a folder, and the method yarn or vanilla")
    model = folder / "model"
    model.mkdir()
    for path in source.iterdir():
        (model / path.name).symlink_to(path)
    config = json.loads((source / "config.json").read_text())
    if args.method == "yarn":
        window = config["max_position_embeddings"]
        factor = max(args.lengths) / window
        config["rope_parameters"] |= {
            "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": window
        }  # fmt: skip
        config["max_position_embeddings"] = max(args.lengths)
        (model / "config.json").unlink()
        (model / "config.json").write_text(json.dumps(config))
    device = "cuda" if args.device.startswith("cuda") else "cpu"
    arguments = [str(model), task, str(length), str(args.samples), str(max(args.batch)), device]
    out = _run([sys.executable, "-c", _LM_EVAL, *arguments], folder)
    score, scored = map(float, out.rpartition("SCORE")[2].split())
    return score, scored


def _run(command: list[str], folder: Path) -> str:
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    if done.returncode:
        raise RequestError(f"{' '.join(command[:3])} ... failed: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout
