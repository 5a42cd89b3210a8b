"""What a person sees while a search goes on: a live bar in a terminal, a line a question anywhere else."""

import time

from rich.console import Console
from rich.progress import BarColumn, TextColumn

from harness.progress import AbstractBar, time_left
from methods.longrope.search.loop import Status


class SearchProgress(AbstractBar):
    """Follows a search. The estimate of what is left goes by what was spent since this process began."""

    def __init__(self, budget: float, console: Console) -> None:
        columns = BarColumn(bar_width=20), TextColumn("{task.fields[spent]}")
        super().__init__(console, *columns, total=budget, spent="")
        self._began: tuple[float, float] | None = None  # seconds, forward-equivalents
        self._n_asks = 0
        self._workers = ""

    def works(self, n_workers: int) -> None:
        """So many workers measure now."""
        self._workers = f"{n_workers} worker{'' if n_workers == 1 else 's'}, "

    def follows(self, status: Status) -> None:
        """Where the search is; anywhere but in a terminal a line for each question."""
        spent, left = f"{status.spent:.4g} of {status.budget:.4g} spent", self._estimate(status)
        losses = _losses(status)
        self._bar.update(
            self._task,
            description=f"{self._workers}{losses}, {status.done}/{status.asked} {status.stage}",
            completed=min(status.spent, status.budget),
            spent=spent,
            left=left,
        )
        if status.n_asks != self._n_asks:
            self._n_asks = status.n_asks
            self._line(
                f"{spent}, {left}: {self._workers}{losses}; question {status.n_asks}, {status.asked} {status.stage}"
            )

    def _estimate(self, status: Status) -> str:
        now = time.monotonic()
        self._began = self._began or (now, status.spent)
        spent = status.spent - self._began[1]
        if spent <= 0:
            return "no estimate yet"
        seconds = (now - self._began[0]) * (status.budget - status.spent) / spent
        return f"at most {time_left(seconds)}"


def _losses(status: Status) -> str:
    best = "no loss yet" if status.best_loss is None else f"best loss {status.best_loss:.4g}"
    tests = [
        f"{loss:.4g} {who}"
        for loss, who in ((status.test_loss, "best"), (status.yarn_test_loss, "YaRN"))
        if loss is not None
    ]
    return f"{best} (test: {', '.join(tests)})" if tests else best
