"""Many workers measure what one would, whoever of them dies and when."""

import math
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cluster.driver import Loss
from harness.cluster.worker import Facts
from harness.errors import RequestError
from methods.longrope.search.candidate import Candidate
from methods.longrope.search.evaluator import Ask, Draw
from methods.longrope.search.pooled import STRIKES, Answer, PooledEvaluator, Task, Workers
from methods.longrope.search.state import SearchFolder
from tests.methods.longrope.search.fakes import Bowl, facts, problem, run
from tests.methods.longrope.search.test_loop import numbers

VERSIONS = {"Python": "3"}
CRASH, NODE = Loss(reason="it was killed"), Loss(reason="its node died", blame=False)


class Pool:
    """Workers in this process. They answer in any order, and die as `dies` says: worker, task -> a loss, or None."""

    def __init__(self, n=3, *, dies=lambda worker, task: None, order=lambda workers: workers, versions=VERSIONS):
        self.n, self.dies, self.order, self.versions = n, dies, order, versions
        self.due, self.n_started, self.stopped = {}, 0, []
        self.sent, self.bowl = Counter(), Bowl()

    def room(self) -> int:
        return self.n

    def start(self) -> int:
        self.n_started += 1
        self.due[self.n_started] = "facts"
        return self.n_started

    def stop(self, worker: int) -> None:
        self.due.pop(worker, None)
        self.stopped.append(worker)

    def send(self, worker: int, task: Task | None) -> None:
        assert self.due[worker] == "nothing"
        self.due[worker] = task
        if task is not None:
            self.sent[key(task)] += 1

    def events(self, timeout_s: float):
        busy = [worker for worker, due in self.due.items() if due != "nothing"]
        found = []
        for worker in self.order(busy):
            task = self.due[worker]
            loss = self.dies(worker, task)
            if isinstance(loss, Loss):
                del self.due[worker]
            else:
                self.due[worker] = "nothing"
            found.append((worker, loss if loss is not None else self.answer(worker, task)))
        return found

    def answer(self, worker: int, task):
        if task == "facts":
            return Facts(host="here", pid=worker, versions=self.versions, environment={"device": f"of {worker}"})
        if task is None:
            return Answer()
        (measured,) = self.bowl.measure(task.ask)
        return Answer(measured=replace(measured, loss=-measured.loss) if task.judges else measured)


def key(task: Task):
    return task.ask.candidates[0].key, task.ask.draw, task.ask.measure


def ask(n: int, measure="loss") -> Ask:
    candidates = tuple(Candidate(rescale_factors=(1.0 + i,) * 8, origin="step") for i in range(n))
    return Ask(candidates=candidates, draw=Draw(seq_len=256, n_documents=2), measure=measure)


def workers(pool: Pool, **told) -> Workers:
    return Workers(pool, versions=VERSIONS, **told)


def told_by(measured) -> list:
    return [
        (found.loss, found.losses, found.gradient and found.gradient.log_rescale_factors_P.tolist())
        for found in measured
    ]


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    n_workers=st.integers(1, 5),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    death=st.floats(0, 0.4),
)
def test_answers_come_in_order_and_only_what_a_lost_worker_held_is_measured_again(seed, n_workers, sizes, death):
    chance, lost, blamed = random.Random(seed), Counter(), Counter()

    def dies(worker, task):
        if chance.random() >= death:
            return None
        if not isinstance(task, Task):
            return NODE
        loss = chance.choice([NODE, CRASH] if blamed[key(task)] < STRIKES - 1 else [NODE])
        lost[key(task)] += 1
        blamed[key(task)] += loss.blame
        return loss

    def order(busy):
        return chance.sample(busy, chance.randint(0, len(busy)))

    pool = Pool(n_workers, dies=dies, order=order)
    many = workers(pool)
    for size, measure in zip(sizes, ("loss", "gradient", "short_loss"), strict=False):
        assert told_by(many.measure(ask(size, measure))) == told_by(Bowl().measure(ask(size, measure)))
    assert pool.sent == Counter(dict.fromkeys(pool.sent, 1)) + lost


def test_a_search_by_many_ends_where_one_s_does_whoever_dies(tmp_path):
    alone = run(tmp_path / "alone", Bowl(nan_every=7))
    seen = Counter()

    def dies(worker, task):
        seen["asked"] += 1
        return CRASH if isinstance(task, Task) and seen["asked"] % 5 == 0 else None

    pool = Pool(4, dies=dies, order=lambda busy: busy[::-1])
    pool.bowl = Bowl(nan_every=7)
    found = run(tmp_path / "many", PooledEvaluator(workers=workers(pool)), group_size=sys.maxsize)
    assert numbers(found) == numbers(alone)
    assert any(math.isnan(tried.loss) for tried in found.tried)
    assert pool.n_started > 4


def test_what_is_answered_is_on_disk_before_the_question_ends(tmp_path):
    stop = Counter()

    def dies(worker, task):
        stop["measured"] += isinstance(task, Task)
        if stop["measured"] > 8:
            raise KeyboardInterrupt

    pool = Pool(1, dies=dies)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, PooledEvaluator(workers=workers(pool)), group_size=sys.maxsize)
    state = SearchFolder(tmp_path).read(facts(problem()))
    assert len(state.archive) == len(pool.bowl.measured) == 8
    rest = Pool(1)
    run(tmp_path, PooledEvaluator(workers=workers(rest)), group_size=sys.maxsize)
    assert not set(rest.bowl.measured) & set(pool.bowl.measured)


def test_a_candidate_that_takes_two_workers_with_it_ends_the_search_in_one_line():
    asked = ask(5)
    bad = asked.candidates[3]
    pool = Pool(2, dies=lambda worker, task: CRASH if isinstance(task, Task) and bad in task.ask.candidates else None)
    with pytest.raises(RequestError) as refused:
        list(workers(pool).measure(asked))
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"candidate {bad.key[:8]} ('step'): 2 workers were lost while they measured its loss on 2 ")
    assert "documents of 256 tokens; the last: it was killed: what was measured is kept" in line


def test_workers_that_never_get_ready_are_said():
    pool = Pool(2, dies=lambda worker, task: CRASH if task is None else None)
    with pytest.raises(RequestError, match=r"\d workers could not start and load the model; the last one said: it was"):
        list(workers(pool).measure(ask(5)))


def test_a_worker_with_other_versions_is_refused():
    with pytest.raises(RequestError, match="worker on here: Python is 2 there and 3 here"):
        list(workers(Pool(versions={"Python": "2"})).measure(ask(2)))


def test_workers_are_as_many_as_there_is_work_and_room_for_and_stay_for_the_next_question():
    pool = Pool(4)
    many = workers(pool)
    for n, there in ((2, 2), (9, 4), (1, 4)):
        many._grown = 0.0
        list(many.measure(ask(n)))
        assert pool.n_started == there
    many.close()
    assert sorted(pool.stopped) == [1, 2, 3, 4]


def test_a_worker_that_was_asked_to_stop_answers_what_it_has_in_hand_and_is_replaced():
    class Leaving(Pool):
        def answer(self, worker, task):
            said = super().answer(worker, task)
            return replace(said, leaving="it was asked to stop") if isinstance(task, Task) and worker < 3 else said

    pool, said = Leaving(1), []
    assert told_by(workers(pool, says=said.append).measure(ask(4))) == told_by(Bowl().measure(ask(4)))
    assert set(pool.sent.values()) == {1}
    assert said == [
        "worker 1 measures: here:1",
        "worker 1 was lost: it was asked to stop",
        "worker 2 measures: here:2",
        "worker 2 was lost: it was asked to stop",
        "worker 3 measures: here:3",
    ]


def test_how_many_workers_measure_is_told_and_where_the_first_one_is():
    counts = []
    many = workers(
        Pool(2, dies=lambda w, task: NODE if (w, isinstance(task, Task)) == (1, True) else None), works=counts.append
    )
    list(many.measure(ask(6)))
    assert counts[:2] == [2, 1]
    assert many.environment == {"device": "of 1"}


def test_the_report_s_judge_shares_the_workers():
    pool = Pool(1)
    many = workers(pool)
    ((own, _, _),) = told_by(PooledEvaluator(workers=many).measure(ask(1)))
    ((judged, _, _),) = told_by(PooledEvaluator(workers=many, judges=True).measure(ask(1)))
    assert judged == -own
    assert pool.n_started == 1


def test_nothing_of_a_search_on_many_workers_needs_ray():
    script = "import sys, harness.cluster.search; print({'ray', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
