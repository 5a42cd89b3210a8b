"""A training that is killed: python -m tests.methods.longrope.training.killed FOLDER steps|writing N."""

import os
import signal
import sys
from pathlib import Path

from methods.longrope.training import checkpoint
from tests.methods.longrope.training.small import loaded, rescaled
from tests.methods.longrope.training.test_checkpoint import SETTINGS, mixed


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    from methods.longrope.training.loop import fit
    from methods.longrope.training.settings import Silent

    folder, when, n = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

    class Killing(Silent):
        def stepped(self, report):
            if when == "steps" and report.step == n:
                die()

    if when == "writing":
        # The n-th file is on the disk, the others are not.
        plain, count = checkpoint._sync, iter(range(1, 10_000))

        def sync(path):
            plain(path)
            if next(count) == n:
                die()

        checkpoint._sync = sync
    model = loaded(folder / "m")
    fit(model, rescaled(model), mixed(folder), SETTINGS, folder=folder / "run", progress=Killing())


if __name__ == "__main__":
    main()
