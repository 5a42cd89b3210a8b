"""What token sequences have in common at their beginning."""

from collections.abc import Sequence

import numpy as np


def shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    n = min(len(a), len(b))
    same_N = np.asarray(a[:n]) == np.asarray(b[:n])
    return n if same_N.all() else int(same_N.argmin())
