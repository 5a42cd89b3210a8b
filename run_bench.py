#!/usr/bin/env python3
"""Longreach's one command: parses arguments and calls one function for each verb."""

import argparse
import fnmatch
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from harness.errors import RequestError

DONE, WRONG_REQUEST, CELLS_FAILED, INTERRUPTED = 0, 2, 5, 130


def run(args: argparse.Namespace) -> int:
    """Run a preset's cells into a folder, then write its summary and report."""
    from harness import runner
    from harness.config import load_plan
    from harness.store import Store

    plan = load_plan(args.preset)
    cells = [planned for planned in plan.cells if fnmatch.fnmatchcase(planned.path, args.only)]
    if not cells:
        raise RequestError(
            f"--only '{args.only}' matches none of {len(plan.cells)} cells: they read like {plan.cells[0].path}"
        )
    store = Store(Path(args.out or f"runs/{plan.preset}"))
    known = store.check_plan(plan.key)
    todo = runner.unfinished(plan, store, cells)
    if args.dry_run:
        for planned in todo:
            print(f"{planned.path}  {planned.cell.n_samples} samples")
        print(f"{len(todo)} of {len(cells)} cells to run, {sum(p.cell.n_samples for p in todo)} samples")
        return DONE
    report = store.folder / "report.html"
    if known and not todo and report.exists():
        print(f"nothing to do: all {len(cells)} cells are finished")
    else:
        _run_cells(args, plan, store, cells, todo)
    outcome = runner.outcome(store, cells)
    print(report)
    if outcome.n_failed:
        print(f"{outcome.n_failed} of {outcome.n_samples} samples failed: the report names them", file=sys.stderr)
    return CELLS_FAILED if outcome.n_failed else DONE


def _run_cells(args: argparse.Namespace, plan, store, cells, todo) -> None:  # type: ignore[no-untyped-def]
    from rich.console import Console

    from harness import runner
    from harness.manifest import manifest
    from harness.models.loading import check_device
    from harness.progress import RunProgress

    device = str(check_device(args.device))
    contents = manifest(plan)
    runner.check_lengths(todo)
    with store.opened_for(contents):
        with RunProgress(todo, Console(stderr=True)).shown() as progress:
            runner.run(plan, store, cells, device=device, progress=progress)
        _write_report(store.folder, store.folder / "report.html")


def report(args: argparse.Namespace) -> int:
    """Write the summary and the report of a run again, from its records."""
    folder = Path(args.run)
    html = Path(args.html) if args.html else folder / "report.html"
    _write_report(folder, html)
    print(html)
    return DONE


def _write_report(folder: Path, html: Path) -> None:
    from harness.store import read_run, write_atomically
    from reports.html import render
    from reports.tables import summary

    data = read_run(folder)
    write_atomically(folder / "summary.json", json.dumps(summary(data), indent=1, allow_nan=False) + "\n")
    write_atomically(html, render(data))


def factors(args: argparse.Namespace) -> int:
    """Print what a method does to a model's RoPE."""
    from harness.catalogue import build, resolve
    from harness.models.rope_facts import rope_spec_of
    from methods.table import render_table, rope_table

    cls = resolve("method", args.method)
    method = build(cls, dict(_setting(text) for text in args.set), where=f"method '{args.method}'")
    if not hasattr(method, "rope_scaling"):
        raise RequestError(f"method '{args.method}' is no RoPE method: it has no factors to print")
    if args.seq_len < 1:
        raise RequestError(f"--seq-len = {args.seq_len}: it should be a positive number of tokens")
    table = rope_table(method, rope_spec_of(args.model), seq_len=args.seq_len)
    if args.json:
        print(json.dumps(table, allow_nan=False))
    else:
        render_table(table)
    return DONE


def _setting(text: str) -> tuple[str, object]:
    """`name=value`, the value read as TOML writes it, or as plain text."""
    import tomllib

    name, equals, value = text.partition("=")
    if not equals:
        raise RequestError(f"--set '{text}': it should read NAME=VALUE")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def list_names(args: argparse.Namespace) -> int:
    """Print what a preset can name."""
    from harness.catalogue import Kind, names, resolve
    from harness.config import preset_names
    from harness.models.catalogue import CATALOGUE as MODELS

    rows: dict[str, str] = {}
    if args.kind == "presets":
        rows = dict.fromkeys(preset_names(), "")
    elif args.kind == "models":
        rows = {name: model.description for name, model in MODELS.items()}
    else:
        kind: Kind = "method" if args.kind == "methods" else "suite"
        rows = {name: (resolve(kind, name).__doc__ or "").strip().partition("\n")[0] for name in names(kind)}
    width = max(len(name) for name in rows)
    for name, description in rows.items():
        print(f"{name:{width}}  {description}".rstrip())
    return DONE


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="run_bench.py", description="How far a model's context really reaches, and what it cost.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    verb = verbs.add_parser("run", help="run a preset's cells and write the report")
    verb.add_argument("preset", help="a name in harness/presets, or the path of a TOML file")
    verb.add_argument("--out", help="the results folder (default: runs/PRESET)")
    verb.add_argument("--only", default="*", metavar="PATTERN", help="cells whose model/method/suite/task/length match")
    verb.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    verb.add_argument("--dry-run", action="store_true", help="print the cells that would run")
    verb.set_defaults(function=run)

    verb = verbs.add_parser("report", help="write a run's summary and report again, from its records")
    verb.add_argument("run", help="a results folder")
    verb.add_argument("--html", help="where to write the report (default: RUN/report.html)")
    verb.set_defaults(function=report)

    verb = verbs.add_parser("factors", help="what a method does to a model's RoPE")
    verb.add_argument("method", help="a catalogue name or pkg.module:Class")
    verb.add_argument("--model", required=True, help="a catalogue name, a folder, or a config.json")
    verb.add_argument("--seq-len", required=True, type=int, help="tokens, prompt and new ones together")
    verb.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the method")
    verb.add_argument("--json", action="store_true", help="JSON instead of a table")
    verb.set_defaults(function=factors)

    verb = verbs.add_parser("list", help="what a preset can name")
    verb.add_argument("kind", choices=["methods", "suites", "models", "presets"])
    verb.set_defaults(function=list_names)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, call the verb, and turn what went wrong into one line and an exit code."""
    try:
        args = _parser().parse_args(argv)
        code: int = args.function(args)
    except RequestError as error:
        print(f"run_bench.py: {error}", file=sys.stderr)
        return WRONG_REQUEST
    except OSError as error:
        print(f"run_bench.py: {error}: what was finished is kept", file=sys.stderr)
        return WRONG_REQUEST
    except KeyboardInterrupt:
        print("run_bench.py: interrupted: the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    return code


if __name__ == "__main__":
    sys.exit(main())
