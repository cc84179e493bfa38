"""Tasks through worker processes, results in the order of the tasks. A file that kills its worker is found."""

from __future__ import annotations

import logging
import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import Any

from clarion.llm.corpus import worker
from clarion.llm.corpus.document import Problem
from clarion.llm.corpus.sources import Task
from clarion.llm.corpus.worker import Result, Worker

log = logging.getLogger(__name__)
AHEAD = 2  # tasks a worker has waiting: bounds memory


class Pool:
    """workers=0 works in this process. A task that kills its worker, or takes longer than extract.max_seconds, is
    halved until the one file or record is found; that one becomes a problem (crashed), the others go on."""

    def __init__(self, spec: Mapping[str, Any], tokenizer: str | None, secret: str):
        self.arguments = (spec, tokenizer, secret)
        self.workers, self.patience = spec["workers"], spec["extract"]["max_seconds"]
        self.executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop()

    def __call__(self, tasks: Iterable[Task]) -> Iterator[Result]:
        if self.workers == 0:
            yield from map(Worker(*self.arguments), tasks)
            return
        waiting: deque[tuple[Task, Future]] = deque()
        iterator = iter(tasks)
        more = True
        while more or waiting:
            while more and len(waiting) < self.workers * AHEAD:
                task = next(iterator, None)
                if task is None:
                    more = False
                else:
                    waiting.append((task, self._submit(task)))
            if not waiting:
                return
            task, future = waiting.popleft()
            try:
                yield future.result(timeout=self.patience)
            except (BrokenProcessPool, FutureTimeout):
                log.warning("a worker process died or hung; its tasks are repeated one by one")
                unfinished = [task, *(t for t, _ in waiting)]
                waiting.clear()
                self._stop()
                yield from map(self._alone, unfinished)

    def _submit(self, task: Task) -> Future:
        try:
            return self._started().submit(worker.work, task)
        except BrokenProcessPool as error:  # it died between two results: the wait for this task finds out
            future: Future = Future()
            future.set_exception(error)
            return future

    def _started(self) -> ProcessPoolExecutor:
        if self.executor is None:
            self.executor = ProcessPoolExecutor(
                self.workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=worker.start,
                initargs=self.arguments,
            )
        return self.executor

    def _stop(self) -> None:
        """End the worker processes at once, hanging ones too."""
        if self.executor is None:
            return
        processes = list((self.executor._processes or {}).values())
        self.executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        self.executor = None

    def _alone(self, task: Task) -> Result:
        try:
            return self._started().submit(worker.work, task).result(timeout=self.patience)
        except (BrokenProcessPool, FutureTimeout):
            self._stop()
        halves = halved(task)
        if not halves:
            where = "" if not (task.lines or task.documents) else f"record {task.first + 1} "
            text = f"{where}makes its reader crash or hang: open it in its own program and save it anew, or remove it."
            problem = Problem("crashed", task.files[0].name, text)
            return Result(problems=[*task.problems, problem])
        merged = Result()
        for result in map(self._alone, halves):
            merged.finished += result.finished
            merged.problems += result.problems
            merged.characters += result.characters
            for name in ("dropped", "read", "languages_dropped"):
                getattr(merged, name).update(getattr(result, name))
        return merged


def halved(task: Task) -> list[Task]:
    """Two tasks that together are this one; none for a task of a single file or record."""
    for name in ("lines", "documents"):
        records = getattr(task, name)
        if len(records) > 1:
            middle = len(records) // 2
            second = replace(task, **{name: records[middle:]}, problems=[], first=task.first + middle)
            return [replace(task, **{name: records[:middle]}), second]
        if records:
            return []
    middle = len(task.files) // 2
    return [replace(task, files=task.files[:middle]), Task(task.files[middle:])] if middle else []
