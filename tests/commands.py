"""The command as a person calls it."""

from pathlib import Path

import run_bench


def refused(argv: list[str], capsys, out: Path | None = None) -> str:
    """The one line a refused command prints."""
    assert run_bench.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1
    assert out is None or not out.exists()
    return lines[0]
