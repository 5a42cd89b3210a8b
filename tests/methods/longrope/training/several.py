"""Trainings in several processes: accelerate launch ... -m tests.methods.longrope.training.several FOLDER VARIANT..."""

import shutil
import sys
from pathlib import Path

import torch

from methods.longrope.training import checkpoint
from tests.methods.longrope.training.small import loaded, rescaled
from tests.methods.longrope.training.test_distributed import SETTINGS, VARIANTS, mixed


def main() -> None:
    from methods.longrope.training import processes
    from methods.longrope.training.loop import fit

    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    accelerator = processes.start(SETTINGS, device="cpu", folder=folder)
    assert accelerator.num_processes == 2
    for name in sys.argv[2:]:
        tied, settings = VARIANTS[name]
        model = loaded(folder / ("tied" if tied else "untied"))
        n_all = sum(p.numel() for p in model.hf.parameters())
        fit(model, rescaled(model), mixed(folder), settings, folder=folder / name, accelerator=accelerator)
        # And once more from the first checkpoint, as after a kill.
        if accelerator.is_main_process:
            first = checkpoint.all_in(folder / name / "checkpoints")[0]
            shutil.copytree(first, folder / f"{name} again" / "checkpoints" / first.name)
        accelerator.wait_for_everyone()
        again = loaded(folder / ("tied" if tied else "untied"))
        fit(again, rescaled(again), mixed(folder), settings, folder=folder / f"{name} again", accelerator=accelerator)
        held = [getattr(p, "to_local", lambda p=p: p)().numel() for p in model.hf.parameters()]
        print(f"{name}: held {sum(held) / n_all:.3f}")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
