"""Image shards, img/1: a JPEG and its facts for each key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from feature_extraction.samples.tars import ShardError, key_and_extension, read_tar

IMAGE_FORMAT = "img/1"


@dataclass(frozen=True)
class ImageSample:
    """One downloaded image with the caption row it came from.

    `jpeg` is a complete upright RGB JPEG of `size` (width, height) pixels; `sha256` is that of the bytes received.
    """

    key: str
    caption: str
    url: str
    size: tuple[int, int]
    sha256: str
    jpeg: bytes


def encode_image(sample: ImageSample) -> list[tuple[str, bytes]]:
    """Encode an image sample as two tar members, in order."""
    about = {
        "format": IMAGE_FORMAT,
        "key": sample.key,
        "caption": sample.caption,
        "url": sample.url,
        "width": sample.size[0],
        "height": sample.size[1],
        "sha256": sample.sha256,
    }
    text = json.dumps(about, ensure_ascii=False, sort_keys=True).encode()
    return [(f"{sample.key}.jpg", sample.jpeg), (f"{sample.key}.json", text)]


def decode_image(key: str, jpeg: bytes, about: bytes) -> ImageSample:
    """Decode what `encode_image` made.

    Raises:
        ShardError: the JSON is not ours, or of another format version.
    """
    try:
        fields = json.loads(about)
        if fields["format"] != IMAGE_FORMAT:
            raise ShardError(f"key {key}: format {fields['format']!r}, expected {IMAGE_FORMAT!r}; download it again")
        size = (int(fields["width"]), int(fields["height"]))
        return ImageSample(key, fields["caption"], fields["url"], size, fields["sha256"], jpeg)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ShardError(f"key {key}: its .json is not an image sample's ({error!r}); download it again") from error


def read_image_shard(stream: IO[bytes], shard: str) -> Iterator[ImageSample]:
    """Read the samples of an image shard, in order; `shard` names it in errors."""
    jpegs: dict[str, bytes] = {}
    for name, content in read_tar(stream, shard):
        key, extension = key_and_extension(name, shard)
        if extension == "jpg":
            jpegs[key] = content
        elif extension == "json" and key in jpegs:
            yield decode_image(key, jpegs.pop(key), content)
        else:
            raise ShardError(f"{shard}: unexpected member {name!r}; write this shard again")
    if jpegs:
        raise ShardError(f"{shard}: {sorted(jpegs)[0]}.jpg has no .json; write this shard again")
