"""lm-eval by itself: its own tasks over local files, its own HFLM, its own evaluate loop."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LOCAL = {
    "arc_easy": ("short/arc_easy", "test"),
    "boolq": ("short/boolq", "validation"),
    "gsm8k": ("short/gsm8k", "test"),
    "hellaswag": ("short/hellaswag", "validation"),
    "lambada_openai": ("short/lambada_openai", "test"),
    "piqa": ("short/piqa", "validation"),
    "truthfulqa_mc1": ("short/truthfulqa_mc", "validation"),
    "truthfulqa_mc2": ("short/truthfulqa_mc", "validation"),
    "winogrande": ("short/winogrande", "validation"),
}


def evaluate(
    model: Any,
    tasks: Sequence[str],
    folder: Path,
    data_dir: Path,
    *,
    num_fewshot: int,
    limit: int | None,
    **settings: Any,
) -> Any:
    """`simple_evaluate` of stock tasks whose YAML is included and whose documents are the first of local files."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from tasks.short.index import installed_tasks

    for task in tasks:
        (leaf,) = installed_tasks().leaves(task)
        files = _files(task, leaf.config, folder, data_dir)
        (folder / f"{task}.yaml").write_text(
            f"include: {leaf.path}\ntask: {task}\ndataset_path: json\ndataset_name: null\n"
            f"dataset_kwargs: {{data_files: {json.dumps({split: str(path) for split, path in files.items()})}}}\n"
            + ("" if "train" in files else "training_split: null\n")
        )
    return simple_evaluate(
        model=model,
        tasks=list(tasks),
        num_fewshot=num_fewshot,
        limit=limit,
        log_samples=True,
        bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False, include_path=str(folder)),
        **settings,
    )


def _files(task: str, config: Any, folder: Path, data_dir: Path) -> dict[str, Path]:
    if not task.startswith("mmlu_"):
        place, split = LOCAL[task]
        return {path.name.split(".")[0]: path for path in (data_dir / place).iterdir()}
    files = {}
    for split in ("dev", "test"):
        files[split] = folder / f"{task}.{split}.jsonl"
        with gzip.open(data_dir / "mmlu" / f"{split}.jsonl.gz", "rt", encoding="utf-8") as source:
            rows = [line for line in source if json.loads(line)["subject"] == config["dataset_name"]]
        files[split].write_text("".join(rows))
    return files
