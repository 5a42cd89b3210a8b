"""The fast search beside the published ones: loss on test documents against what was spent, on tiny-llama.

    python benchmarks/search.py --jobs 2 --json rows.json       # about 50 minutes on two cores
    python benchmarks/search.py --algorithms fast longrope2 longrope --budget 300 300
    python benchmarks/search.py --algorithms fast --lengths 8192 --seeds 1 --budget 300 --asked 4 --search-keys 16
    python benchmarks/search.py --ablations                     # beside tables 5, 6 and 10 of the LongRoPE2 paper

Every search is a folder of its own under --out and one process: what is finished is not run again, what was
stopped goes on. Prints Markdown; `--json FILE` writes a row for each point of each curve: algorithm, target_length,
seed, forward_equivalents, held_out_loss, yarn_loss, and their standard errors where they are known. `held_out_loss` is
the loss on the search's test documents, which nothing was chosen by and the budget did not pay for; they are the same
for all algorithms of one length and seed.

The published evolutions are scaled: --population, and with it parents, mutants and crossovers; as many of the paper's
generations as the budget holds. Both numbers are printed beside the loss.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import search_ablations as ablations
from search_rows import how_scaled, number, over, scaled, with_error

from harness.errors import RequestError
from harness.types import content_hash
from reports.text import markdown_table

ROOT = Path(__file__).parents[1]
_ROW = ("algorithm", "target_length", "seed", "forward_equivalents", "held_out_loss", "yarn_loss")


@dataclass(frozen=True, kw_only=True)
class Search:
    """One search. config: what its TOML file says. name: of its folder, with a hash of the settings."""

    label: str
    config: dict[str, Any]

    @property
    def name(self) -> str:
        """The same for the same settings."""
        length, seed = self.config["target_length"], self.config["seed"]
        return f"{self.label}-{length}-{seed}-{content_hash(self.config)[:8]}"


def main() -> int:
    """Searches and prints; returns the exit code."""
    args = _arguments()
    try:
        searches = ablations.searches(args, Search) if args.ablations else planned(args)
        found = run_all(searches, args.out, args.jobs, args.threads)
        rows = [row for search, factors in zip(searches, found, strict=True) for row in curve_rows(search, factors)]
        print(ablations.markdown(searches, found) if args.ablations else markdown(searches, found))
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def planned(args: argparse.Namespace) -> list[Search]:
    """A search for each algorithm, length and seed; the shortest first."""
    lengths, seeds, budgets = args.lengths, _each(args, "seeds"), _each(args, "budget")
    return [
        Search(label=algorithm, config=config(algorithm, length, seed, budget, args))
        for length, n_seeds, budget in zip(lengths, seeds, budgets, strict=True)
        for seed in range(n_seeds)
        for algorithm in args.algorithms
    ]


def config(algorithm: str, length: int, seed: int, budget: int, args: argparse.Namespace) -> dict[str, Any]:
    """What a search's TOML file says: four keys in prose and noise, as in the preset tiny-4096."""
    evolves = algorithm != "fast"
    return {
        "title": f"{algorithm} on tiny-llama, 512 to {length}, seed {seed}",
        "seed": seed,
        "target_length": length,
        "model": {"name": "tiny-llama", "dtype": "float32"},
        "objective": {
            "kind": "needle",
            "n_keys": 4,
            "n_asked": args.asked,
            **({} if evolves or args.search_keys is None else {"search_keys": args.search_keys}),
            "position": "uniform",
            "haystacks": ["docs", "noise"],
            # The released evolutions measure every candidate on the same documents.
            "documents": "fixed" if evolves else "fresh",
            "n_documents": args.documents,
        },
        "search": {"algorithm": algorithm, "budget": budget, **(scaled(args) if evolves else {})},
        "report": {"test_documents": args.test_documents, "curve_points": args.curve_points},
    }


def run_all(searches: Sequence[Search], out: Path, jobs: int, threads: int) -> list[dict[str, Any]]:
    """What each search's factors.json holds, `jobs` searches at once. Raises RequestError for the first that failed."""
    out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(lambda search: run_one(search, out, threads), searches))


def run_one(search: Search, out: Path, threads: int) -> dict[str, Any]:
    """One search in a process of its own, on so many cores."""
    written, folder = out / f"{search.name}.toml", out / search.name
    written.write_text(toml(search.config), encoding="utf-8")
    command = [sys.executable, str(ROOT / "run_bench.py"), "search", str(written), "--out", str(folder)]
    command += ["--device", "cpu"]
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with (out / f"{search.name}.log").open("w") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=env, check=False)
    if done.returncode:
        last = Path(log.name).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise RequestError(f"{search.name}: {''.join(last)}")
    print(f"{search.name} is finished", file=sys.stderr)
    found: dict[str, Any] = json.loads((folder / "factors.json").read_text())
    return found


def toml(table: dict[str, Any]) -> str:
    """A table of values and of tables of values as TOML."""
    values = {name: value for name, value in table.items() if not isinstance(value, dict)}
    tables = {name: value for name, value in table.items() if isinstance(value, dict)}
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    for name, inner in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in inner.items())]
    return "\n".join(lines) + "\n"


def curve_rows(search: Search, factors: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each point of the curve that was measured on the test documents; the last is the result."""
    losses, spent = factors["losses"], factors["search"]["spent"]
    facts = (search.label, factors["target_length"], factors["search"]["seed"])
    measured = [
        (point["forward_equivalents"], point["test_loss"])
        for point in factors["curve"]
        if point["test_loss"] is not None and point["forward_equivalents"] < spent
    ]
    rows = [
        dict(zip(_ROW, (*facts, x, loss, losses["yarn"]["test"]), strict=True)) for x, loss in measured
    ]  # fmt: skip
    last = dict(zip(_ROW, (*facts, spent, losses["found"]["test"], losses["yarn"]["test"]), strict=True))
    errors = {
        "standard_error": losses["found"]["test_standard_error"],
        "yarn_standard_error": losses["yarn"]["test_standard_error"],
        "test_documents": factors["documents"]["test"]["n_documents"],
        "documents": factors["search"]["n_documents"],
        "n_asked": factors["search"]["objective"]["n_asked"],
        "search_keys": factors["search"]["objective"]["search_keys"],
        "scaled": how_scaled(factors),
        "seconds": factors["search"]["seconds"],
    }
    return [*rows, last | errors]


def markdown(searches: Sequence[Search], found: Sequence[dict[str, Any]]) -> str:
    """A row a search, then a row a curve; raises RequestError where algorithms met other documents."""
    _check_documents(found)
    lasts = [curve_rows(search, factors)[-1] for search, factors in zip(searches, found, strict=True)]
    head = ["algorithm", "length", "seed", "spent", "loss", "YaRN", "over YaRN", "seconds", "scaled"]
    rows = [
        [
            row["algorithm"],
            row["target_length"],
            row["seed"],
            f"{row['forward_equivalents']:.4g}",
            with_error(row["held_out_loss"], row["standard_error"]),
            with_error(row["yarn_loss"], row["yarn_standard_error"]),
            over(row["held_out_loss"], row["yarn_loss"]),
            f"{row['seconds']:.0f}",
            row["scaled"],
        ]
        for row in lasts
    ]
    means = [
        [algorithm, length, len(of), number(fmean(row["held_out_loss"] for row in of)),
         number(fmean(row["yarn_loss"] for row in of))]
        for length in dict.fromkeys(row["target_length"] for row in lasts)
        for algorithm in dict.fromkeys(row["algorithm"] for row in lasts)
        if (of := [r for r in lasts if (r["algorithm"], r["target_length"]) == (algorithm, length)])
        and all(row["held_out_loss"] is not None for row in of)
    ]  # fmt: skip
    curves = [
        [search.name.rpartition("-")[0], *("; ".join(
            f"{row['forward_equivalents']:.0f}: {number(row['held_out_loss'])}" for row in curve_rows(search, factors)
        ),)]
        for search, factors in zip(searches, found, strict=True)
    ]  # fmt: skip
    return "\n\n".join(
        [
            "Loss: nats an answer token, mean over the test documents ± standard error. Spent: forward-equivalents.",
            markdown_table(head, rows),
            markdown_table(["algorithm", "length", "seeds", "mean loss", "mean of YaRN"], means),
            markdown_table(["search", "forward-equivalents: loss"], curves),
        ]
    )


def _check_documents(found: Sequence[dict[str, Any]]) -> None:
    """YaRN's loss is the same wherever the test documents are."""
    seen: dict[tuple[int, int], float] = {}
    for factors in found:
        place, yarn = (factors["target_length"], factors["search"]["seed"]), factors["losses"]["yarn"]["test"]
        if seen.setdefault(place, yarn) != yarn:
            raise RequestError(f"{place}: YaRN's losses are {seen[place]} and {yarn}: the documents are not the same")


def _each(args: argparse.Namespace, name: str) -> list[int]:
    """One value for each length: as many as there are lengths, or one for all."""
    values: list[int] = getattr(args, name)
    if len(values) == 1:
        values = values * len(args.lengths)
    if len(values) != len(args.lengths):
        raise RequestError(
            f"--{name}: {len(values)} values for {len(args.lengths)} lengths: it should be one or as many"
        )
    return values


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--algorithms", nargs="+", default=["fast", "longrope2"], metavar="NAME")
    parser.add_argument("--lengths", nargs="+", type=int, default=[4096, 8192], metavar="TOKENS")
    parser.add_argument("--seeds", nargs="+", type=int, default=[3, 1], help="how many, for each length")
    parser.add_argument("--budget", nargs="+", type=int, default=[56, 48], help="forward-equivalents, for each length")
    parser.add_argument("--population", type=int, default=16, help="of the evolutions; the paper's is 64")
    parser.add_argument("--iterations", type=int, default=40, help="generations, as far as the budget goes")
    parser.add_argument("--documents", type=int, default=8, help="of an evaluation")
    parser.add_argument("--asked", type=int, default=1, help="of a document's four keys")
    parser.add_argument("--search-keys", type=int, help="of a document that the fast search takes its steps on")
    parser.add_argument("--test-documents", type=int, default=16)
    parser.add_argument("--curve-points", type=int, default=4, help="how often the best meets the test documents")
    parser.add_argument("--jobs", type=int, default=1, help="searches at once")
    parser.add_argument("--threads", type=int, default=1, help="cores of a search")
    parser.add_argument("--out", type=Path, default=Path("searches/benchmark"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--ablations", action="store_true", help="the ablation presets beside the paper's tables")
    parser.add_argument("--books", help="a folder of long texts, for the ablation of 1 and 10 books")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
