"""The tasks that models are finetuned for and measured on: one line a task."""

from __future__ import annotations

from importlib import import_module

from model.downstream.measures import MeasuredTask
from model.errors import InputError

RETRIEVAL = "retrieval"
"""The task of jobs and history rows that name none."""

TASKS: dict[str, str] = {
    RETRIEVAL: "model.downstream.retrieval.measures",
    "vqa": "model.downstream.vqa.measures",
    "nlvr2": "model.downstream.nlvr2.measures",
    "snli-ve": "model.downstream.snli_ve.measures",
    "refcoco": "model.downstream.refcoco.measures",
    "vcr": "model.downstream.vcr.measures",
    "relevance": "model.downstream.relevance.measures",
}
"""Name -> the module whose `TASK` describes it, imported when the task is first asked for."""


def measured_task(name: str) -> MeasuredTask:
    """The description of a task's measures.

    Raises:
        InputError: there is no such task.
    """
    if name not in TASKS:
        raise InputError(f"there is no task {name!r}; known are {', '.join(TASKS)}")
    task: MeasuredTask = import_module(TASKS[name]).TASK
    return task
