"""What becomes of tasks whose workers end, on a crew that lives in this process and dies as it is told."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest

from kinolab.contracts.engine import (
    ALONE,
    STARTS,
    TOGETHER,
    TRIES,
    UNEXPLAINED,
    Answer,
    Crew,
    Done,
    Each,
    Engine,
    Job,
    Task,
)
from kinolab.contracts.events import Silent
from kinolab.errors import InputError, Stopped

HANGS = Answer(-1, "dead")
"""What comes back of a worker that hangs: nothing."""


class Plain:
    """Adds up the parts of a task."""

    def worker(self, number: int) -> Any:
        return self

    def name(self, part: Any) -> str:
        return f"clip {part}"


class Pretended(Crew):
    """Workers that answer one at a time; `fate` says what becomes of a call."""

    def __init__(self, fate: Callable[[int, str, Any], Answer | None]) -> None:
        self.fate, self.answers, self.alive = fate, deque[Answer](), set[int]()
        self.calls: list[tuple[int, str, Any]] = []

    def begin(self, number: int) -> None:
        self.alive.add(number)
        self.answers.append(self.fate(number, "begin", None) or Answer(number, "ready"))

    def give(self, number: int, call: Literal["run", "probe"], given: Any) -> None:
        assert number in self.alive
        self.calls.append((number, call, given))
        value = sum(given.parts) if call == "run" else None
        answer = self.fate(number, call, given) or Answer(number, "done", value)
        if answer is not HANGS:
            self.answers.append(answer)

    def wait(self, seconds: float) -> list[Answer]:
        if not self.answers:
            return []
        answer = self.answers.popleft()
        if answer.kind == "dead":
            self.alive.discard(answer.worker)
        return [answer]

    def dismiss(self, number: int) -> None:
        self.alive.discard(number)

    def close(self) -> None:
        self.alive.clear()


class Here(Engine):
    def __init__(self, workers: int, crew: Pretended) -> None:
        super().__init__(workers)
        self.one = crew

    def crew(self, job: Job, workers: int) -> Crew:
        assert workers <= self.workers
        return self.one


class Heard(Silent):
    def __init__(self, stop: bool = False) -> None:
        self.notes: list[str] = []
        self.stop = stop

    @property
    def stopping(self) -> bool:
        return self.stop

    def note(self, text: str) -> None:
        self.notes.append(text)


TASKS = [Task(f"t{k}", tuple(range(10 * k, 10 * k + 3))) for k in range(4)]


def done(crew: Pretended, tasks: Sequence[Task] = TASKS, workers: int = 2, events: Heard | None = None) -> list[Done]:
    found = list(Here(workers, crew).run(Plain(), tasks, events or Heard()))
    assert not crew.alive
    return sorted(found, key=lambda each: each.task.key)


def poisoned(*parts: int, kind: Literal["dead", "failed"] = "dead") -> Callable[[int, str, Any], Answer | None]:
    def fate(number: int, call: str, given: Any) -> Answer | None:
        held = given.parts if call == "run" else (given,)
        return Answer(number, kind, "killed by SIGSEGV") if set(held) & set(parts) else None

    return fate


def test_every_task_is_done_once() -> None:
    crew = Pretended(lambda *_: None)
    assert [(d.task, d.value, d.left) for d in done(crew)] == [(t, sum(t.parts), ()) for t in TASKS]
    assert len(crew.calls) == len(TASKS) and {number for number, _, _ in crew.calls} == {0, 1}


def test_no_more_workers_begin_than_there_are_tasks() -> None:
    crew = Pretended(lambda *_: None)
    assert len(done(crew, TASKS[:1], workers=5)) == 1 and {number for number, _, _ in crew.calls} == {0}
    assert done(Pretended(lambda *_: None), ()) == []


@pytest.mark.parametrize("kind", ["dead", "failed"])
def test_a_worker_that_ends_is_replaced_and_its_task_done_by_another(kind: Literal["dead", "failed"]) -> None:
    ended = Counter[str]()

    def fate(number: int, call: str, given: Any) -> Answer | None:
        if call != "run" or ended[given.key]:
            return None
        ended[given.key] += 1
        return Answer(number, kind, "killed by SIGKILL")

    crew, heard = Pretended(fate), Heard()
    assert [(d.value, d.left) for d in done(crew, events=heard)] == [(sum(t.parts), ()) for t in TASKS]
    assert len(heard.notes) == 4 and "killed by SIGKILL" in heard.notes[0] and "and 2 more" in heard.notes[0]
    for task in TASKS:
        first, second = (number for number, _, given in crew.calls if given == task)
        assert first != second


@pytest.mark.parametrize("kind", ["dead", "failed"])
def test_a_clip_that_ends_every_worker_is_left_out_of_its_task(kind: Literal["dead", "failed"]) -> None:
    crew = Pretended(poisoned(11, kind=kind))
    found = done(crew)
    assert [d.value for d in found] == [3, 22, 63, 93]
    assert found[1].task == Task("t1", (10, 12)) and [(x.part, x.why) for x in found[1].left] == [
        (11, "killed by SIGSEGV")
    ]
    tried = [number for number, call, given in crew.calls if given == 11 or (call == "run" and 11 in given.parts)]
    assert len(tried) == len(set(tried)) == TOGETHER + ALONE >= TRIES, "each time by another worker"
    assert sum(call == "probe" and given in (10, 12) for _, call, given in crew.calls) == 2


def test_of_a_task_of_one_clip_three_workers_are_enough() -> None:
    crew = Pretended(poisoned(1))
    found = done(crew, [Task("a", (0,)), Task("b", (1,))])
    assert [(d.value, len(d.left)) for d in found] == [(0, 0), (None, 1)]
    assert sum(call == "run" and given.parts == (1,) for _, call, given in crew.calls) == TRIES


def test_all_clips_of_a_task_may_be_poison() -> None:
    [found] = done(Pretended(poisoned(0, 1, 2)), TASKS[:1])
    assert found.value is None and [x.part for x in found.left] == [0, 1, 2]


def test_a_task_that_ends_workers_although_each_of_its_clips_is_well_is_left_out() -> None:
    def fate(number: int, call: str, given: Any) -> Answer | None:
        return Answer(number, "dead", "killed by SIGKILL") if call == "run" and 0 in given.parts else None

    crew = Pretended(fate)
    found = done(crew)
    assert [len(d.left) for d in found] == [3, 0, 0, 0] and found[0].value is None
    assert sum(call == "run" and 0 in given.parts for _, call, given in crew.calls) == UNEXPLAINED


def test_workers_killed_by_chance_while_clips_are_tried_cost_no_clip() -> None:
    """Twice over the task, and once over each clip by itself."""
    ended = Counter[Any]()

    def fate(number: int, call: str, given: Any) -> Answer | None:
        if call == "begin":
            return None
        ended[given] += 1
        few = TOGETHER if call == "run" else 1
        return Answer(number, "dead", "killed by SIGKILL") if ended[given] <= few else None

    assert [(d.value, d.left) for d in done(Pretended(fate))] == [(sum(t.parts), ()) for t in TASKS]


def test_a_mistake_ends_the_job() -> None:
    crew = Pretended(lambda n, call, given: Answer(n, "mistake", InputError("no such model")))
    with pytest.raises(InputError, match="no such model"):
        done(crew)
    assert not crew.alive
    crew = Pretended(lambda n, call, given: Answer(n, "mistake", OSError(28, "full")) if call == "run" else None)
    with pytest.raises(OSError, match="full"):
        done(crew)


def test_workers_that_end_before_they_do_anything_are_given_up() -> None:
    crew = Pretended(lambda n, call, given: Answer(n, "dead", "exit status 1"))
    with pytest.raises(InputError, match=r"before they do anything \(exit status 1\)"):
        done(crew)
    begun: list[int] = []

    def fate(number: int, call: str, given: Any) -> Answer | None:
        if call != "begin" or len(begun) >= STARTS - 1:
            return None
        begun.append(number)
        return Answer(number, "dead", "exit status 1")

    assert len(done(Pretended(fate))) == len(TASKS), "a few may"


def test_it_stops_when_that_is_asked() -> None:
    crew, found = Pretended(lambda *_: None), list[Done]()
    heard = Heard()
    with pytest.raises(Stopped):
        for each in Here(2, crew).run(Plain(), TASKS, heard):
            found.append(each)
            heard.stop = True
    assert len(found) == 1 and not crew.alive


def test_a_worker_that_hangs_is_ended_and_its_task_done_by_another() -> None:
    hung = list[tuple[int, Task]]()

    def fate(number: int, call: str, given: Any) -> Answer | None:
        if call == "run" and not hung and given.key == "t2":
            hung.append((number, given))
            return HANGS
        return None

    crew, heard = Pretended(fate), Heard()
    engine = Here(2, crew)
    engine.give_each(Each(seconds=0.02))
    found = list(engine.run(Plain(), TASKS, heard))
    assert sorted(d.value for d in found) == [3, 33, 63, 93] and all(not d.left for d in found)
    assert heard.notes == ["a worker ended (no answer for 0.06 s) at clip 20 and 2 more; another one tries again"]
    again = [number for number, _, given in crew.calls if given == TASKS[2]]
    assert len(again) == 2 and again[0] == hung[0][0] != again[1]


def test_a_clip_over_which_every_worker_hangs_is_left_out() -> None:
    def fate(number: int, call: str, given: Any) -> Answer | None:
        return HANGS if 21 in (given.parts if call == "run" else [given]) else None

    engine = Here(2, Pretended(lambda *call: None if call[1] == "begin" else fate(*call)))
    engine.give_each(Each(seconds=0.01))
    found = {d.task.key: (d.value, [(x.part, x.why) for x in d.left]) for d in engine.run(Plain(), TASKS, Silent())}
    assert found["t2"] == (42, [(21, "no answer for 0.01 s")]) and found["t3"] == (93, [])
