"""What a task is that models are finetuned for: its data, heads, batches, loss, validation and predictions.

One task is one module of this folder and one line in `TASKS` (`tasks.py`), which names the module of its measures.
These say in `trained_by` which module holds its `TRAINED`; where a task is one file, both are there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from model.config import LongTexts, LoopConfig
from model.data.feed import B
from model.data.order import Index, Part
from model.data.store import FeatureStore
from model.data.tokenizer import Vocabulary
from model.downstream.tasks import measured_task
from model.errors import InputError
from model.families.config import EncoderConfig, Heads
from model.families.model import VisionLanguageModel
from model.training.loop import Validation
from model.training.losses import LossSums

Scores = npt.NDArray[np.float32]


class TaskData(Protocol):
    """A split as a task reads it."""

    @property
    def store(self) -> FeatureStore: ...
    @property
    def identity(self) -> dict[str, Any]:
        """Digests of all that was read, as JSON."""

    @property
    def dropped(self) -> int:
        """How many more the split has, whose texts are too long."""


D = TypeVar("D", bound=TaskData)
C = TypeVar("C", bound=LoopConfig)


@dataclass(frozen=True)
class Predictions(Generic[D]):
    """How a task answers the examples of a split.

    Attributes:
        ids: of the examples, in the order of their rows.
        scores: (rows, W) f32 of some rows; higher is likelier. The model is in evaluation mode.
        measure: scores (examples, W) to the content of metrics.json, as the task's `MeasuredTask.read` takes it. None
            where the examples have no targets.
    """

    ids: Callable[[D], list[str]]
    scores: Callable[[VisionLanguageModel, D, Index, torch.device], Scores]
    measure: Callable[[D, Scores], dict[str, Any] | None]


@dataclass(frozen=True)
class Task(Generic[D, B, C]):
    """A task that models are finetuned for.

    Attributes:
        name: as in `TASKS`.
        open: an `ExampleSource`, or retrieval's `FeatureSource`, with what is made of its texts.
        heads: those that the losses read.
        batches: makes the batch of a step, or a part of it, which depends on the seed and the step alone.
        losses: of a part of the batch, in a step counted from 0.
        validation: held-out measures; the config is the job's, which also says how much of the split is read.
        predictions: what `model.predict` makes. None: `model.scoring` scores every image with every caption instead.
    """

    name: str
    open: Callable[[Any, Vocabulary, EncoderConfig, LongTexts], D]
    heads: Callable[[D], Heads]
    batches: Callable[[D, EncoderConfig, C], Callable[[int, Part], B]]
    losses: Callable[[VisionLanguageModel, B, C, int], LossSums]
    validation: Callable[[D, Any, torch.device], Validation]
    predictions: Predictions[D] | None = None


def trained_task(name: str) -> Task[Any, Any, Any]:
    """The description of a task's training.

    Raises:
        InputError: there is no such task, or nothing is trained for it.
    """
    module = measured_task(name).trained_by
    if module is None:
        raise InputError(f"task {name!r} is measured only; its description names no module in trained_by")
    found: Task[Any, Any, Any] = import_module(module).TRAINED
    assert found.name == name, (found.name, name)
    return found
