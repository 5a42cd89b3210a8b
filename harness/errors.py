"""Errors that end a command with one clear line."""

import difflib
from collections.abc import Iterable


class RequestError(Exception):
    """The request is wrong: the command prints the message as one line and exits with 2.

    The message names what is wrong, the value, and what would be right.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean 'yarn'?`, or the list of what there is when nothing is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"did you mean '{near[0]}'?"
    return "there is " + (", ".join(names) if names else "none")


def unknown(kind: str, name: str, known: Iterable[str]) -> RequestError:
    """The error for a name that no catalogue holds."""
    return RequestError(f"unknown {kind} '{name}': {did_you_mean(name, known)}")
