"""What retrieval looks like: a few captions of a split, and the images that their scores put first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from feature_extraction.samples import FeatureManifest, RegionSample, decode_regions, parse_manifest
from tasks.errors import UserError
from tasks.features.lookup import find_records, read_pictures
from tasks.report import GalleryEntry, GalleryImage
from tasks.storage import (
    Root,
    captions_path,
    feature_manifest_path,
    features_folder,
    image_shard_path,
    region_shard_number,
    scores_folder,
)

TOP_IMAGES = 5
WORST, BEST = 3, 3
BETWEEN = (0.2, 0.4, 0.6, 0.8)
MIN_SCORE = 0.2
GALLERY_RULE = (
    "Text-to-image retrieval: captions of the evaluated split, and the images that scored best for each. "
    "Nothing is picked by hand or at random. All captions stand in one order, worst first: by the rank of the "
    "caption's own image, and at equal rank by its margin, its score less the best score of another image. "
    f"Shown are the first {WORST}, those at {', '.join(f'{share:.0%}' for share in BETWEEN)} of the order, and the "
    f"last {BEST}; of captions of one image only the first met. Each has its {TOP_IMAGES} best images, and its own "
    f"image where that is not among them. Numbers are matching logits; boxes are the regions detected with a score "
    f"of at least {MIN_SCORE:g}, named below."
)

Floats = npt.NDArray[np.float32]
Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Scores:
    """An evaluation's scores.npz: scores (images, captions), and what its rows and columns are."""

    scores: Floats
    image_keys: list[str]
    caption_ids: list[str]
    caption_image: Index

    def ranking(self, caption: int) -> Index:
        """Images for a caption, best first. Of equal scores its own image comes last: ties count against."""
        own = np.arange(len(self.image_keys)) == self.caption_image[caption]
        return np.lexsort((own, -self.scores[:, caption]))


def make_gallery(root: Root, evaluation: str, dataset: str, split: str, extractor: str) -> list[GalleryEntry]:
    """Captions of a split with the images that score best for them, chosen as `GALLERY_RULE` says, worst first.

    Args:
        evaluation: folder name under ROOT/scores; see `tasks.evaluate.evaluation_name`.
        extractor: fingerprint of the extractor whose regions were scored.

    Raises:
        UserError: scores, captions, features or images are missing, or are not of the same data.
        ShardError: a shard is damaged.
    """
    scored = _read_scores(root, f"{scores_folder(evaluation)}/scores.npz")
    ranks, margins = ranks_and_margins(scored.scores, scored.caption_image)
    chosen = choose_captions(ranks, margins, scored.caption_image)
    rankings = {caption: scored.ranking(caption) for caption in chosen}
    shown = {
        caption: [
            int(image)
            for place, image in enumerate(ranking)
            if place < TOP_IMAGES or image == scored.caption_image[caption]
        ]
        for caption, ranking in rankings.items()
    }
    texts = _read_texts(root, captions_path(dataset, split), [scored.caption_ids[caption] for caption in chosen])
    keys = {scored.image_keys[image] for images in shown.values() for image in images}
    manifest = _read_manifest(root, feature_manifest_path(extractor, dataset, split))
    regions, shards = _read_regions(root, features_folder(extractor, dataset, split), manifest, keys)
    jpegs = _read_jpegs(root, dataset, split, shards)

    def image(caption: int, number: int) -> GalleryImage:
        key = scored.image_keys[number]
        kept = regions[key].scores >= MIN_SCORE
        return GalleryImage(
            jpeg=jpegs[key],
            score=float(scored.scores[number, caption]),
            correct=bool(number == scored.caption_image[caption]),
            boxes=[(float(x0), float(y0), float(x1), float(y1)) for x0, y0, x1, y1 in regions[key].boxes[kept]],
            labels=[manifest.labels[label] for label in regions[key].labels[kept]],
            rank=1 + int(np.flatnonzero(rankings[caption] == number)[0]),
        )

    return [
        GalleryEntry(
            caption=texts[scored.caption_ids[caption]],
            images=[image(caption, number) for number in shown[caption]],
            about=f"Its image ranks {ranks[caption]:,} of {len(scored.image_keys):,}, margin {margins[caption]:+.2f}.",
        )
        for caption in chosen
    ]


def ranks_and_margins(scores: Floats, caption_image: Index) -> tuple[Index, Floats]:
    """For each caption, the rank of its image (1 is best, ties count against) and its margin over the best other one.

    Args:
        scores: (images, captions).
        caption_image: (captions,) row of each caption's image.

    Returns:
        (captions,) each. The margin is infinite where there is one image only.
    """
    columns = np.arange(scores.shape[1])
    own = scores[caption_image, columns]
    ranks = (scores >= own).sum(axis=0)
    others = scores.copy()
    others[caption_image, columns] = -np.inf
    return ranks, own - others.max(axis=0)


def choose_captions(ranks: Index, margins: Floats, caption_image: Index) -> list[int]:
    """The captions that `GALLERY_RULE` names, worst first. Of equal ones, the one that comes first in the split."""
    order = np.lexsort((margins, -ranks))
    last = len(order) - 1
    chosen: dict[int, int] = {}  # place in the order -> caption
    taken: set[int] = set()

    def take(places: Iterable[int]) -> None:
        """The first of these places whose image is not shown yet."""
        for place in places:
            caption = int(order[place])
            if int(caption_image[caption]) not in taken:
                taken.add(int(caption_image[caption]))
                chosen[place] = caption
                return

    for _ in range(WORST):
        take(range(len(order)))
    for _ in range(BEST):
        take(range(last, -1, -1))
    for share in BETWEEN:
        take(range(round(share * last), len(order)))
    return [chosen[place] for place in sorted(chosen)]


# --- reading --------------------------------------------------------------------------------------------------------


def _read_scores(root: Root, path: str) -> _Scores:
    try:
        with root.open(path) as stream, np.load(stream) as arrays:
            return _Scores(
                scores=arrays["scores"],
                image_keys=arrays["image_keys"].tolist(),
                caption_ids=arrays["caption_ids"].tolist(),
                caption_image=arrays["caption_image"],
            )
    except FileNotFoundError as error:
        raise UserError(f"{root.path(path)} is missing; run: unicoder-vl evaluate") from error


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


def _read_manifest(root: Root, path: str) -> FeatureManifest:
    try:
        return parse_manifest(root.read_bytes(path), root.path(path))
    except FileNotFoundError as error:
        raise UserError(f"{root.path(path)} is missing; run: unicoder-vl extract") from error


def _read_regions(
    root: Root, folder: str, manifest: FeatureManifest, keys: set[str]
) -> tuple[dict[str, RegionSample], dict[int, set[str]]]:
    """The regions of these images by key, and the keys by shard number."""
    regions: dict[str, RegionSample] = {}
    shards: dict[int, set[str]] = {}
    for entry in manifest.shards:
        with root.open(f"{folder}/{entry.name}") as stream:
            for key, record in find_records(stream, entry.name, manifest.layout, entry.samples, keys):
                regions[key] = decode_regions(key, record)
                shards.setdefault(region_shard_number(entry.name), set()).add(key)
    missing = sorted(keys - regions.keys())
    if missing:
        raise UserError(f"{root.path(folder)} has no image {missing[0]}, which was scored; run: unicoder-vl evaluate")
    return regions, shards


def _read_jpegs(root: Root, dataset: str, split: str, shards: dict[int, set[str]]) -> dict[str, bytes]:
    """JPEGs by key. An image shard has the number of its feature shard."""
    jpegs = read_pictures(root, dataset, split, shards)
    for shard, keys in shards.items():
        path = image_shard_path(dataset, split, shard)
        missing = sorted(keys - jpegs.keys())
        if missing and not root.exists(path):
            raise UserError(f"{root.path(path)} is missing; run: unicoder-vl download")
        if missing:
            raise UserError(f"{root.path(path)} has no image {missing[0]}, which was scored; run: unicoder-vl extract")
    return jpegs
