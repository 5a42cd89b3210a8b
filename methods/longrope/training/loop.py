"""Mixed context window training: short segments under the original RoPE, long ones under the rescaled one."""

import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from harness.errors import RequestError
from harness.models import attention
from harness.models.loading import LoadedModel, load
from harness.models.request import ModelRequest, identity
from harness.types import JSON, content_hash
from methods.base import RopeScaling
from methods.longrope.training import checkpoint, processes
from methods.longrope.training.accumulation import Accumulation, BatchLoss
from methods.longrope.training.batches import Batches
from methods.longrope.training.loss import check_liger
from methods.longrope.training.memory import check_fits, ways_out
from methods.longrope.training.mix import MixStream, PlannedMix
from methods.longrope.training.optimizer import adamw, gradient_norm, learning_rate
from methods.longrope.training.regimes import Regimes
from methods.longrope.training.sequence_parallel import join
from methods.longrope.training.settings import FREE, Progress, Silent, StepReport, TrainingOutcome, TrainingSettings
from methods.longrope.training.step import SegmentLoss, layers, recompute_layers
from methods.longrope.training.weights import MasterWeights, fill, optimizer_moments, set_moments

if TYPE_CHECKING:
    from accelerate import Accelerator


def load_for_training(
    request: ModelRequest, device: torch.device, settings: TrainingSettings, *, sharded: bool = False
) -> LoadedModel:
    """The model in float32, with the attention that was asked for. sharded: it stays on the host until it is split."""
    dtype = processes.compute_dtype(settings, device)
    attention.check(request.attention, device, dtype)
    plain = replace(request, dtype="float32", attention="auto")  # a kernel for half precision would be refused
    model = load(plain, device="cpu" if sharded else str(device))
    attention.check_model(request.attention, model.hf)
    model.hf.set_attn_implementation(attention.implementation(request.attention))
    model.request = replace(request, dtype="float32")
    if settings.loss == "liger":
        check_liger(model.hf, device)
    return model


def fit(
    model: LoadedModel,
    scaling: RopeScaling,
    mix: PlannedMix,
    settings: TrainingSettings,
    *,
    folder: Path,
    seed: int = 0,
    accelerator: "Accelerator | None" = None,
    progress: Progress | None = None,
) -> TrainingOutcome:
    """Trains a model, as `load_for_training` gives it, in place; goes on where the last checkpoint in `folder` stands.

    scaling: what long segments are read under. The model is left with the trained weights, its own RoPE and evaluation
    mode (in parts, under FSDP2: the checkpoint has it whole). Raises RequestError.
    """
    accelerator = accelerator or processes.start(settings, device=str(model.device), folder=folder)
    training = Training.begin(model, scaling, mix, settings, folder, seed, accelerator, progress or Silent())
    return training.run()


@dataclass(kw_only=True, eq=False)
class Training:
    """A training as it goes on: what moves, and where it stands."""

    accelerator: "Accelerator"
    accumulation: Accumulation
    masters: MasterWeights
    optimizer: torch.optim.Optimizer
    model: LoadedModel
    stream: MixStream
    batches: Batches
    settings: TrainingSettings
    folder: Path
    identity: dict[str, JSON]
    progress: Progress
    history: list[StepReport] = field(default_factory=list)
    n_tokens_by_bin: Counter[str] = field(default_factory=Counter)
    n_tokens_by_regime: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @classmethod
    def begin(
        cls,
        model: LoadedModel,
        scaling: RopeScaling,
        mix: PlannedMix,
        settings: TrainingSettings,
        folder: Path,
        seed: int,
        accelerator: "Accelerator",
        progress: Progress,
    ) -> "Training":
        """Everything in place for the first step, or for the one after the last checkpoint."""
        from accelerate.utils import set_seed

        set_seed(seed)
        batches = Batches.of(mix, settings)
        team = join(model.hf, settings.sequence_parallel, accelerator.process_index, accelerator.num_processes)
        dtype = processes.compute_dtype(settings, accelerator.device)
        check_fits(
            model.hf,
            settings,
            accelerator.device,
            n_tokens=max(bin.shape.segment_length for bin in mix.bins),
            n_processes=accelerator.num_processes,
            sharded=processes.is_sharded(),
        )
        module = SegmentLoss(model.hf, loss=settings.loss, loss_chunk=settings.loss_chunk)
        model.hf.train()
        if settings.activation_checkpointing:
            recompute_layers(model.hf, True)
        masters, optimizer = _optimised(accelerator, module, settings, dtype)
        model.devices = (accelerator.device,)
        regimes = Regimes(model, scaling, short_rope=settings.short_rope)
        training = cls(
            accelerator=accelerator,
            accumulation=Accumulation(
                accelerator=accelerator, team=team, module=module, regimes=regimes, mix=mix, batches=batches
            ),
            masters=masters,
            optimizer=optimizer,
            model=model,
            stream=MixStream(mix),
            batches=batches,
            settings=settings,
            folder=folder / "checkpoints",
            identity=_identity(model, scaling, mix, settings, seed, processes.dtype_name(settings, accelerator.device)),
            progress=progress,
        )
        if dtype == torch.bfloat16 and not processes.multiplies_bfloat16(accelerator.device):
            progress.says(f"{accelerator.device} has no bfloat16 of its own: dtype = 'float32' would be much faster")
        training._resume()
        return training

    def run(self) -> TrainingOutcome:
        """Every step that is left. Raises RequestError; the last good checkpoint stays."""
        self._start_tracker()
        place = _last(self.folder)
        try:
            with _plain_memory_errors(self.settings, self.accelerator):
                for index in range(len(self.history), len(self.batches)):
                    self.step(index)
                    if self._is_due(index):
                        place = self.save()
        finally:
            self._leave()
        if place is None:
            raise RequestError("training has no step to take: raise data.total_tokens")
        self.accelerator.wait_for_everyone()
        return TrainingOutcome(
            checkpoint=place,
            weights=checkpoint.weight_files(place),
            n_tokens_by_bin=dict(self.n_tokens_by_bin),
            n_tokens_by_regime={regime: self.n_tokens_by_regime[regime] for regime in ("original", "rescaled")},
            history=tuple(self.history),
            seconds=self.seconds,
            attention="+".join(sorted(self.accumulation.module.used)),
        )

    def step(self, index: int) -> StepReport:
        """Reads a batch and moves the weights. Raises RequestError for a loss that is not finite: nothing is moved."""
        began = time.monotonic()
        loss = self.accumulation.backward(index)
        gradients = self.masters.gradients()
        processes.sum_gradients(self.accelerator, gradients)
        norm = gradient_norm(gradients)
        if not math.isfinite(loss.mean) or not math.isfinite(norm):
            raise self._not_finite(index, loss.mean, norm)
        torch.nn.utils.clip_grads_with_norm_(self.masters.masters.values(), self.settings.clip, torch.tensor(norm))
        rate = learning_rate(self.settings, index, len(self.batches))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.masters.publish()
        self._count(index)
        return self._report(index, time.monotonic() - began, loss, rate, norm)

    def save(self) -> Path:
        """A checkpoint after the last step."""
        state = checkpoint.TrainingState(
            step=len(self.history),
            identity=self.identity,
            data=self.stream.state(),
            n_tokens_by_bin=dict(self.n_tokens_by_bin),
            n_tokens_by_regime=dict(self.n_tokens_by_regime),
            history=tuple(self.history),
            seconds=self.seconds,
        )
        place = checkpoint.save(
            self.folder,
            state,
            weights=self.masters.masters,
            moments=optimizer_moments(self.optimizer, self.masters.masters),
            keep=self.settings.keep,
            is_main=self.accelerator.is_main_process,
        )
        self.accelerator.wait_for_everyone()
        self.progress.saved(place)
        return place

    def _count(self, index: int) -> None:
        for number in self.batches[index]:
            planned, _ = self.stream.mix.place(number)
            n_tokens = planned.shape.segment_length
            self.n_tokens_by_bin[planned.bin.name] += n_tokens
            is_original = planned.bin.kind == "short" and self.settings.short_rope == "original"
            self.n_tokens_by_regime["original" if is_original else "rescaled"] += n_tokens
        self.stream.position = self.batches[index].stop

    def _report(self, index: int, seconds: float, loss: BatchLoss, rate: float, norm: float) -> StepReport:
        self.seconds += seconds
        done, n_tokens = index + 1, sum(self.n_tokens_by_bin.values())
        before = self.history[-1].n_tokens if self.history else 0
        report = StepReport(
            step=done,
            n_steps=len(self.batches),
            loss=loss.mean,
            loss_short=loss.short,
            loss_long=loss.long,
            learning_rate=rate,
            gradient_norm=norm,
            n_tokens=n_tokens,
            tokens_per_s=(n_tokens - before) / seconds,
            peak_memory_bytes=self.model.peak_memory_bytes(),
            remaining_s=self.seconds / done * (len(self.batches) - done),
        )
        self.history.append(report)
        self.progress.stepped(report)
        if self.settings.tracker != "none":
            skipped = ("step", "n_steps")
            values = {k: v for k, v in asdict(report).items() if v is not None and k not in skipped}
            self.accelerator.log(values, step=done)
        return report

    def _is_due(self, index: int) -> bool:
        every = self.settings.save_every
        return index + 1 == len(self.batches) or (every is not None and (index + 1) % every == 0)

    def _resume(self) -> None:
        place = _last(self.folder)
        if place is None:
            return
        state = checkpoint.read_state(place)
        checkpoint.check_identity(place, state, self.identity)
        self.stream.restore(state.data)
        for name, values in checkpoint.tensors_in(checkpoint.weight_files(place)):
            fill(self.masters.masters[name], values)
        self.masters.publish()
        moments = dict(checkpoint.tensors_in(checkpoint.moment_files(place)))
        set_moments(self.optimizer, self.masters.masters, moments, state.step)
        checkpoint.restore_generators(place)
        self.history = list(state.history)
        self.n_tokens_by_bin = Counter(state.n_tokens_by_bin)
        self.n_tokens_by_regime = Counter(state.n_tokens_by_regime)
        self.seconds = state.seconds
        self.progress.says(f"going on after step {state.step} of {len(self.batches)}")

    def _start_tracker(self) -> None:
        if self.settings.tracker != "none":
            plain = {k: v if isinstance(v, int | float | str) else str(v) for k, v in self.identity.items()}
            self.accelerator.init_trackers("longreach", config=plain)

    def _leave(self) -> None:
        """The model as others use it, and trackers at rest."""
        self.model.hf.eval()
        if self.settings.activation_checkpointing:
            recompute_layers(self.model.hf, False)
        if self.settings.tracker != "none":
            self.accelerator.end_training()

    def _not_finite(self, index: int, loss: float, norm: float) -> RequestError:
        batch = self.batches[index]
        bins = Counter(self.stream.mix.place(number)[0].bin.name for number in batch)
        place = _last(self.folder)
        return RequestError(
            f"step {index + 1}: the loss is {loss:g} and its gradient {norm:g}, in the batch of segments "
            f"{batch.start} to {batch.stop - 1} ({', '.join(f'{n} {name}' for name, n in bins.items())}); "
            f"the last good checkpoint is {place or 'none'}: lower learning_rate, or raise "
            "warmup_steps"
        )


def _optimised(
    accelerator: "Accelerator", module: SegmentLoss, settings: TrainingSettings, dtype: torch.dtype
) -> tuple[MasterWeights, torch.optim.Optimizer]:
    if processes.is_sharded():
        processes.shard(module, layers(module.hf), accelerator.device, dtype)
        dtype = torch.float32  # the shards' own, whatever they are computed in
    masters = MasterWeights(module.hf, dtype)
    return masters, adamw(masters.masters.values(), settings)


def _identity(
    model: LoadedModel,
    scaling: RopeScaling,
    mix: PlannedMix,
    settings: TrainingSettings,
    seed: int,
    dtype: str,
) -> dict[str, JSON]:
    rope = [[float(f) for f in scaling.inv_freq_P], float(scaling.attention_factor), scaling.start_tokens]
    return {
        **{name: value for name, value in asdict(settings).items() if name not in FREE},
        "dtype": dtype,
        **{f"model's {name}": digest for name, digest in identity(model.request).items()},
        "rope": content_hash(rope),
        "data": mix.key,
        "seed": seed,
    }


def _last(folder: Path) -> Path | None:
    found = checkpoint.all_in(folder)
    return found[-1] if found else None


@contextmanager
def _plain_memory_errors(settings: TrainingSettings, accelerator: "Accelerator") -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "allocate memory" not in str(error):
            raise
        raise RequestError(
            f"a segment is larger than the memory of {accelerator.device}: {ways_out(settings)}"
        ) from error
