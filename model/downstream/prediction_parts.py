"""A task's predictions on disk: the scores of every example, made part by part and joined.

    FOLDER/plan.json             what the scores are of, and how they are cut
           scores-00000.npy      (rows, W) f32; there under this name once it is whole, and until all are joined
           metrics.json          where the examples have targets
           predictions.parquet   id and scores of every example, in the order of the table of examples; written last

A part that is there is not computed again: that is all of resuming.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.errors import InputError
from model.publish import part_of, publish, write_whole

PREDICTIONS_FORMAT = "predictions/1"
PLAN, PREDICTIONS, METRICS = "plan.json", "predictions.parquet", "metrics.json"

Floats = npt.NDArray[np.float32]


class PredictionPlan(BaseModel):
    """The identity of a folder's predictions, and the cut into parts. Parts of different plans never mix."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = PREDICTIONS_FORMAT
    task: str
    examples: int
    rows: int = Field(description="examples a part; the last part may have fewer")
    identity: dict[str, Any] = Field(description="digests of weights, vocabulary, features and examples")

    @property
    def parts(self) -> int:
        return -(-self.examples // self.rows)

    def rows_of(self, part: int) -> range:
        return range(part * self.rows, min((part + 1) * self.rows, self.examples))


def begin_predictions(folder: Path, plan: PredictionPlan) -> PredictionPlan:
    """Prepare the folder for parts, or go on with those that are there.

    Returns:
        The plan by which the folder's parts are cut.

    Raises:
        InputError: the folder holds predictions of something else.
    """
    if not (folder / PLAN).exists():
        write_whole(folder / PLAN, plan.model_dump_json(indent=2) + "\n")
        return plan
    present = read_plan(folder)
    if present.model_copy(update={"rows": plan.rows}) != plan:
        raise InputError(
            f"{folder} holds predictions of another task, weights or data; remove it, or predict into another folder"
        )
    return present


def read_plan(folder: Path) -> PredictionPlan:
    """
    Raises:
        InputError: there is none, or it is damaged or of another version.
    """
    path = folder / PLAN
    try:
        plan = PredictionPlan.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{folder} holds no predictions: {PLAN} is missing; predict first") from error
    except ValidationError as error:
        raise _damaged(path, error.errors()[0]["msg"]) from error
    if plan.format != PREDICTIONS_FORMAT:
        raise InputError(f"{path} is of format {plan.format}, this program reads {PREDICTIONS_FORMAT}; predict again")
    return plan


def missing_parts(folder: Path, plan: PredictionPlan) -> list[int]:
    """Numbers of the parts that are not there."""
    return [part for part in range(plan.parts) if not (folder / part_name(part)).exists()]


def part_name(part: int) -> str:
    return f"scores-{part:05d}.npy"


def write_part(folder: Path, plan: PredictionPlan, part: int, scores: Floats) -> None:
    """Publish the scores (rows, W) of a part, whole."""
    assert len(scores) == len(plan.rows_of(part)), (scores.shape, plan, part)
    path = folder / part_name(part)
    with part_of(path).open("wb") as stream:
        np.save(stream, scores)
    publish(path)


def join_parts(folder: Path, plan: PredictionPlan) -> Floats:
    """The scores (examples, W) of all parts.

    Raises:
        InputError: a part is damaged.
    """
    return np.concatenate([_read_part(folder / part_name(part)) for part in range(plan.parts)])


def write_predictions(folder: Path, plan: PredictionPlan, ids: Sequence[str], scores: Floats) -> None:
    """Publish predictions.parquet, which says that all is done, and remove the parts."""
    path = folder / PREDICTIONS
    table = pa.table({"id": pa.array(ids, pa.string()), "scores": pa.array(list(scores), pa.list_(pa.float32()))})
    pq.write_table(table.replace_schema_metadata({"format": PREDICTIONS_FORMAT, "task": plan.task}), part_of(path))
    publish(path)
    for part in range(plan.parts):
        (folder / part_name(part)).unlink()


def read_predictions(folder: Path) -> tuple[list[str], Floats]:
    """Ids, and scores (examples, W).

    Raises:
        InputError: they are not there, or damaged.
    """
    path, plan = folder / PREDICTIONS, read_plan(folder)
    try:
        table = pq.read_table(path)
        ids, scores = table["id"].to_pylist(), np.array(table["scores"].to_pylist(), np.float32)
    except FileNotFoundError as error:
        raise InputError(f"{folder} has no {PREDICTIONS} yet; predict again: finished parts are kept") from error
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise _damaged(path, str(error).partition("\n")[0]) from error
    if scores.ndim != 2 or len(scores) != plan.examples:
        raise _damaged(path, f"{scores.shape} scores of {plan.examples} examples")
    return ids, scores


def _read_part(path: Path) -> Floats:
    try:
        scores: Floats = np.load(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    return scores


def _damaged(path: Path, why: object) -> InputError:
    return InputError(f"{path} cannot be read ({why}); remove it and predict again: only what is missing is computed")
