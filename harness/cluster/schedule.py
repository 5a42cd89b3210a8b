"""Who answers what: a state machine over cells, workers and losses, without Ray, store or clock.

Cells wait in groups of one model and method, longest first. A worker holds one lease: samples of one cell. It is told
of samples that another worker took or recorded meanwhile (`drops`). Of several answers to a sample the first counts.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from harness.errors import RequestError

Group = tuple[str, str]  # model, method
STRIKES = 2  # workers that a sample may take with it
_LOADS = 3  # times that each of the workers that load a model may be lost before any of its cells has begun


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A cell as it is scheduled. cost: tokens of a sample. n_samples: those planned. environment: its workers' only."""

    key: str
    group: Group
    n_samples: int
    cost: int
    environment: str = ""


@dataclass(kw_only=True, slots=True, eq=False)
class Lease:
    """What one worker has of a cell.

    only: the samples, or None for all that have no record. left: those not recorded, in the order they run; None until
    the worker has said them. alone: samples that were in hand, with others, when a worker was lost.
    hand: what is being answered. since: when the worker was last heard of.
    """

    work: Work
    only: tuple[str, ...] | None
    alone: frozenset[str]
    since: float
    left: dict[str, None] | None = None
    begun: bool = False
    hand: tuple[str, ...] = ()
    dropped: list[str] = field(default_factory=list)
    n_copies: int = 0

    def forget(self, ids: Iterable[str]) -> None:
        """Others have, or had, these samples."""
        for example_id in ids:
            if self.left is not None and example_id in self.left:
                del self.left[example_id]
                self.dropped.append(example_id)

    def to_give(self) -> list[str]:
        """The samples that nobody answers yet."""
        return [example_id for example_id in self.left or () if example_id not in self.hand]


@dataclass(kw_only=True, slots=True)
class _Cell:
    """A cell that was begun. left: the samples without a record, None until a worker has said them."""

    work: Work
    left: dict[str, None] | None = None
    alone: set[str] = field(default_factory=set)
    strikes: dict[str, int] = field(default_factory=dict)
    leases: list[Lease] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Part:
    work: Work
    only: tuple[str, ...] | None = None

    @property
    def cost(self) -> int:
        return self.work.cost * (self.work.n_samples if self.only is None else len(self.only))


class Scheduler:
    """Leases for workers, and what becomes of them. Workers are numbers, times are seconds of any one clock.

    patience_s: how long an idle worker lets another one be silent, at least, before it takes or repeats its samples.
    """

    def __init__(self, works: Iterable[Work], *, patience_s: float = 10.0) -> None:
        self._queues: dict[Group, deque[_Part]] = {}
        self._waiting: dict[Group, int] = {}  # cost of what waits
        self._cells: dict[str, _Cell] = {}
        self._last: dict[int, Group] = {}
        self._load_losses: dict[str, int] = {}
        self._loaded: dict[int, str] = {}  # the model that a worker holds
        self._patience_s = patience_s
        self._busy_s, self._tokens = 0.0, 0
        self.leases: dict[int, Lease] = {}
        for work in works:
            self._push(_Part(work))

    @property
    def finished(self) -> bool:
        """Whether every sample is recorded."""
        return not self._cells and not self._queues

    def to_give(self) -> dict[str, int]:
        """Environment -> tokens that one more worker there could take over, now or soon; none of it is 0."""
        found: dict[str, int] = {}
        for group, queue in self._queues.items():
            environment = queue[0].work.environment
            found[environment] = found.get(environment, 0) + self._waiting[group]
        for lease in self.leases.values():
            n = len(lease.to_give()) if lease.left is not None else lease.work.n_samples
            if n:
                found[lease.work.environment] = found.get(lease.work.environment, 0) + n * lease.work.cost
        return found

    def is_open(self, key: str) -> bool:
        """Whether a cell that was leased still lacks records."""
        return key in self._cells

    def take(self, worker: int, now: float, environment: str = "") -> Lease | None:
        """The next lease of an idle worker: what waits, else half of another's, else a repetition of a silent one's.

        environment: the worker's; it gets no cell of another.
        """
        part = self._pop(worker, environment)
        if part is None:
            part = self._stolen(now, environment) or self._repeated(now, environment)
        if part is None:
            return None
        cell = self._cells.setdefault(part.work.key, _Cell(work=part.work))
        left = None if part.only is None else dict.fromkeys(part.only)
        lease = Lease(work=part.work, only=part.only, alone=frozenset(cell.alone), since=now, left=left)
        cell.leases.append(lease)
        self.leases[worker], self._last[worker] = lease, part.work.group
        return lease

    def began(self, worker: int, ids: Iterable[str], hand: tuple[str, ...], now: float) -> None:
        """A worker is about to answer the samples of its lease, in this order."""
        lease = self.leases[worker]
        cell, ids = self._cells.get(lease.work.key), list(ids)
        lease.begun, lease.since, lease.hand = True, now, hand
        self._loaded[worker] = lease.work.group[0]
        self._load_losses.pop(lease.work.group[0], None)
        if cell is not None and cell.left is None:
            cell.left = dict.fromkeys(ids)
        mine = dict.fromkeys(ids) if lease.left is None else lease.left
        there = {} if cell is None or cell.left is None else cell.left
        lease.left = {example_id: None for example_id in ids if example_id in mine and example_id in there}
        lease.dropped = [example_id for example_id in ids if example_id not in lease.left]
        if cell is not None and not cell.left:
            self._close(cell)

    def recorded(self, worker: int, example_id: str, now: float) -> bool:
        """Whether a worker's record is the first of its sample, and is to be kept."""
        lease = self.leases[worker]
        if lease.left is not None:
            lease.left.pop(example_id, None)
        self._busy_s += now - lease.since
        self._tokens += lease.work.cost
        lease.since = now
        return self._settle(lease.work.key, example_id)

    def holds(self, worker: int, hand: tuple[str, ...]) -> None:
        """What a worker answers now."""
        self.leases[worker].hand = hand

    def drops(self, worker: int) -> tuple[str, ...]:
        """The samples of its lease that a worker need not answer any more; each is told once."""
        lease = self.leases.get(worker)
        if lease is None or not lease.begun or not lease.dropped:
            return ()
        dropped, lease.dropped = tuple(lease.dropped), []
        return dropped

    def ended(self, worker: int) -> None:
        """A worker has answered all of its lease, and is idle."""
        lease = self._remove(worker)
        assert not lease.left, f"a worker ended {lease.work.key} and left {list(lease.left or ())}"

    def lost(self, worker: int, now: float, *, blame: bool) -> list[tuple[str, str]]:
        """A worker is gone, and its samples go to others. Returns (cell key, sample) of those given up.

        blame: the samples in hand may be the reason; a node that went down, or a worker that was asked to stop, blames
        nobody. Raises RequestError for a model whose workers are lost before they answer anything.
        """
        self._last.pop(worker, None)
        self._loaded.pop(worker, None)
        if worker not in self.leases:
            return []
        lease = self._remove(worker)
        cell = self._cells.get(lease.work.key)
        given_up = self._blame(lease, cell) if blame else []
        if cell is not None and lease.work.key in self._cells:
            self._return(lease, cell)
        return given_up

    def _blame(self, lease: Lease, cell: _Cell | None) -> list[tuple[str, str]]:
        model, key = lease.work.group[0], lease.work.key
        if not lease.begun:
            if model in self._loaded.values():
                return []  # another worker holds it: what takes these may be their machine
            losses = self._load_losses[model] = self._load_losses.get(model, 0) + 1
            others = sum(other.work.group[0] == model and not other.begun for other in self.leases.values())
            if losses >= _LOADS * (1 + others):
                raise RequestError(f"model '{model}': {losses} workers were lost while they loaded it or its samples")
            return []
        if cell is None or cell.left is None:
            return []
        hand = [example_id for example_id in lease.hand if example_id in cell.left]
        if len(hand) != 1:
            cell.alone.update(hand)
            return []
        cell.strikes[hand[0]] = cell.strikes.get(hand[0], 0) + 1
        if cell.strikes[hand[0]] < STRIKES:
            cell.alone.add(hand[0])
            return []
        self._settle(key, hand[0])
        return [(key, hand[0])]

    def _return(self, lease: Lease, cell: _Cell) -> None:
        """What no other lease covers waits again, in front."""
        for other in cell.leases:
            other.n_copies = 0
        if any(other.left is None for other in cell.leases):
            return  # it will say all that is left
        if cell.left is None:
            self._push(_Part(cell.work), front=True)
            return
        covered = {example_id for other in cell.leases for example_id in other.left or ()}
        mine = cell.left if lease.left is None else lease.left
        if rest := tuple(example_id for example_id in mine if example_id in cell.left and example_id not in covered):
            self._push(_Part(cell.work, rest), front=True)

    def _remove(self, worker: int) -> Lease:
        lease = self.leases.pop(worker)
        if cell := self._cells.get(lease.work.key):
            cell.leases = [other for other in cell.leases if other is not lease]
        return lease

    def _settle(self, key: str, example_id: str) -> bool:
        cell = self._cells.get(key)
        if cell is None or cell.left is None or example_id not in cell.left:
            return False
        del cell.left[example_id]
        for lease in cell.leases:
            lease.forget([example_id])
        if not cell.left:
            self._close(cell)
        return True

    def _close(self, cell: _Cell) -> None:
        del self._cells[cell.work.key]
        for lease in cell.leases:
            lease.forget(list(lease.left or ()))

    def _push(self, part: _Part, *, front: bool = False) -> None:
        queue = self._queues.setdefault(part.work.group, deque())
        (queue.appendleft if front else queue.append)(part)
        self._waiting[part.work.group] = self._waiting.get(part.work.group, 0) + part.cost

    def _pop(self, worker: int, environment: str) -> _Part | None:
        group = self._choose(self._last.get(worker), environment)
        if group is None:
            return None
        part = self._queues[group].popleft()
        self._waiting[group] -= part.cost
        if not self._queues[group]:
            del self._queues[group], self._waiting[group]
        return part

    def _choose(self, last: Group | None, environment: str) -> Group | None:
        """The worker's own group, else of its model's groups, else of all, the one with most left for each worker."""
        if last in self._queues:
            return last
        groups = [group for group, queue in self._queues.items() if queue[0].work.environment == environment]
        if not groups:
            return None
        at: dict[Group, int] = {}
        for lease in self.leases.values():
            at[lease.work.group] = at.get(lease.work.group, 0) + 1
        same_model = [group for group in groups if last and group[0] == last[0]]
        return max(same_model or groups, key=lambda group: self._waiting[group] / (1 + at.get(group, 0)))

    def _stolen(self, now: float, environment: str) -> _Part | None:
        """Half of what the worker with most left does not answer yet."""
        sizes = [
            (lease.work.cost * len(lease.to_give()), lease)
            for lease in self.leases.values()
            if lease.work.environment == environment and (lease.begun or now - lease.since > self._patience_s)
        ]
        size, victim = max(sizes, key=lambda found: found[0], default=(0, None))
        if victim is None or not size:
            return None
        ids = victim.to_give()
        ids = ids[len(ids) // 2 :]
        victim.forget(ids)
        return _Part(victim.work, tuple(ids))

    def _repeated(self, now: float, environment: str) -> _Part | None:
        """All of the lease that was silent longest, where that is too long."""
        per_token = self._busy_s / self._tokens if self._tokens else 0.0
        silent = []
        for lease in self.leases.values():
            if lease.work.environment != environment:
                continue
            expected = 4 * per_token * lease.work.cost * max(1, len(lease.hand))
            patience = max(self._patience_s, expected) * 2**lease.n_copies
            if self.is_open(lease.work.key) and lease.left != {} and now - lease.since > patience:
                silent.append(lease)
        if not silent:
            return None
        lease = min(silent, key=lambda found: found.since)
        lease.n_copies += 1
        return _Part(lease.work, None if lease.left is None else tuple(lease.left))
