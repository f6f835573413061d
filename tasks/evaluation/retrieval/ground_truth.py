"""Measures finished scores against ground truths with several true candidates a query, such as ECCV Caption's.

What a ground truth measures lies beside the evaluation's metrics, as positives-DIGEST.json: the digest is that of its
two files, so that several of them can be side by side, and the same one is found again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.downstream.retrieval.positives import Id, Positives, read_matches, read_positives
from model.downstream.retrieval.positives_metrics import PositivesMetrics, measure_positives
from model.downstream.retrieval.scores import Scores
from model.errors import InputError
from model.publish import write_whole
from tasks.download.settings import DownloadSettings
from tasks.errors import UserError
from tasks.records import fingerprint
from tasks.rows.published_ids import manifest_keys, published_ids
from tasks.storage.paths import download_settings_path, manifest_path
from tasks.storage.root import Root, file_digest

_FORMS = ("karpathy", "coco")
_WAYS = ("image_to_caption", "caption_to_image")


@dataclass(frozen=True)
class GroundTruth:
    """Two files of true pairs, named by their common part: `eccv` of eccv_image_to_caption.json."""

    name: str
    image_to_caption: Path
    caption_to_image: Path

    def digests(self) -> dict[str, str]:
        """File name -> sha256."""
        return {path.name: file_digest(path).sha256 for path in (self.image_to_caption, self.caption_to_image)}


def find_ground_truth(path: str) -> GroundTruth:
    """Find the ground truth that one of its two files belongs to; the other one is beside it.

    Raises:
        UserError: the file's name does not say its direction; or one of the two is missing or of another form.
    """
    given = Path(path)
    way = next((way for way in _WAYS if way in given.name), None)
    if way is None:
        raise UserError(
            f"{path} is named neither NAME_image_to_caption.json nor NAME_caption_to_image.json; name one of the two "
            "files of a ground truth: the other is looked for beside it"
        )
    files = [given.with_name(given.name.replace(way, other)) for other in _WAYS]
    name = Path(given.name.replace(way, "")).stem.strip("_-. ") or "ground truth"
    try:
        for file in files:
            read_matches(file)
    except InputError as error:
        raise UserError(str(error)) from error
    return GroundTruth(name, *files)


def ids_file(root: Root, dataset: str, split: str, given: str | None) -> str | None:
    """The published file with the ids of a split: the given one, or the one it was downloaded from."""
    if given is not None:
        return given
    settings = root.read_model(download_settings_path(dataset, split), DownloadSettings)
    if settings is None or not root.exists(manifest_path(dataset, split)):
        return None
    source = settings.source
    is_json = source.form in _FORMS or (source.form is None and source.images is not None and ".json" in source.rows)
    return source.rows if is_json else None


def check_ground_truths(root: Root, dataset: str, split: str, paths: Sequence[str], ids: str | None) -> None:
    """Raise UserError unless the files can be read, and name images and captions of the split.

    Whether regions were found in all of them is known only once they are scored.
    """
    truths = [find_ground_truth(path) for path in paths]
    keys = manifest_keys(root, dataset, split)
    if not truths or keys is None:
        return
    image_ids, caption_ids = published_ids(root, dataset, split, ids_file(root, dataset, split, ids), *keys)
    for truth in truths:
        _read(truth, image_ids, caption_ids)


def measure_ground_truths(
    root: Root, folder: Path, dataset: str, split: str, paths: Sequence[str], ids: str | None, approximate: str | None
) -> dict[str, PositivesMetrics]:
    """Measure a folder's scores by each ground truth, and write the metrics beside them: file name -> metrics.

    Args:
        paths: one file of each ground truth, see `find_ground_truth`.
        ids: the file that names ids, see `ids_file`.
        approximate: what the scores left out.

    Raises:
        UserError: a file is missing or of another form, or asks for what was not scored. Nothing is written then.
    """
    if not paths:
        return {}
    truths = [find_ground_truth(path) for path in paths]
    try:
        scores = Scores(folder)
    except InputError as error:
        raise UserError(str(error)) from error
    ids = ids_file(root, dataset, split, ids)
    image_ids, caption_ids = published_ids(root, dataset, split, ids, scores.image_keys, scores.caption_ids)
    read = [_read(truth, image_ids, caption_ids) for truth in truths]
    found = {}
    for truth, positives in zip(truths, read, strict=True):
        try:
            metrics = measure_positives(scores, scores.caption_image, positives, approximate=approximate)
        except InputError as error:
            raise UserError(f"{truth.image_to_caption}: {error}") from error
        files = truth.digests()
        found[f"positives-{fingerprint(files)[:12]}.json"] = metrics.model_copy(update={"files": files})
    for name, metrics in found.items():
        write_whole(folder / name, metrics.model_dump_json(indent=2) + "\n")
    return found


def unscored_text(metrics: PositivesMetrics) -> str:
    """A sentence about true captions and images that were not scored; "" where all were."""
    parts = [
        f"{what} {', '.join(map(str, ids[:10]))}{f' and {len(ids) - 10:,} more' if len(ids) > 10 else ''}"
        for what, ids in (("captions", metrics.unscored_captions), ("images", metrics.unscored_images))
        if ids
    ]
    return f"{metrics.name}: not scored, so never found: {'; '.join(parts)}" if parts else ""


def _read(truth: GroundTruth, image_ids: Sequence[Id], caption_ids: Sequence[Id]) -> Positives:
    try:
        return read_positives(truth.name, truth.image_to_caption, truth.caption_to_image, image_ids, caption_ids)
    except InputError as error:
        raise UserError(str(error)) from error
