"""The scores of one evaluation on disk: a matrix of images x captions in blocks of image rows, one file a block.

    FOLDER/plan.json           what the scores are of, and how they are cut
           items.npz           image_keys, caption_ids, caption_image: the row of each caption's image, and first_alike:
                               the first row whose image reads as this row's does, whose scores are read in its place
           scores-00000.npy    (rows, captions) f32 matching logits; there under this name once it is whole
           metrics.json        written last

A block that is there is not computed again, and one that is not is computed alone: that is all of resuming. A pair that
an approximate evaluation left out is -inf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from model.errors import InputError
from model.publish import part_of, publish, write_whole

SCORES_FORMAT = "scores/2"
PLAN, ITEMS, METRICS = "plan.json", "items.npz", "metrics.json"
FIRST_SCORES = "first-pass"
"""Folder beside them, until they are whole, of the scores that a shortlist is taken from."""

Floats = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]


class ScoreMatrix(Protocol):
    """A matrix (images, captions), read some rows at a time."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def blocks(self) -> Iterator[tuple[int, Floats]]:
        """The number of its first row, and a block (rows, captions); from the first row to the last."""


class WholeMatrix:
    """A matrix in memory."""

    def __init__(self, scores: Floats) -> None:
        self._scores = scores

    @property
    def shape(self) -> tuple[int, int]:
        return self._scores.shape[0], self._scores.shape[1]

    def blocks(self) -> Iterator[tuple[int, Floats]]:
        yield 0, self._scores


class Plan(BaseModel):
    """The identity of a folder's scores, and the cut into blocks. Blocks of different plans never mix."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = SCORES_FORMAT
    images: int
    captions: int
    rows: int
    """Images a block; the last block may have fewer."""
    identity: dict[str, Any]
    """What the scores depend on: weights, data, precision, and what an approximate evaluation leaves out."""

    @property
    def blocks(self) -> int:
        return -(-self.images // self.rows)

    def rows_of(self, block: int) -> range:
        return range(block * self.rows, min((block + 1) * self.rows, self.images))


class Scores:
    """The scores in a folder, whole: every block is there.

    Attributes:
        image_keys: of the rows.
        caption_ids: of the columns.
        caption_image: (captions,) the row of each caption's image.
    """

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            InputError: these are no scores, of another version, damaged, or a block is missing.
        """
        self.folder = folder
        self.plan = read_plan(folder)
        try:
            with np.load(folder / ITEMS) as items:
                self.image_keys: list[str] = items["image_keys"].tolist()
                self.caption_ids: list[str] = items["caption_ids"].tolist()
                self.caption_image: Index = items["caption_image"]
                # Scores of an older program do not say.
                self._first_alike: Index = items.get("first_alike", np.arange(self.plan.images))
        except (OSError, ValueError, KeyError) as error:
            raise _damaged(folder / ITEMS, error) from error
        if missing := missing_blocks(folder, self.plan):
            raise InputError(
                f"{folder} lacks {len(missing)} of {self.plan.blocks} blocks of scores, {block_name(missing[0])} for "
                "one; evaluate again: only these are computed"
            )

    @property
    def shape(self) -> tuple[int, int]:
        return self.plan.images, self.plan.captions

    def blocks(self) -> Iterator[tuple[int, Floats]]:
        """The number of its first row, and a block (rows, captions); read as it is used, and to be left unchanged."""
        for block in range(self.plan.blocks):
            yield self.plan.rows_of(block).start, self.block(block)

    def of_image(self, row: int) -> Floats:
        """The scores (captions,) of an image."""
        block, place = divmod(row, self.plan.rows)
        return np.array(self.block(block)[place])

    def of_caption(self, column: int) -> Floats:
        """The scores (images,) of a caption."""
        return np.concatenate([scores[:, column] for _, scores in self.blocks()])

    def block(self, block: int) -> Floats:
        """A block (rows, captions) by its number. Images that read alike have equal rows."""
        scores, rows = self._stored(block), self.plan.rows_of(block)
        first = self._first_alike[rows.start : rows.stop]
        if len(again := np.flatnonzero(first != rows)):
            scores = np.array(scores)
            for place in again.tolist():
                other, row = divmod(int(first[place]), self.plan.rows)
                scores[place] = self._stored(other)[row]
        return scores

    def _stored(self, block: int) -> Floats:
        """A block as it was computed: the rows of images that read alike may differ by rounding."""
        path = self.folder / block_name(block)
        try:
            scores: Floats = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from error
        expected = (len(self.plan.rows_of(block)), self.plan.captions)
        if scores.shape != expected or scores.dtype != np.float32:
            raise _damaged(path, f"{scores.dtype} {scores.shape} instead of float32 {expected}")
        return scores


def begin_scores(
    folder: Path,
    plan: Plan,
    image_keys: Sequence[str],
    caption_ids: Sequence[str],
    caption_image: Index,
    find_alike: Callable[[], Index] | None = None,
) -> Plan:
    """Prepare the folder for blocks, or resume with those that are there.

    Args:
        find_alike: gives (images,) the first row whose image reads as each one's does; asked for a new folder only.

    Returns:
        The plan by which the folder's blocks are cut: of the same scores, cut otherwise, those that stand are kept.

    Raises:
        InputError: the folder holds scores of something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / PLAN).exists():
        present = read_plan(folder)
        if present.model_copy(update={"rows": plan.rows}) != plan:
            raise InputError(f"{folder} holds scores of other weights or data; remove it, or score into another folder")
        return present
    first_alike = np.arange(plan.images) if find_alike is None else find_alike()
    with part_of(folder / ITEMS).open("wb") as stream:
        np.savez(
            stream,
            image_keys=np.array(image_keys),
            caption_ids=np.array(caption_ids),
            caption_image=caption_image,
            first_alike=first_alike,
        )
    publish(folder / ITEMS)
    write_whole(folder / PLAN, plan.model_dump_json(indent=2) + "\n")
    return plan


def write_block(folder: Path, plan: Plan, block: int, scores: Floats) -> None:
    """Publish a block (rows, captions), whole."""
    assert scores.shape == (len(plan.rows_of(block)), plan.captions), (scores.shape, plan, block)
    path = folder / block_name(block)
    with part_of(path).open("wb") as stream:
        np.save(stream, scores)
    publish(path)


def missing_blocks(folder: Path, plan: Plan) -> list[int]:
    """Numbers of the missing blocks."""
    present = {path.name for path in folder.glob("scores-*.npy")}
    return [block for block in range(plan.blocks) if block_name(block) not in present]


def block_name(block: int) -> str:
    return f"scores-{block:05d}.npy"


def read_plan(folder: Path) -> Plan:
    """
    Raises:
        InputError: there is none, or it is of another version.
    """
    path = folder / PLAN
    try:
        plan = Plan.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{folder} holds no scores: {PLAN} is missing; evaluate first") from error
    except ValidationError as error:
        raise _damaged(path, error.errors()[0]["msg"]) from error
    if plan.format != SCORES_FORMAT:
        raise InputError(f"{path} is of format {plan.format}, this program reads {SCORES_FORMAT}; evaluate again")
    return plan


def _damaged(path: Path, why: object) -> InputError:
    return InputError(f"{path} cannot be read ({why}); remove it and evaluate again: only what is missing is computed")
