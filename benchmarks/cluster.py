#!/usr/bin/env python3
"""What the executor `ray` costs: a preset run in one process, and on a cluster that this machine pretends to be.

Records must be equal apart from times. Overhead is the time beyond a local run's, as a share of it: `1 worker` against
one thread (the executor alone), `nodes` and `own cluster` against all cores (what this machine's owner would see).
Every run begins with an empty cache of samples. Nothing else should run on the machine meanwhile.

    python benchmarks/cluster.py --json docs/cluster/overhead.json      # quickstart, 3 nodes: about 15 minutes
    python benchmarks/cluster.py --only '*yarn*keys1*' --modes one      # a try
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TIMES = ("prefill_s", "decode_s", "peak_memory_bytes", "check")  # the check value chains over the others
LOOK_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Mode:
    """A way to run. base: the local run that it is held against. nodes: of one CPU, of the cluster that is there."""

    name: str
    base: str = ""
    threads: int | None = None
    nodes: int = 0
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Row:
    """A run's seconds: until its first record, until its last, until its end."""

    mode: str
    seconds: float
    start_s: float
    answers_s: float
    end_s: float
    n_records: int


def modes(n_nodes: int) -> dict[str, Mode]:
    """By the name that `--modes` takes."""
    ray = ("--executor", "ray")
    return {
        "one": Mode(name="1 worker", base="local, 1 thread", threads=1, nodes=1, arguments=ray),
        "nodes": Mode(
            name=f"{n_nodes} nodes of 1 CPU", base="local, all cores", threads=1, nodes=n_nodes, arguments=ray
        ),
        "own": Mode(name="own cluster, all cores", base="local, all cores", threads=1, arguments=ray),
    }


LOCAL = {
    "local, 1 thread": Mode(name="local, 1 thread", threads=1),
    "local, all cores": Mode(name="local, all cores"),
}


@contextmanager
def cluster(n_nodes: int) -> Iterator[str]:
    """The address of so many nodes of one CPU each."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            for _ in range(n_nodes - 1):
                made.add_node(num_cpus=1)
            yield made.address
        finally:
            made.shutdown()


def measured(mode: Mode, preset: str, only: str, folder: Path) -> Row:
    """Run the command once. Raises SystemExit where it fails."""
    if mode.nodes:
        with cluster(mode.nodes) as address:
            return timed(mode, preset, only, folder, ("--address", address))
    return timed(mode, preset, only, folder)


def timed(mode: Mode, preset: str, only: str, folder: Path, more: Sequence[str] = ()) -> Row:
    """The command's seconds, in their parts."""
    out = folder / "out"
    environment = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "RAY_ADDRESS")}
    environment["HF_HOME"] = os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
    environment["XDG_CACHE_HOME"] = str(folder / "cache")
    if mode.threads:
        environment["OMP_NUM_THREADS"] = str(mode.threads)
    command = [sys.executable, str(ROOT / "run_bench.py"), "run", preset, "--only", only, "--device", "cpu"]
    with (folder / "said").open("w+") as said:
        began = time.time()
        process = subprocess.Popen(
            [*command, "--out", str(out), *mode.arguments, *more], env=environment, stdout=said, stderr=said
        )
        while process.poll() is None and not any(path.stat().st_size for path in record_files(out)):
            time.sleep(LOOK_S)
        first = time.time()
        code = process.wait()
        ended = time.time()
        if code:
            said.seek(0)
            raise SystemExit(f"{mode.name}: exit code {code}: {said.read()[-2000:]}")
    last = max(path.stat().st_mtime for path in record_files(out))
    return Row(
        mode=mode.name, seconds=ended - began, start_s=first - began, answers_s=max(0.0, last - first),
        end_s=ended - max(first, last), n_records=sum(map(len, records(out).values())),
    )  # fmt: skip


def record_files(out: Path) -> list[Path]:
    """Of the cells that were begun."""
    return list(out.glob("cells/*/records.jsonl"))


def records(out: Path) -> dict[str, list[str]]:
    """Each cell's records without times, in one order."""
    found = {}
    for path in record_files(out):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        kept = [{name: value for name, value in row.items() if name not in TIMES} for row in rows]
        found[path.parent.name] = sorted(json.dumps(row, sort_keys=True) for row in kept)
    return found


def n_different(ours: dict[str, list[str]], theirs: dict[str, list[str]]) -> int:
    """Records that only one of two runs has, or that differ."""
    return sum(len(set(ours.get(key, [])) ^ set(theirs.get(key, []))) for key in ours.keys() | theirs.keys())


def summary(rows: Sequence[Row], chosen: Sequence[Mode], differ: dict[str, int], **facts: Any) -> dict[str, Any]:
    """All of it. overhead: the seconds more than the local run's, as a share of those."""
    seconds = {row.mode: row.seconds for row in rows}
    return {
        **facts,
        "rows": [asdict(row) for row in rows],
        "overhead": {mode.name: seconds[mode.name] / seconds[mode.base] - 1 for mode in chosen},
        "records_different_from_local_1_thread": differ,
    }


def table(found: dict[str, Any]) -> str:
    """What is printed."""
    lines = [f"{'':24} {'seconds':>8} {'start':>7} {'answers':>8} {'end':>6} {'overhead':>9} {'records different':>18}"]
    for row in found["rows"]:
        more = found["overhead"].get(row["mode"])
        different = found["records_different_from_local_1_thread"].get(row["mode"], "")
        lines.append(
            f"{row['mode']:24} {row['seconds']:8.1f} {row['start_s']:7.1f} {row['answers_s']:8.1f} {row['end_s']:6.1f} "
            f"{'' if more is None else f'{100 * more:+.1f} %':>9} {different!s:>18}"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the modes one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="quickstart", help="a name or a path")
    parser.add_argument("--only", default="*", help="as of `run_bench.py run`")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--modes", nargs="+", choices=["one", "nodes", "own"], default=["one", "nodes", "own"])
    parser.add_argument("--json", type=Path, help="write the summary here too")
    args = parser.parse_args()
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0", PYTHONPATH=str(ROOT))
    chosen = [modes(args.nodes)[name] for name in args.modes]
    wanted = [LOCAL[name] for name in LOCAL if name == "local, 1 thread" or name in {mode.base for mode in chosen}]
    rows, said = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        for i, mode in enumerate([*wanted, *chosen]):
            folder = Path(scratch) / str(i)
            folder.mkdir()
            rows.append(measured(mode, args.preset, args.only, folder))
            said[mode.name] = records(folder / "out")
            print(f"{mode.name}: {rows[-1].seconds:.1f} s", file=sys.stderr, flush=True)
    one_thread = said["local, 1 thread"]
    differ = {mode.name: n_different(one_thread, said[mode.name]) for mode in chosen}
    found = summary(
        rows, chosen, differ, preset=args.preset, only=args.only, nodes=args.nodes, cores=len(os.sched_getaffinity(0))
    )
    print(table(found))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if any(differ.values()):
        raise SystemExit("records differ")


if __name__ == "__main__":
    main()
