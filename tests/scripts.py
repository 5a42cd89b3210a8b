"""Scripts, of benchmarks and of pages, as modules."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType


@contextmanager
def imported(script: Path) -> Iterator[ModuleType]:
    """A script, until the block ends; what it imports from its folder goes with it."""
    folder, before = str(script.parent), set(sys.modules)
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module(script.stem)
    finally:
        sys.path.remove(folder)
        for name in set(sys.modules) - before:
            if Path(getattr(sys.modules[name], "__file__", None) or "").parent == script.parent:
                del sys.modules[name]
