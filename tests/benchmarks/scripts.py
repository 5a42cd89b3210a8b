"""Benchmarks as modules."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType


@contextmanager
def imported(script: Path) -> Iterator[ModuleType]:
    """A script, until the block ends."""
    sys.path.insert(0, str(script.parent))
    try:
        yield importlib.import_module(script.stem)
    finally:
        sys.path.remove(str(script.parent))
        sys.modules.pop(script.stem, None)
