"""Means with bootstrap intervals over images, and how history and tables read them."""

from __future__ import annotations

import numpy as np
import pytest

from model.downstream.bootstrap import RESAMPLES, SEED, drawn_times, percentile_intervals
from model.downstream.figures import Figure, Group, TaskFigures, mean_figures
from model.downstream.tasks import TASKS, measured_task


def test_an_interval_is_that_of_a_slow_bootstrap_over_images() -> None:
    random = np.random.default_rng(3)
    images = [f"image {place}" for place in random.integers(20, size=90)]
    values = random.random(90)
    some = list(range(0, 90, 7))
    groups = {"all": Group(images, values), "some": Group([images[row] for row in some], values[some])}
    found = mean_figures(groups)
    assert found["all"].value == values.mean() and found["some"].examples == len(some)

    names = list(dict.fromkeys(images))
    for name, group in groups.items():
        means = []
        for times in np.concatenate(list(drawn_times(len(names), np.random.default_rng(SEED)))):
            drawn = [
                value
                for number, image in enumerate(names)
                for _ in range(int(times[number]))
                for value in [one for where, one in zip(group.images, group.values, strict=True) if where == image]
            ]
            if drawn:
                means.append(np.mean(drawn))
        assert found[name].interval == pytest.approx(np.percentile(means, (2.5, 97.5)))


def test_each_resample_draws_as_many_images_as_there_are() -> None:
    times = np.concatenate(list(drawn_times(7, np.random.default_rng(1))))
    assert times.shape == (RESAMPLES, 7) and (times.sum(1) == 7).all() and times.std() > 0.5


def test_the_same_examples_have_the_same_interval() -> None:
    group = {"accuracy": Group(["a", "b", "c"], np.array([1.0, 0, 1]))}
    assert mean_figures(group) == mean_figures(group)


def test_resamples_without_an_example_do_not_count() -> None:
    images = ["a", *"bcdefghij"]
    found = mean_figures({"one": Group(["a"], np.array([0.5])), "all": Group(images, np.ones(10))})
    assert found["one"] == Figure(value=0.5, interval=(0.5, 0.5), examples=1)
    assert percentile_intervals(np.array([[np.nan], [2.0], [2.0]])) == [(2.0, 2.0)]


@pytest.mark.parametrize("name", [name for name in TASKS if name != "retrieval"])
def test_a_task_reads_its_figures_and_no_others(name: str) -> None:
    task = measured_task(name)
    figure = Figure(value=0.5, interval=(0.25, 0.75), examples=4)
    figures = dict.fromkeys((*task.names, "question_type/how many"), figure)
    metrics = TaskFigures(task=name, protocol="4 examples", examples=4, images=2, figures=figures).model_dump()
    (measures,) = task.measures(metrics)
    assert measures.examples == 4 and measures.protocol == "4 examples"
    assert {one.measure.name for one in measures.measured} == task.names
    assert measures.measured[0].interval == (0.25, 0.75)
    with pytest.raises(ValueError, match="are metrics of ears"):
        task.measures(metrics | {"task": "ears"})
    with pytest.raises(ValueError, match=f"{name} metrics have no {task.main.name}"):
        task.measures(metrics | {"figures": {}})
