"""A measure says how it is shown and which way is better; a task's metrics hold all that it is told by."""

from __future__ import annotations

import subprocess
import sys

import pytest

from model.downstream.measures import Measure
from model.downstream.tasks import TASKS, measured_task
from model.errors import InputError
from tests import toy_task


def test_a_percent_is_a_fraction_times_100_and_a_number_is_as_it_is() -> None:
    accuracy = Measure(name="accuracy", label="accuracy")
    loss = Measure(name="loss", label="loss", unit="number", decimals=3, higher_is_better=False)
    assert (accuracy.text(0.7271), accuracy.change(-0.012), accuracy.change(0.5)) == ("72.7", "-1.2", "+50.0")
    assert (loss.text(1234.5), loss.change(0.25)) == ("1,234.500", "+0.250")
    assert (accuracy.gain(0.5, 0.75), loss.gain(0.5, 0.75)) == (0.25, -0.25)
    assert accuracy.column == "accuracy"


@pytest.mark.parametrize("name", list(TASKS))
def test_every_task_is_found_by_its_name(name: str) -> None:
    task = measured_task(name)
    assert task.name == name and task.brief
    assert task.watch.higher_is_better == task.main.higher_is_better


def test_an_unknown_task_is_named_with_those_that_are_known() -> None:
    with pytest.raises(InputError, match=r"there is no task 'ears'; known are retrieval"):
        measured_task("ears")


def test_metrics_without_what_the_task_is_told_by_are_none_of_it() -> None:
    metrics = {"pictures": 1, "error": 1.0, "accuracy": 0.5, "empty": 0.5}
    (found,) = toy_task.TASK.measures(metrics)
    assert found.value(toy_task.ERROR) == 1.0 and found.get("recall") is None
    with pytest.raises(ValueError, match="no metrics of counting dots"):
        toy_task.TASK.measures({})
    with pytest.raises(ValueError, match="retrieval metrics have no image_to_text_r1"):
        recalls = {"image_to_text_recall": {"5": 0.5}, "text_to_image_recall": {"5": 0.5}}
        ranks = {"image_to_text_median_rank": 1, "text_to_image_median_rank": 1}
        measured_task("retrieval").measures({"images": 1, "captions": 1, **recalls, **ranks})


def test_names_of_tasks_cost_neither_numpy_nor_torch() -> None:
    code = "import sys, model.downstream.tasks; print({'numpy', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
