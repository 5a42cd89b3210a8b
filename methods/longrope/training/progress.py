"""What a person sees while a training goes on: a live view in a terminal, a line now and then anywhere else."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from harness.progress import time_left
from methods.longrope.training.settings import StepReport

_LINE_EVERY_S = 10.0


class TrainingProgress:
    """Follows a training; what comes before the steps stays on the screen."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._n_tokens = 0
        self._said: float | None = None
        self._losses = ""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[tokens]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self._task = self._bar.add_task("starting", total=None, tokens="", left="")
        self._live = Live(console=console, get_renderable=self._rendered, refresh_per_second=4)

    @contextmanager
    def shown(self) -> Iterator["TrainingProgress"]:
        """The live display, until the block ends."""
        if not self._console.is_terminal:
            yield self
            return
        with self._live:
            yield self

    def expects(self, n_tokens: int) -> None:
        """How many tokens the training reads."""
        self._n_tokens = n_tokens
        self._bar.update(self._task, total=n_tokens)

    def says(self, line: str) -> None:
        """What is done beside the steps; it stays on the screen."""
        self._bar.update(self._task, description=line if len(line) < 60 else "preparing")
        self._console.print(line, highlight=False, soft_wrap=True)

    def stepped(self, report: StepReport) -> None:
        """A step is done; anywhere but in a terminal a line for the first, the last, and some of those between."""
        self._losses = _losses(report)
        tokens, left = f"{report.n_tokens:,} of {self._n_tokens:,} tokens", f"about {time_left(report.remaining_s)}"
        step = f"step {report.step} of {report.n_steps}"
        self._bar.update(self._task, description=step, completed=report.n_tokens, tokens=tokens, left=left)
        if self._console.is_terminal:
            return
        now = time.monotonic()
        if self._said is None or report.step == report.n_steps or now - self._said >= _LINE_EVERY_S:
            self._said = now
            self._console.print(f"{step}, {tokens}: {self._losses}; {left}", highlight=False, soft_wrap=True)

    def saved(self, folder: Path) -> None:
        """A checkpoint is complete."""
        self._console.print(f"checkpoint: {folder}", highlight=False, soft_wrap=True)

    def _rendered(self) -> RenderableType:
        return Group(Text(self._losses), self._bar) if self._losses else self._bar


def _losses(report: StepReport) -> str:
    parts = [f"loss {report.loss:.4g}"]
    parts += [
        f"{name} {loss:.4g}"
        for name, loss in (("short", report.loss_short), ("long", report.loss_long))
        if loss is not None
    ]
    return (
        f"{', '.join(parts)}, gradient {report.gradient_norm:.3g}, learning rate {report.learning_rate:.3g}, "
        f"{report.tokens_per_s:,.0f} tokens/s, {report.peak_memory_bytes / 1e9:.1f} GB"
    )
