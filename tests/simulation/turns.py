"""Turns: simulated processes are threads of which one runs at a time; who is next is the seed's choice."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable


class Killed(BaseException):
    """The process is no more. Nothing that it still tries has any effect."""


class Task:
    """One simulated process."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.dead = False
        self.done = False
        self.wakes_at = 0.0
        self.error: BaseException | None = None
        self.go = threading.Lock()
        self.go.acquire()


class Turns:
    """Runs tasks to their end, switching between them wherever one pauses."""

    def __init__(self, choice: random.Random) -> None:
        self._choice = choice
        self._finished = threading.Lock()
        self._finished.acquire()
        self.tasks: list[Task] = []
        self.current: Task | None = None
        self.now = 0.0
        """Seconds since the machine was switched on."""

    def run(self, works: list[Callable[[Task], None]]) -> list[Task]:
        """Let each have its own task; all of them, once each is done or dead."""
        self.tasks = [Task(number) for number in range(len(works))]
        threads = [
            threading.Thread(target=self._work, args=(task, work), daemon=True)
            for task, work in zip(self.tasks, works, strict=True)
        ]
        for thread in threads:
            thread.start()
        first = self._next()
        assert first is not None
        self.current = first
        first.go.release()
        self._finished.acquire()
        for thread in threads:
            thread.join()
        tasks, self.tasks, self.current = self.tasks, [], None
        for task in tasks:
            if task.error is not None:
                raise task.error
        return tasks

    def pause(self) -> None:
        """Let whoever is next go on."""
        me = self.current
        if me is None:
            return
        following = self._next()
        if following is not me:
            assert following is not None
            self.current = following
            following.go.release()
            me.go.acquire()
        self.check()

    def sleep(self, seconds: float) -> None:
        """As `time.sleep`; a sleeper may sleep longer, and often does."""
        seconds *= self._choice.choice((1, 20, 400))
        if self.current is None:
            self.now += seconds
            return
        self.current.wakes_at = self.now + seconds
        self.pause()

    def check(self) -> None:
        if self.current is not None and self.current.dead:
            raise Killed

    def _next(self) -> Task | None:
        waiting = [task for task in self.tasks if not task.done]
        if not waiting:
            return None
        ready = [task for task in waiting if task.dead or task.wakes_at <= self.now]
        if not ready:
            soonest = min(waiting, key=lambda task: task.wakes_at)
            self.now = soonest.wakes_at
            return soonest
        return ready[0] if len(ready) == 1 else self._choice.choice(ready)

    def _work(self, task: Task, work: Callable[[Task], None]) -> None:
        task.go.acquire()
        try:
            if not task.dead:
                work(task)
        except Killed:
            task.dead = True
        except BaseException as error:
            task.error = error
            for other in self.tasks:
                other.dead = True
        task.done = True
        following = self._next()
        if following is None:
            self._finished.release()
        else:
            self.current = following
            following.go.release()
