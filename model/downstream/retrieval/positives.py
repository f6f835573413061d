"""Ground truth with several true images a caption: the files of ECCV Caption (Chun et al., ECCV 2022).

Two JSON files, {"image id": [caption ids]} and {"caption id": [image ids]}, for COCO's test split: there are two for
COCO's own pairs, two for CxC (Parekh et al., EACL 2021) and two for ECCV Caption. The directions may differ, and an id
without an entry is a candidate but no query.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from model.downstream.retrieval.ranks import Pairs
from model.downstream.retrieval.scores import Index
from model.errors import InputError

Id = int | str
Matches = dict[str, list[Id]]
"""Id of a query -> ids of its true candidates."""

_FORM = TypeAdapter(Matches)
_NAMED = 5
"""Ids that a message names; the others are counted."""


@dataclass(frozen=True)
class Positives:
    """True pairs of a ground truth, by rows and columns of a score matrix.

    Attributes:
        name: for messages and tables.
        image_to_text: what images are asked for. An image without a pair is a candidate and no query.
        text_to_image: what captions are asked for.
        unscored_captions: (row, caption id) of true pairs of image_to_text whose caption was not scored.
        unscored_images: (column, image id) of true pairs of text_to_image whose image was not scored.
    """

    name: str
    image_to_text: Pairs
    text_to_image: Pairs
    unscored_captions: tuple[tuple[int, Id], ...] = ()
    unscored_images: tuple[tuple[int, Id], ...] = ()

    @property
    def unscored(self) -> int:
        """True pairs without a score: recall passes over them, R counts them."""
        return len(self.unscored_captions) + len(self.unscored_images)


def read_positives(
    name: str,
    image_to_caption: Path,
    caption_to_image: Path,
    image_ids: Sequence[Id],
    caption_ids: Sequence[Id],
) -> Positives:
    """Read the true pairs of two files, as rows and columns of the scores.

    ECCV Caption names two sixth captions of images; who scores five an image, as its own evaluator does, lacks them.

    Args:
        image_ids, caption_ids: COCO's ids of the rows and the columns of the scores, in their order. Karpathy's file
            calls them cocoid and sentids. An image or a caption without an id has a text that is none.

    Raises:
        InputError: a file is missing or of another form; or a query was not scored, or none of its true candidates.
    """
    rows, columns = _places(image_ids), _places(caption_ids)
    to_text, unscored_captions = _pairs(image_to_caption, rows, columns, "image")
    to_image, unscored_images = _pairs(caption_to_image, columns, rows, "caption")
    return Positives(
        name,
        Pairs(to_text[:, 0], to_text[:, 1]),
        Pairs(to_image[:, 1], to_image[:, 0]),
        unscored_captions,
        unscored_images,
    )


def read_matches(path: Path) -> Matches:
    """Read one file unchanged.

    Raises:
        InputError: it is missing, cannot be read or is of another form.
    """
    try:
        return _FORM.validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; name a file of ECCV Caption's form") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); name a file of ECCV Caption's form") from error
    except ValidationError as error:
        raise InputError(f"{path} is no JSON of the form {{id: [ids]}}: {error.errors()[0]['msg']}") from error


def _places(ids: Sequence[Id]) -> dict[str, int]:
    places = {str(number): place for place, number in enumerate(ids)}
    if len(places) < len(ids):
        raise InputError(f"an id occurs twice among those of {len(ids):,} rows or columns of scores; give each its own")
    return places


def _pairs(
    path: Path, queries: dict[str, int], candidates: dict[str, int], what: str
) -> tuple[Index, tuple[tuple[int, Id], ...]]:
    """True pairs of one file: (pairs, 2) places of a query and its true candidate, each once; and those not scored.

    A pair that was not scored is the place of its query and the id of its candidate.
    """
    pairs: set[tuple[int, int]] = set()
    unscored: set[tuple[int, Id]] = set()
    lost: list[str] = []
    for query, true in read_matches(path).items():
        scored = [candidates[str(candidate)] for candidate in true if str(candidate) in candidates]
        if query not in queries or not scored:
            lost.append(query)
            continue
        place = queries[query]
        unscored.update((place, candidate) for candidate in true if str(candidate) not in candidates)
        pairs.update((place, candidate) for candidate in scored)
    if lost:
        more = f" and {len(lost) - _NAMED:,} more" if len(lost) > _NAMED else ""
        raise InputError(
            f"{path} asks for {what}{'' if len(lost) == 1 else 's'} {', '.join(lost[:_NAMED])}{more}, but "
            f"{'it' if len(lost) == 1 else 'each'} or all that is true of it was not scored; score the whole split "
            "that the file is of, and check that its ids are those of the scored images and captions"
        )
    return np.array(sorted(pairs), np.int64).reshape(-1, 2), tuple(sorted(unscored, key=str))
