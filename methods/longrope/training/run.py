"""A planned training from its model to its files."""

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from harness import environment
from harness.models.rope_facts import rope_spec
from harness.startup import importing
from harness.types import JSON
from methods.base import RopeScaling
from methods.longrope.export import checkpoint_config
from methods.longrope.training.config import TrainingFacts, TrainingPlan
from methods.longrope.training.held_out import HeldOut
from methods.longrope.training.progress import TrainingProgress
from methods.longrope.training.record import Record, Result, TrainingFolder
from methods.longrope.training.settings import TrainingOutcome
from methods.longrope.training.trained_rope import rope_config

if TYPE_CHECKING:
    from accelerate import Accelerator

    from methods.longrope.training.batches import Batches
    from methods.longrope.training.export import Measured
    from methods.longrope.training.mix import PlannedMix


@dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """A finished training and its files. was_finished: nothing had to be done."""

    record: Record
    path: Path
    checkpoint: Path
    was_finished: bool


def run_training(plan: TrainingPlan, out: Path, *, device: str) -> Made | None:
    """Train in a folder, going on where it was stopped, and export the checkpoint.

    None in all processes but the main one. Raises RequestError for whatever is wrong; the last checkpoint is kept.
    """
    folder = TrainingFolder(out)
    record = folder.read(plan.facts)
    if record is not None and record.result is not None and folder.checkpoint.exists():
        if os.environ.get("RANK", "0") != "0":
            return None
        return Made(record=record, path=folder.path, checkpoint=folder.checkpoint, was_finished=True)
    _check_export(plan)
    with importing():
        from methods.longrope.training import processes
    accelerator = processes.start(plan.settings, device=device, folder=out)
    if not accelerator.is_main_process:
        _trained(plan, folder, None, accelerator, TrainingProgress(Console(quiet=True)))
        return None
    with folder.opened(), TrainingProgress(Console(stderr=True)).shown() as progress:
        record = record or folder.begin(plan.facts)
        _trained(plan, folder, record, accelerator, progress)
    return Made(record=record, path=folder.path, checkpoint=folder.checkpoint, was_finished=False)


def _check_export(plan: TrainingPlan) -> None:
    """Raises RequestError for a RoPE that no configuration can express, before anything is trained under it."""
    config = checkpoint_config(plan.model.name)
    if config:  # some models have none before they are loaded
        rope_config(
            plan.method.method,
            rope_spec(plan.model),
            target_length=plan.facts.target_length,
            short_rope=plan.settings.short_rope,
            config=config,
        )


def result_line(record: Record) -> str:
    """The result as one line."""
    found = record.result
    assert found is not None
    losses = ", ".join(
        f"{after.bin} ({after.regime}) {before.loss:.4g} to {after.loss:.4g}"
        for before, after in zip(record.before or (), record.after or (), strict=True)
    )
    return (
        f"held-out loss: {losses or 'not measured'}; {found.n_tokens:,} tokens in {found.steps} steps, "
        f"{found.tokens_per_s:,.0f} tokens/s, {found.seconds:.0f} s, {found.peak_memory_bytes / 1e9:.1f} GB"
    )


def _trained(
    plan: TrainingPlan,
    folder: TrainingFolder,
    record: Record | None,
    accelerator: "Accelerator",
    progress: TrainingProgress,
) -> None:
    """All of a training; `record` is the main process's, which measures and exports while the others wait."""
    with importing():
        from harness.models import loading
        from methods.longrope.training import loop, processes
        from methods.longrope.training.batches import Batches

    facts = plan.facts
    tokenizer: Any = loading.load_tokenizer(plan.model)
    with accelerator.main_process_first():  # it writes the shards, the others find them there
        mix = plan.data.open(
            tokenizer, folder.data, window=facts.original_window, target=facts.target_length, say=progress.says
        )
    held_out = HeldOut.of(mix, facts.held_out_segments)
    progress.expects(_n_tokens(mix, Batches.of(mix, plan.settings)))
    if record is not None and record.before is None:
        progress.says("measuring the held-out loss of the model as it is")
        record.mix = [asdict(count) for count in mix.counts()]
        record.before = held_out.losses(_judge(plan, accelerator), _scaling(plan))
        folder.write(record)
    accelerator.wait_for_everyone()
    progress.says(f"loading {facts.model} in float32")
    sharded = processes.is_sharded()
    model = loop.load_for_training(plan.model, accelerator.device, plan.settings, sharded=sharded)
    outcome = loop.fit(
        model,
        _scaling(plan),
        mix,
        plan.settings,
        folder=folder.folder,
        seed=facts.seed,
        accelerator=accelerator,
        progress=progress,
    )
    del model
    if record is not None:
        _finish(plan, folder, record, outcome, held_out, accelerator, progress)
    accelerator.wait_for_everyone()


def _finish(
    plan: TrainingPlan,
    folder: TrainingFolder,
    record: Record,
    outcome: TrainingOutcome,
    held_out: HeldOut,
    accelerator: "Accelerator",
    progress: TrainingProgress,
) -> None:
    """Exports, and measures what was exported as a run would use it."""
    from harness.models import loading
    from methods.longrope.trained import TrainedCheckpoint
    from methods.longrope.training.export import add_measured, export_checkpoint

    facts = plan.facts
    progress.says("exporting")
    judge = _judge(plan, accelerator)
    export_checkpoint(
        folder.checkpoint,
        base=judge,
        weights=outcome.weights,
        method_name=plan.method.name,
        method=plan.method.method,
        target_length=facts.target_length,
        short_rope=plan.settings.short_rope,
        settings=_plain(facts),
        outcome=outcome,
        dtype=_dtype(plan, accelerator),
    )
    progress.says("measuring the held-out loss of the checkpoint")
    with TrainedCheckpoint(path=str(folder.checkpoint)).applied(judge, seq_len=facts.target_length):
        record.after = held_out.losses(judge, _scaling(plan))
    add_measured(folder.checkpoint, _measured(record))
    record.result = Result(
        steps=outcome.steps,
        n_tokens=outcome.n_tokens,
        n_tokens_by_bin=outcome.n_tokens_by_bin,
        n_tokens_by_regime=outcome.n_tokens_by_regime,
        seconds=outcome.seconds,
        tokens_per_s=outcome.n_tokens / max(outcome.seconds, 1e-9),
        peak_memory_bytes=max(report.peak_memory_bytes for report in outcome.history),
        attention=outcome.attention,
    )
    record.history = outcome.history
    device = str(loading.check_device(str(accelerator.device)))
    record.environment = {**environment.gather(), **environment.device_facts(device)}
    folder.write(record)


def _judge(plan: TrainingPlan, accelerator: "Accelerator") -> Any:
    """The base model as it is loaded for use, in what the training computes in."""
    from harness.models import loading

    request = replace(plan.model, dtype=_dtype(plan, accelerator))
    return loading.load(request, device=str(accelerator.device))


def _dtype(plan: TrainingPlan, accelerator: "Accelerator") -> Any:
    from methods.longrope.training import processes

    return processes.dtype_name(plan.settings, accelerator.device)


def _scaling(plan: TrainingPlan) -> RopeScaling:
    found: RopeScaling = plan.method.method.rope_scaling(rope_spec(plan.model), seq_len=plan.facts.target_length)
    return found


def _n_tokens(mix: "PlannedMix", batches: "Batches") -> int:
    """How many tokens all batches read."""
    stop = batches[len(batches) - 1].stop if len(batches) else 0
    return sum(mix.place(i)[0].shape.segment_length for i in range(stop))


def _measured(record: Record) -> "list[Measured]":
    from methods.longrope.training.export import Measured

    return [
        Measured(
            what=f"held-out loss of bin {after.bin} under the {after.regime} RoPE, nats a token",
            value=after.loss,
            base=before.loss,
            n_samples=after.n_segments,
        )
        for before, after in zip(record.before or (), record.after or (), strict=True)
    ]


def _plain(facts: TrainingFacts) -> dict[str, JSON]:
    """What the card says of the settings: those of the training, and the mix."""
    names = ("preset", "seed", "target_length", "training", "data")
    return {name: getattr(facts, name) for name in names}
