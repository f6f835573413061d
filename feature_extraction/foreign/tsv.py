"""Region features in other programs' TSVs: LXMERT's, read and written, and those of bottom-up attention, read.

`vinvl.py` reads VinVL's pair of TSVs, `npz.py` reads and writes `.npz` files. Whatever the form, a picture becomes a
`ForeignRegions`, and `region_sample` makes that one of ours. Numpy and the standard library suffice.

    LXMERT      img_id img_h img_w objects_id objects_conf attrs_id attrs_conf num_boxes boxes features
    bottom-up   image_id image_w image_h num_boxes boxes features

Arrays are base64 of little-endian numbers, of features, boxes and scores float32 as a rule: see `arrays.py`. Boxes
are (x0, y0, x1, y1).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feature_extraction.foreign.arrays import FloatType, ForeignError, base64_field, float_columns, float_rows
from feature_extraction.samples.regions import Float, RegionSample

LXMERT_FIELDS = (
    "img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf", "num_boxes", "boxes",
    "features",
)  # fmt: skip
BOTTOM_UP_FIELDS = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")

_LONGEST_SIDE = 1 << 20  # pixels
_MOST_BOXES = 1 << 16
_LARGEST_FEATURE = 65504  # of half precision, which either encoding stores
_SCORE_ROUNDING = 1e-3


@dataclass(frozen=True)
class ForeignRegions:
    """The regions of one image, in the order of their file.

    Shapes: boxes (R, 4) in pixels, or as shares of width and height where `relative`; labels (R,) class numbers
    without a background class, or R names; scores and background (R,); features (R, D), with D = 0 where a form
    cannot tell it for R = 0; where the file has them, class_scores (R, 1 + C), the background first. `size` is
    (width, height), None where the file does not say it.
    """

    image_id: str
    size: tuple[int, int] | None
    boxes: Float
    labels: npt.NDArray[np.int64] | tuple[str, ...]
    scores: Float
    background: Float
    features: Float
    relative: bool = False
    class_scores: Float | None = None


def region_sample(
    regions: ForeignRegions,
    key: str,
    size: tuple[int, int] | None,
    max_regions: int,
    classes: Mapping[str, int] | int,
) -> RegionSample:
    """Turn regions into one of our samples: best score first, at most `max_regions`.

    Of equal scores the first comes first.

    Args:
        regions: what the file holds.
        key: of the sample.
        size: (width, height) of the stored image, which the boxes are scaled to; None takes the file's.
        max_regions: R.
        classes: number of each label name, or how many classes the numbers count.

    Raises:
        ForeignError: a label is of no class, a number is not finite or cannot be stored, a score is no probability, a
            box ends before it begins, or nothing tells the picture's size.
    """
    own = (1, 1) if regions.relative else regions.size
    size = size or regions.size
    if size is None:
        raise ForeignError("nothing tells the picture's size; import it for a downloaded dataset, with --match")
    if own is None and len(regions.boxes):
        raise ForeignError("boxes are in pixels, but nothing tells of how many")
    labels = _class_numbers(regions.labels, classes)
    _check_numbers(regions)
    best = np.argsort(-regions.scores, kind="stable")[:max_regions]
    width, height = own or size
    scale = np.array([size[0] / width, size[1] / height] * 2, np.float32)
    return RegionSample(
        key=key,
        size=size,
        boxes=regions.boxes[best] * scale,
        labels=labels[best],
        scores=regions.scores[best].clip(0, 1),
        background=regions.background[best].clip(0, 1),
        features=regions.features[best],
        class_scores=None if regions.class_scores is None else regions.class_scores[best],
    )


def _check_numbers(regions: ForeignRegions) -> None:
    for name in ("boxes", "scores", "background", "features"):
        if not np.isfinite(getattr(regions, name)).all():
            raise ForeignError(f"{name} hold a number that is not finite")
    for values in (regions.scores, regions.background):
        if len(values) and not -_SCORE_ROUNDING <= values.min() <= values.max() <= 1 + _SCORE_ROUNDING:
            raise ForeignError(f"scores go from {values.min():.4g} to {values.max():.4g}: they are no probabilities")
    if (regions.boxes[:, 2:] < regions.boxes[:, :2]).any():
        raise ForeignError("a box ends before it begins; boxes are (x0, y0, x1, y1)")
    largest = float(np.abs(regions.features).max(initial=0))
    if largest > _LARGEST_FEATURE:
        raise ForeignError(f"a feature is {largest:.4g}, beyond half precision ({_LARGEST_FEATURE})")


def _class_numbers(
    labels: npt.NDArray[np.int64] | tuple[str, ...], classes: Mapping[str, int] | int
) -> npt.NDArray[np.int16]:
    if isinstance(labels, tuple):
        if isinstance(classes, int):
            raise ForeignError("labels are names; give the vocabulary that numbers them")
        unknown = next((name for name in labels if name not in classes), None)
        if unknown is not None:
            raise ForeignError(f"label {unknown!r} is not in the vocabulary")
        return np.array([classes[name] for name in labels], np.int16)
    count = classes if isinstance(classes, int) else len(classes)
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < count:
        wrong = int(labels.max()) if int(labels.max()) >= count else int(labels.min())
        raise ForeignError(f"class number {wrong}, but the vocabulary has {count} classes, 0 to {count - 1}")
    return labels.astype(np.int16)


# --- LXMERT and bottom-up attention ---------------------------------------------------------------------------------


def read_lxmert_row(line: bytes, features_type: FloatType = "float32") -> ForeignRegions:
    """Read a row of LXMERT's TSV. We have no place for attributes and leave them out.

    Raises:
        ForeignError: not ten fields, or an array's length does not fit the number of boxes.
    """
    row = _fields(line, LXMERT_FIELDS)
    count = box_count(row["num_boxes"])
    size = (picture_side(row["img_w"], "img_w"), picture_side(row["img_h"], "img_h"))
    labels = base64_field(row, "objects_id")
    if len(labels) not in (2 * count, 4 * count, 8 * count):
        raise ForeignError(f"objects_id has {len(labels)} bytes for {count} boxes, not 8 a box")
    return ForeignRegions(
        image_id=row["img_id"],
        size=size,
        boxes=float_columns(base64_field(row, "boxes"), count, "boxes", 4),
        labels=np.frombuffer(labels, f"<i{len(labels) // count if count else 8}").astype(np.int64),
        scores=float_columns(base64_field(row, "objects_conf"), count, "objects_conf", 1)[:, 0],
        background=np.zeros(count, np.float32),
        features=float_rows(base64_field(row, "features"), count, "features", features_type),
    )


def write_lxmert_row(sample: RegionSample, image_id: str) -> bytes:
    """Write a line of LXMERT's TSV, with its newline.

    We store no attributes: their ids and confidences are zeros.
    """
    count = len(sample.boxes)
    arrays = {
        "objects_id": sample.labels.astype("<i8"),
        "objects_conf": sample.scores.astype("<f4"),
        "attrs_id": np.zeros(count, "<i8"),
        "attrs_conf": np.zeros(count, "<f4"),
        "boxes": sample.boxes.astype("<f4"),
        "features": sample.features.astype("<f4"),
    }
    values = {"img_id": image_id, "img_w": sample.size[0], "img_h": sample.size[1], "num_boxes": count}
    fields = [
        base64.b64encode(arrays[name].tobytes()) if name in arrays else str(values[name]).encode()
        for name in LXMERT_FIELDS
    ]
    return b"\t".join(fields) + b"\n"


def read_bottom_up_row(line: bytes, features_type: FloatType = "float32") -> ForeignRegions:
    """Read a row of the original bottom-up attention TSV.

    It has neither labels nor scores: class 0 and score 1 are set.

    Raises:
        ForeignError: not six fields, or an array's length does not fit the number of boxes.
    """
    row = _fields(line, BOTTOM_UP_FIELDS)
    count = box_count(row["num_boxes"])
    return ForeignRegions(
        image_id=row["image_id"],
        size=(picture_side(row["image_w"], "image_w"), picture_side(row["image_h"], "image_h")),
        boxes=float_columns(base64_field(row, "boxes"), count, "boxes", 4),
        labels=np.zeros(count, np.int64),
        scores=np.ones(count, np.float32),
        background=np.zeros(count, np.float32),
        features=float_rows(base64_field(row, "features"), count, "features", features_type),
    )


def feature_bytes(line: bytes) -> tuple[int, bytes]:
    """The number of boxes and the raw features of a row of either form.

    Raises:
        ForeignError: the row is damaged.
    """
    fields = split_fields(line)
    row = _fields(line, LXMERT_FIELDS if len(fields) == len(LXMERT_FIELDS) else BOTTOM_UP_FIELDS)
    return box_count(row["num_boxes"]), base64_field(row, "features")


def split_fields(line: bytes) -> list[bytes]:
    """The tab-separated fields of a line, whatever its line end."""
    return line.rstrip(b"\r\n").split(b"\t")


def _fields(line: bytes, names: Sequence[str]) -> dict[str, str]:
    fields = split_fields(line)
    if len(fields) != len(names):
        raise ForeignError(f"{len(fields)} tab-separated fields, expected {len(names)} ({' '.join(names)})")
    try:
        values = {name: field.decode("ascii") for name, field in zip(names[1:], fields[1:], strict=True)}
    except UnicodeDecodeError as error:
        raise ForeignError("bytes that are neither text nor base64") from error
    return {names[0]: row_id(line), **values}


def row_id(line: bytes) -> str:
    """The id of a line's picture: its first field, UTF-8, without a byte order mark."""
    return line.partition(b"\t")[0].decode("utf-8-sig", errors="replace").strip()


def box_count(text: str) -> int:
    """Parse a number of boxes."""
    if not (text.isascii() and text.isdigit()) or len(text) > 9 or int(text) > _MOST_BOXES:
        raise ForeignError(f"num_boxes is {text[:20]!r}, not a number from 0 to {_MOST_BOXES:,}")
    return int(text)


def picture_side(value: object, name: str) -> int:
    """Parse a width or height in pixels, given as a number or text."""
    try:
        side = int(float(str(value)))
    except (ValueError, OverflowError) as error:
        raise ForeignError(f"{name} is {str(value)[:20]!r}, not a number of pixels") from error
    if not 1 <= side <= _LONGEST_SIDE:
        raise ForeignError(f"{name} is {str(value)[:20]} pixels")
    return side
