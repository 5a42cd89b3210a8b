"""The engine beside lm-eval's HFLM and plain `generate`: same weights, same prompts, one run.

    python benchmarks/engine.py                                  # CPU: tiny-llama under YaRN; GPU: SmolLM2-135M
    python benchmarks/engine.py --model llama-8b-shape --lengths 131072 --new-tokens 8
    python benchmarks/engine.py --command                        # from the command to the scores, empty cache

Prints a Markdown table; `--json FILE` writes rows of model, device, task, seq_len, engine, seconds_per_sample, score,
peak_memory_bytes. Each engine answers one sample before it is timed. `peak share` is that of the prefill alone in the
measured peak of a matrix product, causal attention counted once. On a GPU the same samples are answered twice, and what
differs is printed: the floor below which a difference of two engines says nothing.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from command import compare_commands
from engines import Named, engines, lm_eval_missing
from machine import matmul_peak, peak_memory, prefill_flops

from harness.catalogue import build, resolve
from harness.errors import RequestError
from harness.models import attention
from harness.models.loading import LoadedModel, check_device, load, load_tokenizer
from harness.models.memory import Limits
from harness.models.request import ModelRequest
from harness.models.rope_facts import rope_spec_from_config
from harness.models.rotary import find_sites
from harness.types import Example, Output

SHAPE = "llama-8b-shape"  # randomly initialised: 32 layers, 4096 wide, 32 heads and 8 of keys, of 128
_ROW = ("model", "device", "task", "seq_len", "engine", "seconds_per_sample", "score", "peak_memory_bytes")


def main() -> int:
    """Measures and prints; returns the exit code."""
    args = _arguments()
    try:
        rows = compare_commands(args) if args.command else _measure(args)
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    print(markdown(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def _measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    device = check_device(args.device)
    missing = lm_eval_missing()
    if missing:
        print(missing, file=sys.stderr)
    model = load_model(args, device)
    peak = matmul_peak(model.device, model.hf.dtype)
    print(f"peak of a matrix product: {peak / 1e12:.3g} TFLOP/s, {model.hf.dtype!s}, {device_name(device)}")
    suite = build(resolve("suite", args.suite), {}, where=f"suite '{args.suite}'")
    chosen = [e for e in engines(args.batch, with_lm_eval=not missing) if not args.engines or e.name in args.engines]
    rows = []
    for task in args.tasks:
        for seq_len in args.lengths:
            samples = draw(suite, task, seq_len, args.samples, model.tokenizer, args.new_tokens)
            settings = {"target_length": max(args.lengths)} if args.method != "vanilla" else {}
            method = build(resolve("method", args.method), settings, where=f"method '{args.method}'")
            with method.applied(model, seq_len=seq_len):
                for engine in chosen:
                    rows.append(_row(args, model, suite, task, seq_len, samples, engine, peak))
                    print(".", end="", file=sys.stderr, flush=True)
                _print_floor(model, suite, task, samples)
    print(file=sys.stderr)
    return rows


def draw(
    suite: Any, task: str, seq_len: int, n: int, tokenizer: Any, new_tokens: int | None
) -> list[Example]:  # fmt: skip
    """The samples that every engine answers."""
    found = list(suite.examples(task, seq_len=seq_len, n=n, seed=0, tokenizer=tokenizer))
    return [replace(sample, max_new_tokens=new_tokens) for sample in found] if new_tokens else found


def _row(
    args: argparse.Namespace,
    model: LoadedModel,
    suite: Any,
    task: str,
    seq_len: int,
    samples: Sequence[Example],
    engine: Named,
    peak: float,
) -> dict[str, Any]:
    """One engine on one task and length."""
    row: dict[str, Any] = dict.fromkeys(_ROW)
    row |= {"model": args.model, "device": device_name(model.device), "task": task, "seq_len": seq_len}
    row["engine"] = engine.name
    try:
        model.cache = None
        engine.run(model, suite, task, samples[:1])
        with peak_memory(model.device) as memory:
            wall, cpu = time.perf_counter(), time.process_time()
            texts = engine.run(model, suite, task, samples)
            row["seconds_per_sample"] = (time.perf_counter() - wall) / len(samples)
            row["cpu_seconds_per_sample"] = (time.process_time() - cpu) / len(samples)
        row["peak_memory_bytes"] = memory[0]
    except (torch.OutOfMemoryError, MemoryError):
        return row | {"note": "out of memory"}
    n_prompt = sum(len(sample.prompt_ids) for sample in samples) / len(samples)
    row["tokens_per_s"] = n_prompt / row["seconds_per_sample"]
    if texts is None:
        row["peak_share"] = prefill_flops(model.hf, int(n_prompt)) / row["seconds_per_sample"] / peak
    else:
        scores = [suite.score(task, s, Output(text=text)).value for s, text in zip(samples, texts, strict=True)]
        row["score"] = sum(scores) / len(scores)
    return row


def _print_floor(model: LoadedModel, suite: Any, task: str, samples: Sequence[Example]) -> None:
    """The same samples twice: what differs without any reason to."""
    if model.device.type != "cuda":
        return
    texts = [engines([], with_lm_eval=False)[1].run(model, suite, task, samples) for _ in range(2)]
    same = sum(a == b for a, b in zip(*texts, strict=True))
    print(f"A/A: {same} of {len(samples)} answers of {task} are the same when asked again")


def load_model(args: argparse.Namespace, device: torch.device) -> LoadedModel:
    """A catalogue's model, or the 8B shape with random weights."""
    if args.model != SHAPE:
        dtype = args.dtype or ("float32" if device.type == "cpu" else "bfloat16")
        return load(ModelRequest(name=args.model, dtype=dtype, attention=args.attention), device=str(device))
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=131072,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        hf = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=attention.implementation(args.attention)
        )
    tiny = ModelRequest(name="tiny-llama", label=SHAPE, dtype="bfloat16", attention=args.attention)
    return LoadedModel(
        hf=hf.eval(),
        tokenizer=load_tokenizer(tiny),
        rope=rope_spec_from_config(config.to_dict()),
        device=device,
        request=tiny,
        sites=find_sites(hf),
        eos_ids=frozenset(),
        limits=Limits.of(device),
    )


def device_name(device: torch.device) -> str:
    """The card, or the processor's threads."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"cpu, {torch.get_num_threads()} threads"


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table."""
    columns = {
        "task": "{}",
        "seq_len": "{}",
        "engine": "{}",
        "seconds_per_sample": "{:.3f}",
        "cpu_seconds_per_sample": "{:.3f}",
        "tokens_per_s": "{:.0f}",
        "peak_share": "{:.0%}",
        "peak_memory_bytes": "{:.3e}",
        "score": "{:.3f}",
        "note": "{}",
    }
    columns = {name: form for name, form in columns.items() if any(row.get(name) is not None for row in rows)}
    lines = ["| " + " | ".join(name.replace("_", " ") for name in columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = ["" if row.get(name) is None else form.format(row[name]) for name, form in columns.items()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m" if on_gpu else "tiny-llama", help=f"a model, or {SHAPE}")
    parser.add_argument("--method", default="yarn")
    parser.add_argument("--suite", default="ruler-nvidia")
    parser.add_argument("--tasks", nargs="+", default=["niah_single_1", "vt" if on_gpu else "niah_multikey_2"])
    default = [2048, 8192, 32768, 131072] if on_gpu else [2048, 4096]
    parser.add_argument("--lengths", nargs="+", type=int, default=default)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, help="in place of the task's own budget")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4, 8], help="HFLM's batch sizes")
    parser.add_argument("--engines", nargs="+", help="only these")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--command", action="store_true", help="time whole commands instead, ours and lm-eval's")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
