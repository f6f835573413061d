"""Retrieval by example: a few queries of each direction, and what their scores put first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from model.downstream.retrieval.ranked_queries import (
    BEST,
    BETWEEN,
    WORST,
    RankedQueries,
    best_first,
    choose,
    rank_queries,
)
from model.downstream.retrieval.scores import Floats, Index, Scores
from model.errors import InputError
from tasks.errors import UserError
from tasks.reports.pictures import MIN_SCORE, MOST_DRAWN, Picture, find_pictures
from tasks.storage.local_copy import local_copy
from tasks.storage.paths import captions_path, scores_folder
from tasks.storage.root import Root

TOP = 5
"""Best candidates shown of a query."""

GALLERY_RULE = (
    "Nothing is picked by hand or at random. All queries of a direction stand in one order, worst first: by the rank "
    "of the best right candidate, and at equal rank by its margin, its score less that of the best wrong one. The "
    f"first {WORST} are shown, the last {BEST}, and those at {', '.join(f'{share:.0%}' for share in BETWEEN)} of the "
    f"order; of captions of one image only the first met. Each has its {TOP} best candidates, and the best right one "
    "where that is not among them. Numbers are matching logits; ranks are over all candidates. Boxes are the regions "
    f"detected with a score of at least {MIN_SCORE:g}, the best {MOST_DRAWN}."
)


@dataclass(frozen=True)
class FoundImage:
    """An image that a caption found. `correct` is None where it is unknown."""

    picture: Picture
    score: float
    rank: int
    correct: bool | None = None


@dataclass(frozen=True)
class TextQuery:
    """A caption and the images that scored best for it, best first; `about` is a line below the caption."""

    caption: str
    images: Sequence[FoundImage]
    about: str = ""


@dataclass(frozen=True)
class FoundCaption:
    """A caption that an image found. `correct` is None where it is unknown."""

    text: str
    score: float
    rank: int
    correct: bool | None = None


@dataclass(frozen=True)
class ImageQuery:
    """An image and the captions that scored best for it, best first; `about` is a line below the image."""

    picture: Picture
    captions: Sequence[FoundCaption]
    about: str = ""


@dataclass(frozen=True)
class Gallery:
    """Queries of both directions, worst first."""

    texts: tuple[TextQuery, ...]
    images: tuple[ImageQuery, ...]


@dataclass(frozen=True)
class _Found:
    """A query's result: candidates with their ranks, best first, and a line about how well that is."""

    query: int
    candidates: tuple[tuple[int, int], ...]
    scores: Floats
    about: str


def make_gallery(root: Root, evaluation: str, dataset: str, split: str, extractor: str) -> Gallery:
    """Choose queries of an evaluation as `GALLERY_RULE` says.

    Args:
        root: where scores, captions, features and images lie.
        evaluation: folder name under ROOT/scores.
        dataset: that was scored.
        split: that was scored.
        extractor: fingerprint of the extractor whose regions were scored.

    Raises:
        UserError: scores, captions or features are missing, or are not of the same data.
        ShardError: a shard is damaged.
    """
    try:
        scores = Scores(local_copy(root).local(scores_folder(evaluation)))
        of_images, of_captions = rank_queries(scores, scores.caption_image)
        texts = [_found_images(scores, of_captions, caption) for caption in choose(of_captions, scores.caption_image)]
        images = [_found_captions(scores, of_images, image) for image in choose(of_images)]
    except InputError as error:
        raise UserError(str(error)) from error

    shown_images = {image for found in texts for image, _ in found.candidates} | {found.query for found in images}
    shown_captions = {caption for found in images for caption, _ in found.candidates} | {found.query for found in texts}
    pictures = find_pictures(root, dataset, split, extractor, {scores.image_keys[image] for image in shown_images})
    captions = _read_texts(
        root, captions_path(dataset, split), [scores.caption_ids[caption] for caption in sorted(shown_captions)]
    )
    return Gallery(
        texts=tuple(
            TextQuery(
                caption=captions[scores.caption_ids[found.query]],
                images=[
                    FoundImage(
                        picture=pictures[scores.image_keys[image]],
                        score=float(found.scores[image]),
                        rank=rank,
                        correct=bool(scores.caption_image[found.query] == image),
                    )
                    for image, rank in found.candidates
                ],
                about=found.about,
            )
            for found in texts
        ),
        images=tuple(
            ImageQuery(
                picture=pictures[scores.image_keys[found.query]],
                captions=[
                    FoundCaption(
                        text=captions[scores.caption_ids[caption]],
                        score=float(found.scores[caption]),
                        rank=rank,
                        correct=bool(scores.caption_image[caption] == found.query),
                    )
                    for caption, rank in found.candidates
                ],
                about=found.about,
            )
            for found in images
        ),
    )


def _found_images(scores: Scores, queries: RankedQueries, caption: int) -> _Found:
    found = scores.of_caption(caption)
    correct = np.arange(len(found)) == scores.caption_image[caption]
    about = _about("Its image", queries, caption, len(found))
    return _Found(caption, _shown(best_first(found, correct), correct), found, about)


def _found_captions(scores: Scores, queries: RankedQueries, image: int) -> _Found:
    found = scores.of_image(image)
    correct = scores.caption_image == image
    about = _about("Its best caption" if correct.sum() > 1 else "Its caption", queries, image, len(found))
    return _Found(image, _shown(best_first(found, correct), correct), found, about)


def _shown(ranking: Index, correct: npt.NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    """(candidate, rank) of the best ones, and of the best true one."""
    first_true = int(np.flatnonzero(correct[ranking])[0])
    places = [*range(min(TOP, len(ranking))), *([first_true] if first_true >= TOP else [])]
    return tuple((int(ranking[place]), place + 1) for place in places)


def _about(what: str, queries: RankedQueries, query: int, candidates: int) -> str:
    rank, margin = queries.ranks[query], queries.margins[query]
    if np.isneginf(margin):
        return f"{what} was not scored: the shortlist left it out."
    over = "" if np.isposinf(margin) else f", margin {margin:+.2f}"
    return f"{what} ranks {rank:,} of {candidates:,}{over}."


def _read_texts(root: Root, path: str, caption_ids: Sequence[str]) -> dict[str, str]:
    try:
        with root.open(path) as stream:
            table: Any = pq.read_table(
                stream, columns=["caption_id", "text"], filters=[("caption_id", "in", list(caption_ids))]
            )
    except FileNotFoundError as error:
        raise UserError(f"{root.path(path)} is missing; run: unicoder-vl download") from error
    texts = dict(zip(table["caption_id"].to_pylist(), table["text"].to_pylist(), strict=True))
    for caption_id in caption_ids:
        if caption_id not in texts:
            raise UserError(
                f"{root.path(path)} has no caption {caption_id}, which was scored; run: unicoder-vl evaluate"
            )
    return texts
