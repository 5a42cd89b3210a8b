"""A worker under an interpreter of its own. It runs as a script there: `PYTHON -I child.py DESCRIPTOR`.

Longreach's packages are those beside this file, whatever is installed there; all others are that environment's.
"""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_ROOT = str(Path(__file__).parents[2])
_OURS = ("harness", "methods", "tasks", "reports")


class _ThisSource:
    """Finds Longreach's packages, and nothing else that may lie beside them."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [_ROOT]) if name in _OURS else None


def serve(connection: Connection) -> None:
    """Answer a driver until it is gone: its settings first, with the facts; then each order, with a step."""
    import harness.models.loading  # noqa: F401  # torch and transformers: what is broken there shows at once
    from harness.cluster.worker import Step, Worker

    worker = Worker(*connection.recv())
    connection.send(worker.facts())
    while True:
        try:
            asked = connection.recv()
        except EOFError:
            return
        except (ImportError, AttributeError) as error:
            connection.send(Step(refused=f"{sys.executable}: a method's module cannot be imported there: {error}"))
            continue
        connection.send(worker.step(*asked))


if __name__ == "__main__":
    sys.meta_path.insert(0, _ThisSource)
    serve(Connection(int(sys.argv[1])))
