"""Where a run happened: versions, git revision, machine. Nothing heavy is imported to find out."""

import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness.types import JSON

_PACKAGES = (
    "longreach",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "scipy",
    "pandas",
    "accelerate",
    "gguf",
    "vllm",
)


def gather() -> dict[str, JSON]:
    """Versions, git revision (with `+changes` for an unclean checkout), operating system, processor, memory."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": n_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "packages": {name: found for name in _PACKAGES if (found := package_version(name))},
        "git_revision": _git_revision(Path(__file__).parent),
    }


def n_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def process_peak_bytes() -> int:
    """The most memory that this process had so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def package_version(name: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def device_facts(device: str, n_devices: int = 1) -> dict[str, JSON]:
    """The name of the device that computed; of GPUs the memory, and how many where a model is spread. Imports torch."""
    import torch

    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        several: dict[str, JSON] = {} if n_devices == 1 else {"n_gpus": n_devices}
        memory = {"device_memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
        return {"device": properties.name, **memory, **several}
    return {"device": device, "threads": torch.get_num_threads()}


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git_revision(folder: Path) -> str | None:
    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    revision = git("rev-parse", "HEAD")
    if revision is None:
        return None
    return revision + ("+changes" if git("status", "--porcelain") else "")
