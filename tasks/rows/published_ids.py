"""Published image and caption ids: Karpathy's cocoid and sentid, or those of COCO's own file.

A manifest numbers rows and knows no such ids, but it knows each picture's file name and each caption's text. By these
the published file is matched with it again. Of rows that were no such file, the ids are our own keys,
as numbers where they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from model.downstream.retrieval.positives import Id
from tasks.errors import UserError
from tasks.rows.forms import parse_json
from tasks.rows.manifest import ManifestRow, read_manifest
from tasks.storage.paths import manifest_path
from tasks.storage.root import Root


@dataclass(slots=True)
class _Sentence:
    raw: Any = None
    sentid: int | None = None


@dataclass(slots=True)
class _Image:
    """An image of Karpathy's file (filename, cocoid or imgid, sentences) or of COCO's (file_name, id)."""

    filename: Any = None
    cocoid: int | None = None
    imgid: int | None = None
    sentences: list[_Sentence | None] | None = None
    file_name: Any = None
    id: int | None = None

    @property
    def name(self) -> str:
        return _name(str(self.filename or self.file_name or ""))

    @property
    def number(self) -> int | None:
        return next((number for number in (self.cocoid, self.id, self.imgid) if number is not None), None)


@dataclass(slots=True)
class _Annotation:
    image_id: int | None = None
    id: int | None = None
    caption: Any = None


@dataclass(slots=True)
class _File:
    images: list[_Image]
    annotations: list[_Annotation] = field(default_factory=list)


@dataclass(frozen=True)
class _Published:
    """Ids by file name, and by file name and text; an image may have a text more than once."""

    images: dict[str, int]
    captions: dict[tuple[str, str], list[int]]


def published_ids(
    root: Root, dataset: str, split: str, path: str | None, image_keys: Sequence[str], caption_keys: Sequence[str]
) -> tuple[list[Id], list[Id]]:
    """Read the ids of images and captions, by their keys.

    An image or a caption that the file does not hold has its key in words, which is no id.

    Args:
        path: the published file; None: the ids are the keys, as numbers where they are.
        image_keys, caption_keys: of the split's manifest.

    Raises:
        UserError: the file is missing, is none of Karpathy's or COCO's, or holds none of these images.
    """
    if path is None:
        return [_number(key) for key in image_keys], [_number(key) for key in caption_keys]
    published = _read(path, f"ids of {dataset}/{split} (--ids)")
    if not root.exists(manifest_path(dataset, split)):
        raise UserError(
            f"{dataset}/{split} has no manifest, so its captions cannot be found in {path}; leave the file of ids out, "
            "and have the ground truth name rows by our keys"
        )
    rows = {row.key: row for row in read_manifest(root, dataset, split)}
    captions = _caption_ids(published, rows)
    images = [published.images.get(_name(rows[key].url)) if key in rows else None for key in image_keys]
    if all(number is None for number in images):
        raise UserError(
            f"{path} names none of the {len(images):,} images of {dataset}/{split} by its file name; give the "
            "file of captions that they were published with"
        )
    return (
        [_no_id(key) if number is None else number for key, number in zip(image_keys, images, strict=True)],
        [captions.get(key, _no_id(key)) for key in caption_keys],
    )


def manifest_keys(root: Root, dataset: str, split: str) -> tuple[list[str], list[str]] | None:
    """Keys of all images and captions in a split's manifest; None without a manifest."""
    if not root.exists(manifest_path(dataset, split)):
        return None
    rows = [row for row in read_manifest(root, dataset, split) if not row.outcome]
    return [row.key for row in rows if row.fetches], [row.key for row in rows]


def _caption_ids(published: _Published, rows: dict[str, ManifestRow]) -> dict[str, int]:
    """Give ids to equal texts of one image in order: the first row has the first id."""
    left: dict[tuple[str, str], Iterator[int]] = {text: iter(ids) for text, ids in published.captions.items()}
    found = {}
    for key, row in rows.items():
        number = next(left.get((_name(row.url), _plain(row.caption)), iter(())), None)
        if number is not None:
            found[key] = number
    return found


def _read(path: str, where: str) -> _Published:
    file = parse_json(_File, path, where, "a file of captions of Karpathy's or COCO's form")
    images: dict[str, int] = {}
    names: dict[int, str] = {}
    captions: dict[tuple[str, str], list[int]] = {}
    for image in file.images:
        if image.number is None:
            continue
        if images.setdefault(image.name, image.number) != image.number:
            raise UserError(f"{where}: {path} has two images named {image.name}; their captions cannot be told apart")
        names[image.number] = image.name
        for sentence in image.sentences or ():
            if sentence is not None and sentence.sentid is not None:
                captions.setdefault((image.name, _plain(sentence.raw)), []).append(sentence.sentid)
    for annotation in file.annotations:
        if annotation.id is not None and annotation.image_id in names:
            captions.setdefault((names[annotation.image_id], _plain(annotation.caption)), []).append(annotation.id)
    if not images or not captions:
        raise UserError(
            f"{where}: {path} gives no ids to images and captions; give Karpathy's json (cocoid and sentid) or COCO's "
            "own captions"
        )
    return _Published(images, captions)


def _name(path: str) -> str:
    """A file's name without its folders, which differ between a published file and a URL."""
    return path.strip().rsplit("/", 1)[-1]


def _plain(text: object) -> str:
    return " ".join(text.split()) if isinstance(text, str) else ""


def _number(key: str) -> Id:
    return int(key) if key.isdecimal() else key


def _no_id(key: str) -> str:
    return f"key {key}"
