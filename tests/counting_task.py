"""A task of a test, trained: how many regions are cats, 0 to 3, by a linear head on [CLS]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import FinetuneLoopConfig
from model.data.examples import Examples
from model.downstream.example_batches import ExampleBatch, ExampleData, example_batches, open_examples, predictions
from model.downstream.measures import Measure, Measured, MeasuredTask, TaskMeasures
from model.downstream.task import Scores, Task
from model.families.config import HeadConfig
from model.families.embeddings import dequantise
from model.families.model import VisionLanguageModel
from model.training.loop import Validation
from model.training.losses import LossSums

ACCURACY = Measure(name="accuracy", label="accuracy")


class CountingConfig(FinetuneLoopConfig):
    """Nothing beside the loop."""


def logits(model: VisionLanguageModel, batch: ExampleBatch) -> Tensor:
    images = model.bert.embed_regions(batch.regions, dequantise(batch.regions))
    scores: Tensor = model.head("cats")(model.bert.cls_states(model.bert.embed_words(batch.words), images))
    return scores


def losses(model: VisionLanguageModel, batch: ExampleBatch, config: CountingConfig, step: int) -> LossSums:
    scores = logits(model, batch)
    right = (scores.argmax(1) == batch.targets).sum().float()
    return LossSums(("count",), F.cross_entropy(scores, batch.targets, reduction="sum")[None], right[None])


def validation(data: ExampleData, job: Any, device: torch.device) -> Validation:
    batch = data.read(torch.arange(len(data.examples)).numpy()).to(device)

    def accuracy(model: VisionLanguageModel) -> dict[str, float]:
        with torch.no_grad():
            return {"validation_accuracy": float((logits(model, batch).argmax(1) == batch.targets).float().mean())}

    return Validation(("validation_accuracy",), accuracy)


def measure(examples: Examples, scores: Scores) -> dict[str, Any]:
    right = scores.argmax(1) == examples.target_index
    return {"accuracy": float(right.mean()), "examples": len(examples)}


def read(metrics: Mapping[str, Any]) -> list[TaskMeasures]:
    measured = Measured(measure=ACCURACY, value=metrics["accuracy"])
    return [TaskMeasures(task="cats", protocol="pictures", examples=metrics["examples"], measured=(measured,))]


TRAINED: Task[ExampleData, ExampleBatch, CountingConfig] = Task(
    name="cats",
    open=open_examples,
    heads=lambda data: {"cats": HeadConfig(kind="linear", width=4)},
    batches=example_batches,
    losses=losses,
    validation=validation,
    predictions=predictions(logits, measure),
)
TASK = MeasuredTask(
    name="cats",
    subject="accuracy",
    main=ACCURACY,
    brief=(ACCURACY,),
    read=read,
    config=CountingConfig,
    trained_by="tests.counting_task",
)
