"""Batches: whole segments of the stream, the same ones however many processes share them."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from harness.errors import RequestError
from methods.longrope.training.mix import PlannedMix
from methods.longrope.training.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True, eq=False)
class Batches(Sequence[range]):
    """The numbers of each batch's segments. ends: where in the stream each batch ends."""

    ends: tuple[int, ...]

    @classmethod
    def of(cls, mix: PlannedMix, settings: TrainingSettings) -> "Batches":
        """The batches of a training; the last one of the stream may be smaller. Raises RequestError."""
        sizes = [mix.place(i)[0].shape.segment_length for i in range(len(mix))]
        sums = [0, *accumulate(sizes)]
        ends = [0]
        while ends[-1] < len(sizes) and not _is_enough(len(ends) - 1, sums[ends[-1]], settings):
            ends.append(min(bisect_left(sums, sums[ends[-1]] + settings.batch_tokens), len(sizes)))
        for name, asked, found in (("steps", settings.steps, len(ends) - 1), ("tokens", settings.tokens, sums[-1])):
            if asked is not None and found < asked:
                raise RequestError(
                    f"training: {name} = {asked:,}: the data gives {found:,}: lower it, or raise data.total_tokens"
                )
        return cls(ends=tuple(ends[1:]))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> range:  # type: ignore[override]
        if not 0 <= index < len(self.ends):
            raise IndexError(f"batch {index}: there are {len(self.ends)}")
        return range(self.ends[index - 1] if index else 0, self.ends[index])

    def share(self, index: int, rank: int, world_size: int) -> tuple[int | None, ...]:
        """One process's segments of a batch: as many on each, None where there is none left to read."""
        batch = self[index]
        n_passes = -(-len(batch) // world_size)
        numbers = [batch.start + i * world_size + rank for i in range(n_passes)]
        return tuple(number if number < batch.stop else None for number in numbers)


def _is_enough(n_steps: int, n_tokens: int, settings: TrainingSettings) -> bool:
    if settings.steps is not None:
        return n_steps >= settings.steps
    return settings.tokens is not None and n_tokens >= settings.tokens
