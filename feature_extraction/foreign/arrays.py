"""Base64 arrays in other programs' TSVs: rows of half, single or double precision numbers.

No such file says how wide its numbers are. Where the columns are known (four of a box, one of a score), the bytes tell.
Features of 2048 half-precision numbers take as many bytes as 1024 of single precision: what the bytes hold decides.
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from feature_extraction.samples.regions import Float

FloatType = Literal["float16", "float32", "float64"]

_SIZES: dict[FloatType, int] = {"float16": 2, "float32": 4, "float64": 8}
_WAY_OUT = "say with --feature-dim how many numbers a region has"
_NAMES = "float16, float32 or float64"
_LOOKED_AT = 1 << 16  # Bytes of a picture's features.
_SMALLEST, _LARGEST = 2.0**-40, 65504.0  # Features of a network lie between; misread ones lie far outside.
_FEW_ODD = 0.005  # A random half-precision number is infinite or NaN with a chance of 1/32.
_SOME = 16
_ENOUGH = 256  # Pairs of half-precision numbers, to compare the first of them with the second.
_ALIKE = 0.3


class ForeignError(ValueError):
    """A row or file of another program that breaks its format. The message says what is wrong, not where."""


def base64_field(row: Mapping[str, Any], name: str) -> bytes:
    """Decode a base64 field to bytes."""
    text = row.get(name)
    if not isinstance(text, str):
        raise ForeignError(f"no base64 text {name!r}")
    if text.startswith("b'") and text.endswith("'"):  # Python 3's csv module writes bytes so, and many files are so.
        text = text[2:-1]
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ForeignError(f"{name} is not whole base64 ({error})") from error


def float_columns(content: bytes, count: int, name: str, columns: int) -> Float:
    """Numbers (count, columns) f32, of the precision that their bytes and count imply.

    Raises:
        ForeignError: none does, or the bytes are of whole numbers.
    """
    fits = [float_type for float_type, size in _SIZES.items() if len(content) == size * columns * count]
    if not fits:
        raise ForeignError(f"{name} has {len(content)} bytes, which are not {count} rows of {columns} {_NAMES}")
    numbers = _numbers(content, fits[0] if count else "float32")
    _check_not_whole(numbers, name)
    return numbers.astype(np.float32).reshape(count, columns)


def float_rows(content: bytes, count: int, name: str, float_type: FloatType = "float32") -> Float:
    """Rows (count, D) f32, with the D that the bytes imply; empty where there are no rows.

    Raises:
        ForeignError: the bytes are not so many rows of whole numbers of this type.
    """
    row_bytes = len(content) // count if count else 0
    size = _SIZES[float_type]
    if len(content) != row_bytes * count or row_bytes % size or (count and not row_bytes):
        raise ForeignError(f"{name} has {len(content)} bytes, which is not {count} rows of {float_type}")
    with np.errstate(over="ignore"):  # Values that become infinite are refused.
        return _numbers(content, float_type).astype(np.float32).reshape(count, row_bytes // size)


def tell_float_type(pictures: Iterable[tuple[int, bytes]], dims: tuple[int, ...] = ()) -> FloatType:
    """The number type that features are written in.

    Where the bytes do not tell, float32, as in nearly all files.

    Args:
        pictures: the number of regions and the features of some pictures of one file.
        dims: how many numbers a region may have; none: as many as the bytes make.

    Raises:
        ForeignError: regions have not so many numbers of any type, or float16 and float32 are as likely; or what they
            hold contradicts the number of them.
    """
    heads: dict[int, list[bytes]] = {}
    lengths: Counter[int] = Counter()
    for count, content in pictures:
        if count and content and len(content) % count == 0:
            row_bytes = len(content) // count
            lengths[row_bytes] += 1
            heads.setdefault(row_bytes, []).append(content[: min(len(content), _LOOKED_AT) // 8 * 8])
    if not lengths:
        return "float32"
    row_bytes = lengths.most_common(1)[0][0]
    content = b"".join(heads[row_bytes])
    float_type = _type_of_length(row_bytes, dims) if dims else _type_of_content(content, row_bytes)
    if float_type == "float16":
        _check_not_bytes(content, row_bytes)
    odd = _odd_share(_numbers(content, float_type))
    if dims and odd > _FEW_ODD and _is_of_another_type(content, row_bytes, float_type):
        made = f"{row_bytes // _SIZES[float_type]} {float_type} numbers"
        raise ForeignError(
            f"features have {row_bytes} bytes a region, and read as {made} {odd:.0%} of them are infinite, next to "
            f"nothing or the like; {_WAY_OUT}"
        )
    return float_type


def _is_of_another_type(content: bytes, row_bytes: int, float_type: FloatType) -> bool:
    try:
        return _type_of_content(content, row_bytes) != float_type
    except ForeignError:
        return False  # It may be this one.


def _type_of_length(row_bytes: int, dims: tuple[int, ...]) -> FloatType:
    for float_type, size in _SIZES.items():
        if row_bytes in [size * dim for dim in dims]:
            return float_type
    made = " or ".join(f"{row_bytes // size} {name}" for name, size in _SIZES.items() if row_bytes % size == 0)
    raise ForeignError(
        f"features have {row_bytes} bytes a region, which are not {dims[0]} numbers of {_NAMES}"
        + (f"; they may be {made}: {_WAY_OUT}" if made else "")
    )


def _type_of_content(content: bytes, row_bytes: int) -> FloatType:
    """The number type whose reading looks like features.

    Read as another type, numbers are full of impossible ones, and their halves are not alike.
    """
    singles = np.frombuffer(content, "<u4")
    is_single = row_bytes % 4 == 0 and _odd_share(_numbers(content, "float32")) <= _FEW_ODD
    # Doubles that were of lower precision once may have nothing in their lower halves.
    is_padded = np.count_nonzero(singles[1::2]) >= _SOME and not singles[::2].any()
    if row_bytes % 8 == 0 and (is_padded or not is_single) and _odd_share(_numbers(content, "float64")) <= _FEW_ODD:
        return "float64"
    if _odd_share(_numbers(content, "float16")) > _FEW_ODD:
        return "float32"
    pairs = np.frombuffer(content, "<u2").reshape(-1, 2)
    pairs = pairs[pairs.any(axis=1)]
    if len(pairs) < _ENOUGH:
        numbers = np.abs(_numbers(content, "float32"))
        is_tiny = bool(((numbers > 0) & (numbers < _SMALLEST)).any())
        return "float16" if is_tiny or row_bytes % 4 else "float32"
    if _distance(pairs >> 10) <= _ALIKE:
        halves = np.frombuffer(content, "<u1").reshape(-1, 2)
        if _distance(halves[halves.any(axis=1)]) <= _ALIKE:
            raise ForeignError(
                f"features have {row_bytes} bytes a region, which seem to be as many numbers of one byte"
            )
        return "float16"
    if is_single:
        return "float32"
    raise ForeignError(
        f"features have {row_bytes} bytes a region, which may be {row_bytes // 2} float16 or {row_bytes // 4} float32 "
        f"numbers; {_WAY_OUT}"
    )


def _check_not_bytes(content: bytes, row_bytes: int) -> None:
    """Raise where both bytes of half-precision numbers are alike: the file holds one-byte numbers."""
    halves = np.frombuffer(content, np.uint8).reshape(-1, 2)
    halves = halves[halves.any(axis=1)]
    if len(halves) >= _ENOUGH and _distance(halves) <= _ALIKE:
        raise ForeignError(
            f"features have {row_bytes} bytes a region, which seem to be as many numbers of one byte; write them as "
            "float32"
        )


def _distance(pairs: npt.NDArray[Any]) -> float:
    """How differently the two of each pair are distributed, 0 to 1.

    The lower half of a float is noise, or nothing.
    """
    first, second = (np.bincount(pairs[:, half], minlength=256) for half in (0, 1))
    return float(np.abs(first - second).sum()) / (2 * len(pairs))


def _odd_share(numbers: npt.NDArray[Any]) -> float:
    """Share of the nonzero numbers that features hardly ever are.

    Subnormal ones of half precision do not count.
    """
    sizes = np.abs(numbers[numbers != 0])
    if not len(sizes):
        return 0.0
    return float((~((sizes >= _SMALLEST) & (sizes <= _LARGEST))).mean())


def _numbers(content: bytes, float_type: FloatType) -> npt.NDArray[Any]:
    return np.frombuffer(content, np.dtype(float_type).newbyteorder("<"))


def _check_not_whole(numbers: npt.NDArray[Any], name: str) -> None:
    """Raise where small whole numbers were read as floats: all of them are next to nothing."""
    largest = np.abs(numbers).max(initial=0)
    if 0 < largest < np.finfo(numbers.dtype).smallest_normal:
        size = 8 * numbers.dtype.itemsize
        raise ForeignError(f"{name} are whole numbers of {size} bits, it seems; write them as float{size}")
