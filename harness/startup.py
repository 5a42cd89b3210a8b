"""What lets a command begin and end quickly."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


@contextmanager
def importing() -> Iterator[None]:
    """The block in which torch and transformers are imported, without garbage collection.

    They make a million objects, all of which stay: looking through them again and again takes a fifth of the import,
    so later collections leave them out too. Where torch is there already, nothing is changed.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def leave(code: int) -> NoReturn:
    """Ends the process. What is left ends with it: the interpreter need not look through it for cycles first."""
    gc.freeze()
    sys.exit(code)
