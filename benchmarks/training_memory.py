"""The memory of one training step on one long segment, length by length: measured, and as the estimate has it.

    python benchmarks/training_memory.py                                     # tiny-llama, 8192 to 32768: minutes
    python benchmarks/training_memory.py --model smollm2-135m --device cuda \\
        --lengths 8192 16384 32768 65536 131072 --json rows.json

Each length is a fresh process that takes one step as `run_bench.py train` takes it: a segment of random tokens under a
rescaled RoPE, forward with activation checkpointing, the loss in chunks, backward, AdamW. `before` is what the process
holds once the model is loaded, `peak` the most during the step, `growth` their difference: gradients, moments and
activations, which `estimate` is for. On a GPU that is what PyTorch allocated. On a CPU it is resident memory (VmRSS and
VmHWM of Linux): `before` has the interpreter and its libraries too, and the process is told to give back every block
of 128 kB or more that is freed, which glibc by itself does not. The straight line through the growths is printed with
the largest distance from it.

Prints Markdown; `--json FILE` writes a row for each length: model, device, dtype, attention, seq_len, seconds,
cpu_seconds, tokens_per_s, before_bytes, peak_bytes, growth_bytes, estimate_bytes.
"""

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

from harness.errors import RequestError
from harness.models.loading import LoadedModel, check_device
from harness.models.request import ModelRequest
from methods.longrope.training import processes
from methods.longrope.training.bins import Bin
from methods.longrope.training.corpus import Corpus
from methods.longrope.training.loop import Training, load_for_training
from methods.longrope.training.memory import memory_estimate
from methods.longrope.training.mix import Mix, PlannedMix
from methods.longrope.training.settings import Silent, TrainingSettings
from methods.longrope.training.shards import write_shards
from methods.longrope.training.sources import Document
from tasks.base import Tokenizer

# glibc keeps what is freed below a threshold that rises to 32 MB: shorter lengths would look as large as longer ones.
_GIVEN_BACK = ("MALLOC_MMAP_THRESHOLD_", str(1 << 17))


@dataclass(frozen=True)
class RandomTokens:
    """A source of one document."""

    n_tokens: int

    def identity(self) -> list[int]:
        """The length."""
        return [self.n_tokens]

    def documents(self, tokenizer: Tokenizer, start: int = 0) -> Iterator[Document]:
        """The document."""
        ids_L = np.random.RandomState(0).randint(0, len(tokenizer), self.n_tokens)
        yield from [Document(ids_L)][start:]


def main() -> int:
    """Measures and prints; returns the exit code."""
    args = _arguments()
    rows = []
    for seq_len in args.lengths:
        try:
            rows.append(_in_fresh_process(args, seq_len))
        except (RequestError, BrokenProcessPool) as error:
            print(f"{seq_len} tokens: {error}", file=sys.stderr)
            return 2
        print(f"{seq_len} tokens: {rows[-1]['seconds']:.0f} s", file=sys.stderr)
        if args.json:  # each as soon as it is there: the next one takes four times as long
            args.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(markdown(rows))
    return 0


def measure(args: argparse.Namespace, seq_len: int) -> dict[str, Any]:
    """One step in this process, as a row. Raises RequestError."""
    device = check_device(args.device)
    settings = TrainingSettings(batch_tokens=seq_len, dtype=args.dtype)
    request = ModelRequest(name=args.model, attention=args.attention)
    model = load_for_training(request, device, settings)
    estimate = memory_estimate(model.hf, settings, n_tokens=seq_len)
    with TemporaryDirectory() as folder:
        training = one_step(model, settings, seq_len, Path(folder))
        with peak_memory(training.model.device) as memory:
            cpu = time.process_time()
            report = training.step(0)
            cpu = time.process_time() - cpu
    return {
        "model": args.model,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {_threads()}",
        "dtype": processes.dtype_name(settings, device),
        "attention": "+".join(sorted(training.accumulation.module.used)),
        "seq_len": seq_len,
        "seconds": round(seq_len / report.tokens_per_s, 2),
        "cpu_seconds": round(cpu, 2),
        "tokens_per_s": round(report.tokens_per_s, 1),
        **memory,
        "growth_bytes": memory["peak_bytes"] - memory["before_bytes"],
        "estimate_bytes": estimate.total - estimate.weights,
    }


def one_step(model: LoadedModel, settings: TrainingSettings, seq_len: int, folder: Path) -> Training:
    """A training of one batch, one segment of `seq_len` random tokens, before its step."""
    rescaled = model.rope.rescaled(model.rope.extension_ratio(seq_len), 1.1)
    accelerator = processes.start(settings, device=str(model.device), folder=folder)
    return Training.begin(model, rescaled, _mix(model, seq_len, folder), settings, folder, 0, accelerator, Silent())


def _mix(model: LoadedModel, seq_len: int, folder: Path) -> PlannedMix:
    tokenizer: Any = model.tokenizer
    write_shards(RandomTokens(seq_len), tokenizer, folder / "data")
    mix = Mix(bins=(Bin(name="long", kind="long", share=1),), total_tokens=seq_len)
    corpus = Corpus.open({"random": folder / "data"}, tokenizer)
    return mix.plan(corpus, window=model.rope.original_max_position_embeddings, target=seq_len)


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, int]]:
    """What is held before the block, and once it has ended the most that was held in it."""
    found: dict[str, int] = {}
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        found["before_bytes"] = torch.cuda.memory_allocated(device)
        yield found
        found["peak_bytes"] = torch.cuda.max_memory_allocated(device)
        return
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew; ru_maxrss would have that of the loading
    found["before_bytes"] = _status_bytes("VmRSS")
    yield found
    found["peak_bytes"] = _status_bytes("VmHWM")


def line_through(lengths: Sequence[int], n_bytes: Sequence[int]) -> tuple[float, float, float]:
    """The line through some points: bytes a token, bytes at no token, and the largest distance as a share."""
    slope, offset = np.polyfit(lengths, n_bytes, 1)
    foretold = slope * np.array(lengths) + offset
    return float(slope), float(offset), float(np.max(np.abs(foretold / n_bytes - 1)))


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table, and the lines through them."""
    first = rows[0]
    lines = [
        f"{first['model']}, {first['dtype']}, attention {first['attention']}, {first['device']}; GB = 10^9 bytes.",
        "",
        "| tokens | before | peak | growth | estimate | s | CPU s | tokens/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        memory = [f"{row[f'{name}_bytes'] / 1e9:.2f}" for name in ("before", "peak", "growth", "estimate")]
        cells = [
            str(row["seq_len"]),
            *memory,
            f"{row['seconds']:.0f}",
            f"{row['cpu_seconds']:.0f}",
            f"{row['tokens_per_s']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if len(rows) > 2:
        lengths = [row["seq_len"] for row in rows]
        for name in ("growth", "estimate"):
            slope, offset, distance = line_through(lengths, [row[f"{name}_bytes"] for row in rows])
            what = f"{slope / 1e3:.1f} kB a token + {offset / 1e9:.2f} GB, {100 * distance:.1f} % from it at most"
            lines += ["", f"{name}: {what}"]
    return "\n".join(lines)


def _in_fresh_process(args: argparse.Namespace, seq_len: int) -> dict[str, Any]:
    os.environ.setdefault(*_GIVEN_BACK)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, args, seq_len).result()


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(found) * 1024


def _threads() -> str:
    n = torch.get_num_threads()
    return f"{n} thread{'s' * (n > 1)}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-llama", help="of the catalogue, or a folder")
    parser.add_argument("--lengths", nargs="+", type=int, default=[8192, 16384, 32768], metavar="TOKENS")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"), help="of the computation")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
