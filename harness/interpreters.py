"""Python environments of methods whose requirements conflict with the others': what is installed there names them.

An environment is known by its contents, not by its path: the same packages elsewhere give the same cells, and a package
that was changed gives others, so that a run never goes on with a mixture.
"""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.errors import RequestError
from harness.types import JSON, content_hash

OLDEST = (3, 11)
NEEDED = ("torch", "transformers")
ARTIFACT = "python_environment"  # its name among a cell's artifacts
_ANSWER_S = 120.0  # from a cold network disk

# Isolated (-I), it sees what is installed in its environment, and nothing of who asks. A package that was installed
# from a repository is told by its commit too.
_PROBE = """
import json, platform, re
from importlib.metadata import distributions
found = {}
for one in distributions():
    about = one.metadata
    if about["Name"] and about["Version"]:
        source = json.loads(one.read_text("direct_url.json") or "{}").get("vcs_info", {}).get("commit_id", "")
        name = re.sub(r"[-_.]+", "-", about["Name"]).lower()
        found.setdefault(name, about["Version"] + ("@" + source if source else ""))
print(json.dumps({"python": platform.python_version(), "packages": found}))
"""


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """A Python environment. path: of its interpreter. python: its version. packages: name -> version of all there."""

    path: str
    python: str
    packages: Mapping[str, str]

    @property
    def contents(self) -> dict[str, JSON]:
        """What is in it."""
        return {"python": self.python, "packages": dict(self.packages)}

    @cached_property
    def sha256(self) -> str:
        """Of its contents."""
        return content_hash(self.contents)

    @property
    def versions(self) -> dict[str, str]:
        """What a worker in it must say of itself; see `harness.cluster.worker.versions`."""
        return {
            "Python": self.python,
            **{name: self.packages[name] for name in NEEDED},
            PACKAGES: self.sha256,
        }

    def __str__(self) -> str:
        return f"{self.path} (Python {self.python}, {', '.join(f'{name} {self.packages[name]}' for name in NEEDED)})"


PACKAGES = "the set of installed packages (sha256)"


def named(path: Path, where: str) -> Interpreter:
    """The interpreter at a path. Raises RequestError where it is none, or lacks what Longreach needs.

    Its packages are read, not imported.
    """
    path = path.absolute()  # links stay: a virtual environment's interpreter is one
    found = probe(str(path), f"{where} = '{path}'")
    if missing := [name for name in NEEDED if name not in found.packages]:
        raise RequestError(
            f"{where} = '{path}': {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed "
            "there: install what Longreach needs beside what the method needs"
        )
    return found


def probe(path: str, where: str) -> Interpreter:
    """What is installed under an interpreter; nothing of it is imported. Raises RequestError where there is none."""
    try:
        done = subprocess.run(
            [path, "-I", "-c", _PROBE], capture_output=True, text=True, timeout=_ANSWER_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise RequestError(f"{where}: it did not answer within {_ANSWER_S:g} s") from error
    except OSError as error:
        raise RequestError(f"{where}: {error.strerror}: it should be the path of a Python interpreter") from error
    try:
        said = json.loads(done.stdout)
        found = Interpreter(path=path, python=said["python"], packages=dict(sorted(said["packages"].items())))
        version = tuple(int(part) for part in found.python.split(".")[:2])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200]
        raise RequestError(f"{where}: it does not answer as a Python interpreter does ({last})") from error
    if version < OLDEST:
        raise RequestError(
            f"{where}: it is Python {found.python}, Longreach needs {'.'.join(map(str, OLDEST))} or later"
        )
    return found
