"""The region sample, and both shard formats. Numpy only.

A shard is a plain ustar tar in WebDataset's layout (`KEY.ext`, key ends at the first dot). The bytes depend on the
samples alone: no clock, user or machine goes into them.

Image shard: `KEY.jpg` and `KEY.json` per sample. Feature shard: one fixed-stride record `KEY.rgn` per sample,

    offset  size    field
    0       64      header: magic, version, R, D, encoding, width, height, n_valid, T, C
    64      16 R    boxes, f32 (x0, y0, x1, y1) in pixels of the stored image
    +       2 R     labels, i16: the best foreground class
    +       2 R     scores, f16: its probability
    +       2 R     background, f16: probability of the background class
    +       2 R     scales, f16: the largest feature value of the region, rounded up (sqrt8); 1 (fp16)
    +       2 R T   top labels, i16: the T best foreground classes, best first
    +       2 R T   top scores, f16: their probabilities
    +       -       zeros up to a multiple of 64
    +       R x D   features, u8 (sqrt8) or f16 (fp16)
    +       -       zeros up to a multiple of 64
    +       R x C   class scores, u8: the distribution over all foreground classes (see `class_scores.py`)

Images with fewer than R regions end in zero rows, so position i of a shard is arithmetic. T and C are mostly 0. Class
scores come last, so that who does not ask for them reads none.
A record with class scores is of version 2, one without of version 1: a reader of before would take the first for a cut
or overlong record of version 1, and so refuses it by its version instead. All little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Literal

import numpy as np
import numpy.typing as npt

from feature_extraction.samples.class_scores import (
    SUM_TOLERANCE,
    dequantise_class_scores,
    quantise_class_scores,
)
from feature_extraction.samples.tars import TAR_BLOCK, ShardError, key_and_extension, read_tar

RegionFormat = Literal["rgn/1", "rgn/2"]
REGION_FORMAT: RegionFormat = "rgn/1"
CLASS_SCORES_FORMAT: RegionFormat = "rgn/2"
"""The format of records that hold class scores."""

Encoding = Literal["sqrt8", "fp16"]
Float = npt.NDArray[np.float32]

_MAGIC = b"RGN1"
_HEADER = struct.Struct("<4sHHHHIIIII")
_HEADER_BYTES = 64
_ENCODINGS: tuple[Encoding, ...] = ("sqrt8", "fp16")
_ALIGN = 64


@dataclass(frozen=True)
class RegionSample:
    """The detected regions of one image, best score first.

    Shapes: boxes (R, 4) f32, (x0, y0, x1, y1) in pixels of the stored image of `size` (width, height);
    labels (R,) i16; scores and background (R,) f32; features (R, D) f32. 0 <= R. Where the extractor was told to store
    them, top_labels (R, T) i16 and top_scores (R, T) f32 are each region's best classes, best first; or class_scores
    (R, 1 + C) f32 its distribution over all classes, index 0 the background.
    """

    key: str
    size: tuple[int, int]
    boxes: Float
    labels: npt.NDArray[np.int16]
    scores: Float
    background: Float
    features: Float
    top_labels: npt.NDArray[np.int16] | None = None
    top_scores: Float | None = None
    class_scores: Float | None = None


@dataclass(frozen=True)
class RegionLayout:
    """Byte offsets and sizes of a `.rgn` record's fields, by R, D, encoding, T and C.

    C, `num_classes`, is 0 where the record holds no distributions over all classes.
    """

    max_regions: int
    feature_dim: int
    encoding: Encoding
    num_top: int = 0
    num_classes: int = 0

    @property
    def format(self) -> RegionFormat:
        return CLASS_SCORES_FORMAT if self.num_classes else REGION_FORMAT

    @property
    def class_scores(self) -> str:
        """What is stored of the classes' probabilities, as `ExtractorConfig.class_scores` says it."""
        if self.num_classes:
            return "all"
        return f"top:{self.num_top}" if self.num_top else "none"

    @property
    def labels_offset(self) -> int:
        return _HEADER_BYTES + 16 * self.max_regions

    @property
    def scores_offset(self) -> int:
        return self.labels_offset + 2 * self.max_regions

    @property
    def background_offset(self) -> int:
        return self.scores_offset + 2 * self.max_regions

    @property
    def scales_offset(self) -> int:
        return self.background_offset + 2 * self.max_regions

    @property
    def top_labels_offset(self) -> int:
        return self.scales_offset + 2 * self.max_regions

    @property
    def top_scores_offset(self) -> int:
        return self.top_labels_offset + 2 * self.max_regions * self.num_top

    @property
    def features_offset(self) -> int:
        end = self.top_scores_offset + 2 * self.max_regions * self.num_top
        return -(-end // _ALIGN) * _ALIGN

    @property
    def feature_dtype(self) -> np.dtype[np.uint8] | np.dtype[np.float16]:
        return np.dtype(np.uint8) if self.encoding == "sqrt8" else np.dtype(np.float16)

    @property
    def class_scores_offset(self) -> int:
        """Where class scores begin; the end of a record that has none."""
        end = self.features_offset + self.max_regions * self.feature_dim * self.feature_dtype.itemsize
        return -(-end // _ALIGN) * _ALIGN if self.num_classes else end

    @property
    def record_bytes(self) -> int:
        return self.class_scores_offset + self.max_regions * self.num_classes

    @property
    def tar_bytes(self) -> int:
        """Stride of a record in its tar: member header, record, padding."""
        return TAR_BLOCK + -(-self.record_bytes // TAR_BLOCK) * TAR_BLOCK


def quantise(features: Float) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float16]]:
    """The sqrt8 encoding: q = round(255 sqrt(x / scale)), with the row's maximum as scale.

    The scale is rounded up to half precision first and then used for the row, so storing it in two bytes adds no
    error and no q exceeds 255. Exact zeros stay zeros.

    Args:
        features: (R, D), all >= 0 and finite.

    Returns:
        q (R, D) uint8 and scales (R,) float16.
    """
    largest = features.max(axis=1, initial=0.0)
    with np.errstate(over="ignore"):
        scales = largest.astype(np.float16)
    scales = np.where(scales.astype(np.float32) < largest, np.nextafter(scales, np.float16(np.inf)), scales)
    if not np.isfinite(scales).all():
        raise ValueError(f"largest feature {float(largest.max())} is beyond half precision (65504)")
    divisor = np.where(scales > 0, scales, 1).astype(np.float32)
    q = np.rint(255.0 * np.sqrt(features / divisor[:, None]))
    return q.astype(np.uint8), scales.astype(np.float16)


def dequantise(q: npt.NDArray[np.uint8], scales: npt.NDArray[np.float16]) -> Float:
    """Invert `quantise` within its error: x = q^2 scale / 255^2. Training does this on the device instead."""
    values = q.astype(np.float32)
    return np.asarray(values * values * (scales.astype(np.float32) / 65025.0)[..., None], dtype=np.float32)


def check_regions(sample: RegionSample) -> None:
    """Raise ShardError, naming the key, unless shapes, order and values are as `RegionSample` promises."""
    count = len(sample.boxes)
    for name in ("labels", "scores", "background", "features"):
        length = len(getattr(sample, name))
        if length != count:
            raise ShardError(f"key {sample.key}: {count} boxes but {length} {name}; extract this shard again")
    if sample.boxes.shape != (count, 4) or sample.features.ndim != 2:
        raise ShardError(f"key {sample.key}: boxes {sample.boxes.shape}, features {sample.features.shape}")
    if not (np.isfinite(sample.boxes).all() and np.isfinite(sample.features).all()):
        raise ShardError(f"key {sample.key}: a box or feature is not finite; check the detector's weights")
    for name in ("scores", "background"):
        values = getattr(sample, name)
        if not ((values >= 0) & (values <= 1)).all():
            raise ShardError(f"key {sample.key}: {name} are not all probabilities from 0 to 1; check the detector")
    if not all(0 < side < 2**32 for side in sample.size):
        raise ShardError(f"key {sample.key}: a picture of {sample.size[0]} x {sample.size[1]} pixels cannot be")
    if count and (np.diff(sample.scores) > 0).any():
        raise ShardError(f"key {sample.key}: regions are not ordered best score first")
    if sample.top_labels is not None and sample.top_scores is not None:
        shapes = sample.top_labels.shape, sample.top_scores.shape
        if sample.top_labels.ndim != 2 or shapes[0] != shapes[1] or len(sample.top_labels) != count:
            raise ShardError(f"key {sample.key}: {count} boxes, top labels {shapes[0]}, top scores {shapes[1]}")
        if not np.isfinite(sample.top_scores).all() or (np.diff(sample.top_scores, axis=1) > 0).any():
            raise ShardError(f"key {sample.key}: top scores are not finite numbers, best first")
    elif sample.top_labels is not None or sample.top_scores is not None:
        raise ShardError(f"key {sample.key}: top labels and top scores go together, but one is missing")
    if sample.class_scores is not None:
        _check_class_scores(sample, sample.class_scores)


def _check_class_scores(sample: RegionSample, found: Float) -> None:
    if found.ndim != 2 or len(found) != len(sample.boxes) or found.shape[1] < 2:
        raise ShardError(f"key {sample.key}: {len(sample.boxes)} boxes, but class scores {found.shape}")
    if not (np.isfinite(found).all() and (found >= 0).all()):
        raise ShardError(f"key {sample.key}: class scores are not all probabilities; check the detector")
    sums = found.sum(axis=1)
    if (np.abs(sums - 1) > SUM_TOLERANCE).any():
        wrong = float(sums[np.abs(sums - 1).argmax()])
        raise ShardError(
            f"key {sample.key}: the class scores of a region sum to {wrong:.4g}, not to 1; check the detector, or "
            "store no class scores"
        )
    if (np.abs(found[:, 0] - sample.background) > SUM_TOLERANCE).any():
        raise ShardError(f"key {sample.key}: class scores begin with another background probability than the region's")


def encode_regions(sample: RegionSample, layout: RegionLayout) -> bytes:
    """Encode one `.rgn` record.

    Raises:
        ShardError: more regions than the layout's, another D, T or C, or negative features with sqrt8.
    """
    check_regions(sample)
    count, dim = sample.features.shape
    if count > layout.max_regions or dim != layout.feature_dim:
        raise ShardError(
            f"key {sample.key}: {count} regions x {dim}, but the shard holds up to "
            f"{layout.max_regions} x {layout.feature_dim}"
        )
    num_top = 0 if sample.top_labels is None else sample.top_labels.shape[1]
    if num_top != layout.num_top:
        raise ShardError(f"key {sample.key}: {num_top} top labels a region, but the shard holds {layout.num_top}")
    num_classes = 0 if sample.class_scores is None else sample.class_scores.shape[1] - 1
    if num_classes != layout.num_classes:
        raise ShardError(
            f"key {sample.key}: class scores of {num_classes} classes, but the shard holds those of "
            f"{layout.num_classes}"
        )
    if count and float(np.abs(sample.features).max()) > 65504:
        raise ShardError(f"key {sample.key}: a feature is beyond half precision (65504)")
    if layout.encoding == "sqrt8":
        if count and float(sample.features.min()) < 0:
            raise ShardError(
                f"key {sample.key}: feature {float(sample.features.min()):.4g} is negative and sqrt8 stores none; "
                "set extractor.encoding to 'fp16'"
            )
        features, scales = quantise(sample.features)
    else:
        features, scales = sample.features.astype(np.float16), np.ones(count, np.float16)
    record = bytearray(layout.record_bytes)
    _HEADER.pack_into(
        record,
        0,
        _MAGIC,
        _version(layout.num_classes),
        layout.max_regions,
        layout.feature_dim,
        _ENCODINGS.index(layout.encoding),
        sample.size[0],
        sample.size[1],
        count,
        layout.num_top,
        layout.num_classes,
    )
    fields = [
        (_HEADER_BYTES, sample.boxes.astype("<f4")),
        (layout.labels_offset, sample.labels.astype("<i2")),
        (layout.scores_offset, sample.scores.astype("<f2")),
        (layout.background_offset, sample.background.astype("<f2")),
        (layout.scales_offset, scales.astype("<f2")),
        (layout.features_offset, features),
    ]
    if sample.top_labels is not None and sample.top_scores is not None:
        fields.append((layout.top_labels_offset, sample.top_labels.astype("<i2")))
        fields.append((layout.top_scores_offset, sample.top_scores.astype("<f2")))
    if sample.class_scores is not None:
        fields.append((layout.class_scores_offset, quantise_class_scores(sample.class_scores)))
    for offset, array in fields:
        content = array.tobytes()
        record[offset : offset + len(content)] = content
    return bytes(record)


def decode_layout(key: str, record: bytes) -> tuple[RegionLayout, tuple[int, int], int]:
    """Decode the header of a `.rgn` record: layout, image (width, height), number of valid regions.

    Raises:
        ShardError: not a record, another format version, or cut.
    """
    if len(record) < _HEADER_BYTES or record[:4] != _MAGIC:
        raise ShardError(f"key {key}: not a .rgn record; extract this shard again")
    _, version, regions, dim, encoding, width, height, count, num_top, num_classes = _HEADER.unpack_from(record)
    if version not in (1, 2):
        raise ShardError(f"key {key}: .rgn version {version}, this program reads 1 and 2; extract this shard again")
    if encoding >= len(_ENCODINGS) or count > regions or version != _version(num_classes):
        raise ShardError(f"key {key}: damaged .rgn header; extract this shard again")
    return RegionLayout(regions, dim, _ENCODINGS[encoding], num_top, num_classes), (width, height), count


def _version(num_classes: int) -> int:
    """The record version; one that holds class scores is not for readers of before."""
    return 2 if num_classes else 1


def decode_regions(key: str, record: bytes) -> RegionSample:
    """Invert `encode_regions` within the encoding's error; padding rows are left out.

    Raises:
        ShardError: as `decode_layout`, or the record's length is not the layout's.
    """
    layout, size, count = decode_layout(key, record)
    if len(record) != layout.record_bytes:
        raise ShardError(f"key {key}: {len(record)} bytes, expected {layout.record_bytes}; extract this shard again")

    def field(offset: int, dtype: str, width: int = 1) -> np.ndarray:
        return np.frombuffer(record, dtype, count * width, offset)

    raw = field(layout.features_offset, layout.feature_dtype.str, layout.feature_dim).reshape(count, layout.feature_dim)
    if layout.encoding == "sqrt8":
        features = dequantise(raw, field(layout.scales_offset, "<f2"))
    else:
        features = raw.astype(np.float32)
    top_labels = top_scores = None
    if layout.num_top:
        shape = (count, layout.num_top)
        top_labels = field(layout.top_labels_offset, "<i2", layout.num_top).reshape(shape).copy()
        top_scores = field(layout.top_scores_offset, "<f2", layout.num_top).reshape(shape).astype(np.float32)
    background = field(layout.background_offset, "<f2").astype(np.float32)
    class_scores = None
    if layout.num_classes:
        codes = field(layout.class_scores_offset, "u1", layout.num_classes).reshape(count, layout.num_classes)
        class_scores = dequantise_class_scores(codes, background)
    sample = RegionSample(
        key=key,
        size=size,
        boxes=field(_HEADER_BYTES, "<f4", 4).reshape(count, 4).copy(),
        labels=field(layout.labels_offset, "<i2").copy(),
        scores=field(layout.scores_offset, "<f2").astype(np.float32),
        background=background,
        features=features,
        top_labels=top_labels,
        top_scores=top_scores,
        class_scores=class_scores,
    )
    check_regions(sample)
    return sample


def read_region_shard(stream: IO[bytes], shard: str) -> Iterator[RegionSample]:
    """Read the samples of a feature shard, in order; `shard` names it in errors."""
    for key, record in read_region_records(stream, shard):
        yield decode_regions(key, record)


def read_region_records(stream: IO[bytes], shard: str) -> Iterator[tuple[str, bytes]]:
    """Read key and `.rgn` record of each sample of a feature shard, in order; `shard` names it in errors."""
    for name, content in read_tar(stream, shard):
        key, extension = key_and_extension(name, shard)
        if extension != "rgn":
            raise ShardError(f"{shard}: unexpected member {name!r}; extract this shard again")
        yield key, content
