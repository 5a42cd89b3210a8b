"""What a person sees of a training, in a terminal and in a log."""

import io
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from methods.longrope.training.progress import TrainingProgress
from methods.longrope.training.settings import StepReport

STEP = StepReport(
    step=1, n_steps=40, loss=2.5, loss_short=2.0, loss_long=3.0, learning_rate=1e-4, gradient_norm=0.5, n_tokens=1000,
    tokens_per_s=1234.5, peak_memory_bytes=2_500_000_000, remaining_s=3725.0,
)  # fmt: skip


def followed(steps, *, terminal=False) -> str:
    out = io.StringIO()
    progress = TrainingProgress(Console(file=out, force_terminal=terminal, width=160))
    with progress.shown():
        progress.says("loading a model")
        progress.expects(40_000)
        for step in steps:
            progress.stepped(step)
        progress.saved(Path("trainings/x/checkpoints/step-000040"))
    return out.getvalue()


def test_a_log_has_everything_of_a_step_in_a_line():
    lines = followed([STEP]).splitlines()
    assert lines[0] == "loading a model"
    assert lines[1] == (
        "step 1 of 40, 1,000 of 40,000 tokens: loss 2.5, short 2, long 3, gradient 0.5, learning rate 0.0001, "
        "1,234 tokens/s, 2.5 GB; about 1 h 2 min left"
    )
    assert lines[2] == "checkpoint: trainings/x/checkpoints/step-000040"


def test_a_batch_without_short_segments_shows_no_short_loss():
    assert "loss 2.5, long 3," in followed([replace(STEP, loss_short=None)])


def test_a_log_has_the_first_step_and_the_last_and_not_every_one_between():
    steps = [replace(STEP, step=n, n_tokens=1000 * n) for n in range(1, 41)]
    lines = [line for line in followed(steps).splitlines() if line.startswith("step")]
    assert [line.partition(",")[0] for line in lines] == ["step 1 of 40", "step 40 of 40"]


def test_the_next_line_comes_when_ten_seconds_have_passed(monkeypatch):
    clock = iter([0.0, 9.9, 10.1])
    monkeypatch.setattr("methods.longrope.training.progress.time.monotonic", lambda: next(clock))
    lines = [line for line in followed([replace(STEP, step=n) for n in (1, 2, 3)]).splitlines() if "step" in line]
    assert [line.partition(",")[0] for line in lines[:2]] == ["step 1 of 40", "step 3 of 40"]


def test_a_terminal_shows_losses_tokens_and_the_time_that_is_left():
    seen = followed([replace(STEP, remaining_s=75.0)], terminal=True)
    for words in ("short 2", "long 3", "1,000 of 40,000 tokens", "about 1 min 15 s left", "step 1 of 40"):
        assert words in seen
