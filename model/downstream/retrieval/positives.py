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

_FORM = TypeAdapter(dict[str, list[int]])


@dataclass(frozen=True)
class Positives:
    """True pairs of a ground truth, by rows and columns of a score matrix.

    Attributes:
        name: for messages and tables.
        image_to_text: what images are asked for. An image without a pair is a candidate and no query.
        text_to_image: what captions are asked for.
        unscored: pairs of the files whose candidate was not scored; they count for nothing.
    """

    name: str
    image_to_text: Pairs
    text_to_image: Pairs
    unscored: int = 0


def read_positives(
    name: str, image_to_caption: Path, caption_to_image: Path, image_ids: Sequence[int], caption_ids: Sequence[int]
) -> Positives:
    """The true pairs of two files, by the rows and columns of scores.

    ECCV Caption names two sixth captions of images; who scores five an image, as its own evaluator does, lacks them.

    Args:
        image_ids, caption_ids: COCO's ids of the rows and the columns of the scores, in their order. Karpathy's file
            calls them cocoid and sentids.

    Raises:
        InputError: a file is missing or of another form; or a query was not scored, or none of its true candidates.
    """
    rows, columns = _places(image_ids), _places(caption_ids)
    to_text, unscored_captions = _read(image_to_caption, rows, columns)
    to_image, unscored_images = _read(caption_to_image, columns, rows)
    return Positives(
        name,
        Pairs(to_text[:, 0], to_text[:, 1]),
        Pairs(to_image[:, 1], to_image[:, 0]),
        unscored_captions + unscored_images,
    )


def _places(ids: Sequence[int]) -> dict[str, int]:
    places = {str(number): place for place, number in enumerate(ids)}
    if len(places) < len(ids):
        raise InputError(f"an id occurs twice among those of {len(ids):,} rows or columns of scores; give each its own")
    return places


def _read(path: Path, queries: dict[str, int], candidates: dict[str, int]) -> tuple[Index, int]:
    """(pairs, 2) places of a query and of a true candidate of it, each pair once; and how many candidates have none."""
    try:
        matches = _FORM.validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; name a file of ECCV Caption's form") from error
    except ValidationError as error:
        raise InputError(f"{path} is no JSON of the form {{id: [ids]}}: {error.errors()[0]['msg']}") from error
    pairs: set[tuple[int, int]] = set()
    unscored = 0
    for query, true in matches.items():
        scored = [candidates[str(candidate)] for candidate in true if str(candidate) in candidates]
        if query not in queries or not scored:
            raise InputError(
                f"{path} asks for {query}, but it or all that is true of it was not scored; score the whole split, and "
                "give the ids of its rows and columns"
            )
        unscored += len(true) - len(scored)
        pairs.update((queries[query], candidate) for candidate in scored)
    return np.array(sorted(pairs), np.int64).reshape(-1, 2), unscored
