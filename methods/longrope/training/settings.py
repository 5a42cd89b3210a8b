"""What a training is asked for, what it says while it runs, and what comes out of it. Standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from harness.types import Regime

# Settings that no number depends on.
FREE = ("sequence_parallel", "save_every", "keep", "tracker")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """A preset's table `[training]`.

    batch_tokens: a batch takes whole segments until it has so many tokens, over all processes.
    tokens, steps: where training ends, at most one of them; the whole stream of data when neither is given.
    warmup_steps: the learning rate rises linearly from 0. schedule: what follows; `cosine` falls to
        `final_learning_rate`.
    clip: the largest norm of a batch's gradient.
    short_rope: `original` is mixed context window training; `rescaled` reads every segment under the method's RoPE
        (LongRoPE2's ablation without mixing, and how its baselines are trained).
    dtype: of the computation; weights, gradients and moments are float32. `auto`: bfloat16 on a GPU, float32 on a
        processor. `native`: bfloat16 where the device multiplies it itself, float32 elsewhere.
    activation_checkpointing: a layer's activations are computed again for its gradient instead of kept.
    loss: `chunked` is our own, `loss_chunk` tokens at a time; `liger` is liger-kernel's, for GPUs.
    sequence_parallel: so many processes read one segment together (Ulysses), where one GPU cannot hold it.
    save_every: steps from one checkpoint to the next; only at the end when None. keep: how many of the last ones stay.
    tracker: where each step is reported beside the terminal.
    """

    batch_tokens: int
    tokens: int | None = None
    steps: int | None = None
    learning_rate: float = 2e-5
    warmup_steps: int = 40
    schedule: Literal["cosine", "constant"] = "cosine"
    final_learning_rate: float = 0.0
    betas: tuple[float, ...] = (0.9, 0.95)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0
    short_rope: Regime = "original"
    dtype: Literal["auto", "native", "bfloat16", "float32"] = "auto"
    activation_checkpointing: bool = True
    loss: Literal["chunked", "liger"] = "chunked"
    loss_chunk: int = 2048
    sequence_parallel: int = 1
    save_every: int | None = None
    keep: int = 2
    tracker: Literal["none", "tensorboard", "wandb"] = "none"

    def __post_init__(self) -> None:
        if self.tokens is not None and self.steps is not None:
            raise ValueError("tokens and steps are both given: keep one")
        for name in ("batch_tokens", "tokens", "steps", "loss_chunk", "sequence_parallel", "save_every", "keep"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} = {value}: it should be at least 1")
        for name in ("learning_rate", "epsilon", "clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} = {getattr(self, name):g}: it should be positive")
        for name in ("warmup_steps", "weight_decay"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} = {getattr(self, name):g}: it should not be negative")
        if not 0 <= self.final_learning_rate <= self.learning_rate:
            raise ValueError(
                f"final_learning_rate = {self.final_learning_rate:g}: "
                f"it should be from 0 to learning_rate = {self.learning_rate:g}"
            )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas = {list(self.betas)}: they should be two numbers from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """A step, over all processes. `step` counts from 1.

    loss, loss_short, loss_long: means over the batch's weighted tokens, before the step: all of them, those read under
        the bins' original RoPE, and the others; None where the batch has none.
    n_tokens: read since the beginning of the training. peak_memory_bytes: of one process so far.
    remaining_s: an estimate, by what this process has measured.
    """

    step: int
    n_steps: int
    loss: float
    loss_short: float | None
    loss_long: float | None
    learning_rate: float
    gradient_norm: float
    n_tokens: int
    tokens_per_s: float
    peak_memory_bytes: int
    remaining_s: float


class Progress(Protocol):
    """Who follows a training; called in the main process only."""

    def says(self, line: str) -> None:
        """What is done before the first step, and what a person should know."""
        ...

    def stepped(self, report: StepReport) -> None:
        """A step is done."""
        ...

    def saved(self, folder: Path) -> None:
        """A checkpoint is complete."""
        ...


class Silent:
    """A progress that nobody follows."""

    def says(self, line: str) -> None:
        """Nothing."""

    def stepped(self, report: StepReport) -> None:
        """Nothing."""

    def saved(self, folder: Path) -> None:
        """Nothing."""


@dataclass(frozen=True, kw_only=True)
class TrainingOutcome:
    """A finished training.

    checkpoint: the folder of the last one. weights: its safetensors files, float32 tensors by the model's own names.
    n_tokens_by_bin, n_tokens_by_regime: what was read; regimes are those the segments were read under.
    history: every step, those before a resume included. seconds: spent in steps, over all its runs.
    attention: the kernels that ran in this process, joined by +.
    """

    checkpoint: Path
    weights: tuple[Path, ...]
    n_tokens_by_bin: Mapping[str, int]
    n_tokens_by_regime: Mapping[str, int]
    history: tuple[StepReport, ...]
    seconds: float
    attention: str

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return len(self.history)

    @property
    def n_tokens(self) -> int:
        """How many tokens were read."""
        return sum(self.n_tokens_by_bin.values())
