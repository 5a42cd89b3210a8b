"""Nothing is lost, doubled or left behind, whatever happens to workers."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cluster.schedule import Scheduler, Work
from harness.errors import RequestError


def work(key="a", n=4, *, model="m", method="x", cost=10) -> Work:
    return Work(key=key, group=(model, method), n_samples=n, cost=cost)


def ids(work: Work) -> list[str]:
    return [f"{work.key}-{i}" for i in range(work.n_samples)]


def begin(scheduler: Scheduler, worker: int, now: float = 0.0, rows: int = 1):
    lease = scheduler.take(worker, now)
    if lease is not None:
        mine = list(lease.only or ids(lease.work))
        scheduler.began(worker, mine, tuple(mine[:rows]), now)
    return lease


def test_workers_spread_over_the_groups_and_stay_in_theirs():
    works = [work(f"{method}{n}", method=method, n=2) for method in "xy" for n in range(3)]
    scheduler = Scheduler(works)
    taken = {worker: begin(scheduler, worker).work.key for worker in (0, 1)}
    assert taken == {0: "x0", 1: "y0"}
    for i in range(2):
        scheduler.recorded(0, f"x0-{i}", 0.0)
    scheduler.ended(0)
    assert scheduler.take(0, 0.0).work.key == "x1"


def test_a_worker_whose_group_is_empty_stays_with_its_model_and_takes_from_the_largest_group():
    works = [work("x", method="x", n=1), work("y", method="y"), work("z", method="z", n=9), work("o", model="o", n=99)]
    scheduler = Scheduler(works)
    assert begin(scheduler, 0).work.key == "o"
    assert begin(scheduler, 1).work.key == "z"
    for i in range(9):
        scheduler.recorded(1, f"z-{i}", 0.0)
    scheduler.ended(1)
    assert begin(scheduler, 1).work.key == "y"


def test_an_idle_worker_takes_half_of_what_nobody_answers_yet():
    scheduler = Scheduler([work(n=8)])
    begin(scheduler, 0, rows=2)
    assert begin(scheduler, 1).only == ("a-5", "a-6", "a-7")
    assert scheduler.drops(0) == ("a-5", "a-6", "a-7")
    assert scheduler.drops(0) == ()
    assert scheduler.recorded(0, "a-5", 0.0) is True  # it was faster than the message
    assert scheduler.drops(1) == ("a-5",)
    assert scheduler.recorded(1, "a-5", 0.0) is False


def test_a_silent_worker_is_not_waited_for():
    scheduler = Scheduler([work(n=1)], patience_s=10)
    begin(scheduler, 0)
    assert scheduler.take(1, 9.0) is None
    assert begin(scheduler, 1, now=11.0).only == ("a-0",)
    assert scheduler.take(2, 12.0) is None  # one repetition is enough for now
    assert scheduler.recorded(1, "a-0", 13.0) is True
    assert scheduler.finished
    assert scheduler.recorded(0, "a-0", 99.0) is False


def test_samples_that_wait_behind_a_load_go_to_an_idle_worker():
    scheduler = Scheduler([work(n=2), work("b", n=1, model="n")], patience_s=10)
    begin(scheduler, 0)
    begin(scheduler, 1)
    scheduler.recorded(1, "b-0", 1.0)
    scheduler.ended(1)
    assert scheduler.take(1, 1.0).only == ("a-1",)  # loads another model for it
    scheduler.recorded(0, "a-0", 2.0)
    scheduler.ended(0)
    assert scheduler.take(0, 3.0) is None
    assert begin(scheduler, 0, now=12.0).only == ("a-1",)


def test_a_sample_that_takes_two_workers_with_it_is_given_up_and_the_rest_goes_on():
    scheduler = Scheduler([work(n=3)])
    begin(scheduler, 0)
    assert scheduler.lost(0, 0.0, blame=True) == []
    assert begin(scheduler, 1).alone == {"a-0"}
    assert scheduler.lost(1, 0.0, blame=True) == [("a", "a-0")]
    assert begin(scheduler, 2).only == ("a-1", "a-2")


def test_of_several_in_hand_none_is_blamed_before_it_was_alone():
    scheduler = Scheduler([work(n=4)])
    for worker in range(5):
        lease = begin(scheduler, worker, rows=3)
        assert scheduler.lost(worker, 0.0, blame=True) == []
        assert lease.alone == (frozenset() if worker == 0 else {"a-0", "a-1", "a-2"})


def test_a_lost_machine_blames_nobody():
    scheduler = Scheduler([work(n=1)])
    for worker in range(5):
        begin(scheduler, worker)
        assert scheduler.lost(worker, 0.0, blame=False) == []
    assert not scheduler.finished


def test_a_model_that_takes_its_workers_with_it_ends_the_run():
    scheduler = Scheduler([work()])
    for worker in range(2):
        scheduler.take(worker, 0.0)
        scheduler.lost(worker, 0.0, blame=True)
    scheduler.take(2, 0.0)
    with pytest.raises(RequestError, match="model 'm': 3 workers were lost while they loaded it"):
        scheduler.lost(2, 0.0, blame=True)


WORKS = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from("mn"), st.sampled_from("xyz"), st.integers(1, 50)),
    min_size=1,
    max_size=6,
)


class Simulation:
    """Workers that answer, fall silent, stop and die at random, and hear of drops late."""

    def __init__(self, works: list[Work], n_workers: int, data) -> None:
        self.draw = data.draw
        self.scheduler = Scheduler(works, patience_s=3.0)
        self.kept: Counter[str] = Counter()
        self.given_up: set[str] = set()
        self.idle = list(range(n_workers))
        self.busy: dict[int, list[str] | None] = {}  # None: loading
        self.started = n_workers
        self.now = 0.0
        self.killing = True

    def act(self) -> None:
        self.now += 1.0
        for worker in list(self.idle):
            if self.scheduler.take(worker, self.now) is not None:
                self.idle.remove(worker)
                self.busy[worker] = None
        for worker in list(self.busy):
            what = self.draw(st.sampled_from(["go"] * 6 + (["silent", "die", "stop"] if self.killing else ["silent"])))
            if what == "go":
                self.go(worker)
            elif what != "silent":
                self.lose(worker, blame=what == "die" and self.busy[worker] is not None)

    def go(self, worker: int) -> None:
        lease, left = self.scheduler.leases[worker], self.busy[worker]
        rows = self.draw(st.integers(1, 3))
        if left is None:
            left = list(lease.only or ids(lease.work))
            self.scheduler.began(worker, left, tuple(left[:rows]), self.now)
        else:
            dropped = self.scheduler.drops(worker)
            left = [example_id for example_id in left if example_id not in dropped]
            if left:
                done = left.pop(0)
                self.kept[done] += self.scheduler.recorded(worker, done, self.now)
            self.scheduler.holds(worker, tuple(left[:rows]))
        self.busy[worker] = left
        if not left:
            self.scheduler.ended(worker)
            del self.busy[worker]
            self.idle.append(worker)

    def lose(self, worker: int, *, blame: bool) -> None:
        self.given_up |= {example_id for _, example_id in self.scheduler.lost(worker, self.now, blame=blame)}
        del self.busy[worker]
        self.idle.append(self.started)
        self.started += 1


@settings(max_examples=150, deadline=None)
@given(shape=WORKS, n_workers=st.integers(1, 4), data=st.data())
def test_every_sample_is_recorded_once_whatever_happens(shape, n_workers, data):
    works = [
        work(f"c{i}", n, model=model, method=method, cost=cost) for i, (n, model, method, cost) in enumerate(shape)
    ]
    simulation = Simulation(works, n_workers, data)
    for turn in range(400):
        simulation.killing = turn < 40
        if simulation.scheduler.finished:
            break
        simulation.act()
    expected = {example_id for each in works for example_id in ids(each)}
    assert simulation.scheduler.finished
    assert set(simulation.kept) - {e for e, n in simulation.kept.items() if not n} == expected - simulation.given_up
    assert all(n <= 1 for n in simulation.kept.values())
