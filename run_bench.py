#!/usr/bin/env python3
"""Longreach's one command: parses arguments and calls one function for each verb."""

import argparse
import fnmatch
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from harness.errors import RequestError
from harness.startup import importing, leave
from harness.types import RunData

DONE, DIFFERS, WRONG_REQUEST, CELLS_FAILED, INTERRUPTED = 0, 1, 2, 5, 130


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
            under = f"  under {planned.method.interpreter}" if planned.method.interpreter else ""
            print(f"{planned.path}  {planned.cell.n_samples} samples{under}")
        print(f"{len(todo)} of {len(cells)} cells to run, {sum(p.cell.n_samples for p in todo)} samples")
        return DONE
    report = store.folder / "report.html"
    if known and not todo and report.exists():
        print(f"nothing to do: all {len(cells)} cells are finished")
    else:
        with importing():
            from harness.executors import execute
        execute(
            plan, store, cells, executor=args.executor, device=args.device, address=args.address, workers=args.workers,
            then=lambda: _write_report(store.folder, report),
        )  # fmt: skip
    outcome = runner.outcome(store, cells)
    print(report)
    if outcome.n_failed:
        print(f"{outcome.n_failed} of {outcome.n_samples} samples failed: the report names them", file=sys.stderr)
    return CELLS_FAILED if outcome.n_failed else DONE


def status(args: argparse.Namespace) -> int:
    """Print how far a run is, from outside."""
    from harness.status import status_text

    print(status_text(Path(args.run)))
    return DONE


def search(args: argparse.Namespace) -> int:
    """Search rescale factors for one model and length, then write them and the page that shows how they were found."""
    from methods.longrope.search.config import load_search
    from methods.longrope.search.run import Where, result_line, run_search

    plan = load_search(args.config)
    where = Where(device=args.device, executor=args.executor, address=args.address)
    made = run_search(plan, Path(args.out or f"searches/{plan.facts.preset}"), where)
    if made.was_finished:
        print("nothing to do: the search is finished")
    print(result_line(made.outcome))
    print(made.factors)
    print(made.page)
    return DONE


def train(args: argparse.Namespace) -> int:
    """Train a model for a longer context, and export a checkpoint that transformers loads."""
    from methods.longrope.training.config import load_training
    from methods.longrope.training.run import result_line, run_training

    plan = load_training(args.config)
    made = run_training(plan, Path(args.out or f"trainings/{plan.facts.preset}"), device=args.device)
    if made is None:  # of several processes one speaks
        return DONE
    if made.was_finished:
        print("nothing to do: the training is finished")
    print(result_line(made.record))
    print(made.path)
    print(made.checkpoint)
    return DONE


def report(args: argparse.Namespace) -> int:
    """Write the summary and the report of a run again, from its records."""
    if args.published:
        return _published(args)
    if args.run is None:
        raise RequestError("report: name a results folder, or --published NAME")
    folder = Path(args.run)
    if args.rescore:
        return _rescore(folder, args)
    html = Path(args.html) if args.html else folder / "report.html"
    _write_report(folder, html)
    if args.figures:
        from harness.store import read_run
        from reports.files import write_figures

        write_figures(read_run(folder), Path(args.figures))
    print(html)
    return DONE


def _published(args: argparse.Namespace) -> int:
    from harness.store import write_atomically
    from reports.files import write_published
    from reports.published_page import published_text, render_published

    if args.run is not None or args.rescore:
        raise RequestError("--published shows a paper's numbers alone: leave out the results folder and --rescore")
    if args.html:
        write_atomically(Path(args.html), render_published(args.published))
    if args.figures:
        write_published(args.published, Path(args.figures))
    print(published_text(args.published))
    return DONE


def _rescore(folder: Path, args: argparse.Namespace) -> int:
    from harness.store import read_run
    from reports.rescore import render_text, rescore

    paths: dict[str, dict[str, str]] = {}
    for text in args.path:
        place, equals, path = text.partition("=")
        suite, dot, name = place.rpartition(".")
        if not equals or not dot:
            raise RequestError(f"--path '{text}': it should read SUITE.SETTING=PATH")
        paths.setdefault(suite, {})[name] = path
    data, changes = rescore(read_run(folder), paths=paths)
    html = Path(args.html) if args.html else folder / "report.rescored.html"
    _write_report(folder, html, data=data, summary_name="summary.rescored.json")
    print(render_text(changes))
    print(html)
    return DIFFERS if changes.changes else DONE


def compare(args: argparse.Namespace) -> int:
    """Hold a run against a base run: the gate."""
    from harness.store import read_run, write_atomically
    from reports import compare_views as views
    from reports.compare import compare as compared

    if not 0 <= args.margin < 1:
        raise RequestError(f"--margin = {args.margin:g}: it should be a fraction, 0 or more and below 1")
    comparison = compared(
        read_run(Path(args.base)), read_run(Path(args.new)), margin=args.margin, allow=args.allow_mismatch
    )
    written = {
        args.html: views.render_html,
        args.markdown: views.render_markdown,
        args.junit: views.render_junit,
        args.json: lambda found: json.dumps(views.as_json(found), indent=1, allow_nan=False) + "\n",
    }
    for path, render in written.items():
        if path:
            write_atomically(Path(path), render(comparison))
    print(views.render_text(comparison))
    return comparison.exit_code


def leaderboard(args: argparse.Namespace) -> int:
    """Write a static site that ranks methods over many runs."""
    from reports.leaderboard import build, render_refusals

    made = build([Path(run) for run in args.runs], Path(args.out))
    if refusals := render_refusals(made):
        print(refusals, file=sys.stderr)
    print(Path(args.out) / "index.html")
    return made.exit_code


def _write_report(folder: Path, html: Path, *, data: RunData | None = None, summary_name: str = "summary.json") -> None:
    from harness.store import read_run, write_atomically
    from reports.tables import analyse, as_json

    analysis = analyse(data or read_run(folder))
    write_atomically(folder / summary_name, json.dumps(as_json(analysis), indent=1, allow_nan=False) + "\n")
    print(f"scores: {folder / summary_name}", file=sys.stderr, flush=True)
    from reports.html import render_analysis  # what draws is slow to import: the scores do not wait for it

    write_atomically(html, render_analysis(analysis))


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
    if args.export:
        return _export(method, args)
    table = rope_table(method, rope_spec_of(args.model), seq_len=args.seq_len)
    if args.json:
        print(json.dumps(table, allow_nan=False))
    else:
        render_table(table)
    return DONE


def _export(method, args: argparse.Namespace) -> int:  # type: ignore[no-untyped-def]
    from harness.models.rope_facts import rope_spec_of
    from methods.longrope.export import checkpoint_config, export

    made = export(
        method,
        rope_spec_of(args.model),
        engine=args.export,
        target_length=args.seq_len,
        config=checkpoint_config(args.model),
        accept_limits=args.accept_limits,
    )
    for limit in made.limits:
        print(f"{args.export}: {limit}", file=sys.stderr)
    print(json.dumps(made.values, indent=1, allow_nan=False))
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
    from harness.config import PresetKind, preset_names, preset_title
    from harness.models.catalogue import CATALOGUE as MODELS

    rows: dict[str, str] = {}
    presets: dict[str, PresetKind] = {"presets": "run", "searches": "search", "trainings": "train"}
    if args.kind in presets:
        rows = {name: preset_title(name, presets[args.kind]) for name in preset_names(presets[args.kind])}
    elif args.kind == "models":
        rows = {name: model.description for name, model in MODELS.items()}
    else:
        kinds: dict[str, Kind] = {"methods": "method", "suites": "suite", "algorithms": "algorithm"}
        kind = kinds[args.kind]
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
    verb.add_argument("--workers", type=int, default=1, help="processes on this machine's CPU cores (default: 1)")
    verb.add_argument("--executor", choices=["local", "ray"], default="local", help="this process, or a Ray cluster")
    verb.add_argument("--address", help="of the Ray cluster (default: RAY_ADDRESS, else one on this machine)")
    verb.set_defaults(function=run)

    verb = verbs.add_parser("status", help="how far a run is, and what its workers do")
    verb.add_argument("run", help="a results folder")
    verb.set_defaults(function=status)

    verb = verbs.add_parser("search", help="find LongRoPE2's rescale factors for one model and target length")
    verb.add_argument("config", help="a name in harness/presets/search, or the path of a TOML file")
    verb.add_argument("--out", help="the search's folder (default: searches/CONFIG)")
    verb.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    verb.add_argument("--executor", choices=["local", "ray"], default="local", help="this process, or a Ray cluster")
    verb.add_argument("--address", help="of the Ray cluster (default: RAY_ADDRESS, else one on this machine)")
    verb.set_defaults(function=search)

    verb = verbs.add_parser("train", help="train a model for a longer context; a checkpoint comes out")
    verb.add_argument("config", help="a name in harness/presets/train, or the path of a TOML file")
    verb.add_argument("--out", help="the training's folder (default: trainings/CONFIG)")
    verb.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    verb.set_defaults(function=train)

    verb = verbs.add_parser("report", help="write a run's summary and report again, from its records")
    verb.add_argument("run", nargs="?", help="a results folder")
    verb.add_argument("--html", help="where to write the report (default: RUN/report.html)")
    verb.add_argument(
        "--figures", metavar="DIR", help="write every figure as SVG and PDF, every table as CSV, JSON, LaTeX"
    )
    verb.add_argument("--published", metavar="NAME", help="a paper's own numbers, such as longrope2, instead of a run")
    verb.add_argument("--rescore", action="store_true", help="score the recorded outputs again; the run stays as it is")
    verb.add_argument(
        "--path",
        action="append",
        default=[],
        metavar="SUITE.SETTING=PATH",
        help="where a suite to rescore finds its data",
    )
    verb.set_defaults(function=report)

    verb = verbs.add_parser(
        "compare", help="hold a run against a base run: 0 pass, 1 regressed, 3 inconclusive, 4 not comparable"
    )
    verb.add_argument("base", help="a results folder")
    verb.add_argument("new", help="a results folder of the same preset")
    verb.add_argument("--margin", type=float, default=0.02, help="the loss of score that counts (default: 0.02)")
    verb.add_argument(
        "--allow-mismatch",
        action="append",
        default=[],
        choices=["samples", "model", "dtype", "attention"],
        help="compare although these differ",
    )
    for name in ("html", "markdown", "junit", "json"):
        verb.add_argument(f"--{name}", metavar="FILE", help=f"write the comparison as {name} too")
    verb.set_defaults(function=compare)

    verb = verbs.add_parser("leaderboard", help="a static site from many runs")
    verb.add_argument("runs", nargs="+", metavar="RUN", help="a results folder")
    verb.add_argument("--out", required=True, help="the site's folder")
    verb.set_defaults(function=leaderboard)

    verb = verbs.add_parser("factors", help="what a method does to a model's RoPE")
    verb.add_argument("method", help="a catalogue name or pkg.module:Class")
    verb.add_argument("--model", required=True, help="a catalogue name, a folder, or a config.json")
    verb.add_argument("--seq-len", required=True, type=int, help="tokens, prompt and new ones together")
    verb.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the method")
    verb.add_argument("--json", action="store_true", help="JSON instead of a table")
    verb.add_argument(
        "--export",
        choices=["transformers", "vllm"],
        help="JSON that makes an engine run the method, instead of a table",
    )
    verb.add_argument("--accept-limits", action="store_true", help="export although the engine cannot express it all")
    verb.set_defaults(function=factors)

    verb = verbs.add_parser("list", help="what a preset can name")
    verb.add_argument("kind", choices=["methods", "suites", "models", "presets", "searches", "trainings", "algorithms"])
    verb.set_defaults(function=list_names)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, call the verb, and turn what went wrong into one line and an exit code."""
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # what cannot be fetched is said once, in one line of ours
    try:
        args = _parser().parse_args(argv)
        code: int = args.function(args)
    except RequestError as error:
        print(f"run_bench.py: {error}", file=sys.stderr)
        return WRONG_REQUEST
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"run_bench.py: {what}: what was finished is kept", file=sys.stderr)
        return WRONG_REQUEST
    except KeyboardInterrupt:
        print("run_bench.py: interrupted: the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    return code


if __name__ == "__main__":
    leave(main())
