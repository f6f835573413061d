"""A small web to download from: pictures, caption/URL rows, and the faults that real web data has.

    FOLDER/pictures/web/000123.jpg               served at http://127.0.0.1:PORT/web/000123.jpg
           pictures/retrieval/test/000007.jpg
           rows/web-train.tsv                    caption TAB url, no header: the layout of Google's Conceptual Captions
           rows/retrieval-test.tsv
           vocabulary.txt                        every word of the captions
           world.json                            what was made and which URLs misbehave; written last

Neither pictures nor rows tell where an object is: whoever wants regions has to detect them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache, partial
from math import ceil
from pathlib import Path

import numpy as np
from pydantic import Field

from tasks.config import Config
from tasks.errors import UserError
from tasks.records import Record
from tasks.storage.root import Root
from tasks.workers.processes import WorkerPool
from tasks.world.captions import clean_caption, noisy_caption, vocabulary
from tasks.world.scenes import Scene, render_scene

FORMAT = 1
"""Raised when the same config would make another world."""

WORLD = "world.json"
VOCABULARY = "vocabulary.txt"
PICTURES = "pictures"
CAPTIONS_PER_RETRIEVAL_PICTURE = 5
BAD_ROWS = 3
WEB = "web/train"

_JPEG_QUALITY = 92
_CHUNK = 250  # pictures a process draws before it reports
_ADDRESS = re.compile(r"\thttp://127\.0\.0\.1:\d+/")


class WorldConfig(Config):
    """Size and seed of a world."""

    pretraining_images: int = Field(default=8000, ge=20, le=900_000, description="web pictures, one noisy caption each")
    retrieval_train: int = Field(default=300, ge=1, le=900_000, description="retrieval pictures to finetune on")
    retrieval_val: int = Field(default=100, ge=1, le=900_000, description="retrieval pictures to choose steps on")
    retrieval_test: int = Field(default=100, ge=1, le=900_000, description="retrieval pictures of the table")
    seed: int = Field(default=0, ge=0, lt=2**63, description="of pictures, captions and faults")
    workers: int = Field(default=2, ge=1, description="processes that draw; their number changes no byte")


class Fault(StrEnum):
    """A URL's misbehaviour."""

    NOT_FOUND = "not_found"  # 404
    UNAVAILABLE_ONCE = "unavailable_once"  # 503 at the first request, well afterwards
    REDIRECT = "redirect"  # 302 to a place that has the picture
    TRUNCATED = "truncated"  # the first half of the JPEG, status 200
    HTML = "html"  # a page of text, status 200


FAULT_SHARES = {
    Fault.NOT_FOUND: 0.015,
    Fault.UNAVAILABLE_ONCE: 0.01,
    Fault.REDIRECT: 0.01,
    Fault.TRUNCATED: 0.005,
    Fault.HTML: 0.005,
}
REPEATED_SHARE = 0.01  # rows that give an earlier row's URL again


class World(Record):
    """The content of world.json. A folder without it is not a finished world."""

    format: int
    config: WorldConfig
    port: int = Field(description="that the rows name")
    faults: dict[str, Fault] = Field(description="URL path -> how it misbehaves; paths left out behave")


@dataclass(frozen=True)
class WorldFiles:
    """Paths of a world's files."""

    folder: Path
    rows: dict[str, Path]
    """The TSVs of web/train, retrieval/train, retrieval/val and retrieval/test."""
    vocabulary: Path
    made: bool
    """False if the pictures were there before."""


@dataclass(frozen=True)
class _PictureSet:
    """Pictures of one kind, and the rows about them. Its `number` separates its random numbers from other sets'."""

    number: int
    name: str
    folder: str
    pictures: int
    objects: tuple[int, int]
    faults: dict[int, Fault] = field(default_factory=dict)
    """Row -> how its URL misbehaves."""
    repeats: dict[int, int] = field(default_factory=dict)
    """Row -> the earlier, healthy row whose URL it gives again."""

    @property
    def rows_file(self) -> str:
        return f"rows/{self.name.replace('/', '-')}.tsv"

    def url_path(self, row: int) -> str:
        return f"/{self.folder}/{self.repeats.get(row, row):06d}.jpg"


def make_world(folder: Path, config: WorldConfig, port: int) -> WorldFiles:
    """Make the world unless it is there, completing what a killed call left.

    Args:
        folder: where to put it; made if absent.
        config: its size and seed. Another config (other than `workers`) replaces the world.
        port: of the server that will serve it; another port than before rewrites the rows and nothing else.

    Raises:
        UserError: the folder cannot be written, or its world.json was edited.
    """
    root = Root(str(folder))
    root.check_writable()
    sets = _picture_sets(config)
    existing = _existing(root, config, sets)
    if existing is None:
        (folder / WORLD).unlink(missing_ok=True)  # from here on the folder is unfinished
        _make_pictures_and_rows(root, folder, config, sets, port)
        faults = {item.url_path(row): fault for item in sets for row, fault in sorted(item.faults.items())}
        root.publish_model(WORLD, World(format=FORMAT, config=config, port=port, faults=faults))
    else:
        for item in sets:
            rows = root.read_bytes(item.rows_file).decode()
            served = _ADDRESS.sub(f"\t{_address(port)}/", rows)
            if served != rows:
                root.publish_bytes(item.rows_file, served.encode())
        if existing.port != port:
            root.publish_model(WORLD, existing.model_copy(update={"port": port}))
    return WorldFiles(
        folder=folder,
        rows={item.name: folder / item.rows_file for item in sets},
        vocabulary=folder / VOCABULARY,
        made=existing is None,
    )


def read_world(folder: Path) -> World:
    """The finished world in a folder.

    Raises:
        UserError: there is none.
    """
    world = Root(str(folder)).read_model(WORLD, World)
    if world is None:
        raise UserError(f"{folder} holds no finished world ({WORLD} is missing); make it with make_world")
    return world


def _picture_sets(config: WorldConfig) -> tuple[_PictureSet, ...]:
    faults, repeats = _plan_faults(config.pretraining_images, config.seed)
    return (
        _PictureSet(0, WEB, "web", config.pretraining_images, (1, 4), faults, repeats),
        _PictureSet(1, "retrieval/train", "retrieval/train", config.retrieval_train, (3, 5)),
        _PictureSet(2, "retrieval/val", "retrieval/val", config.retrieval_val, (3, 5)),
        _PictureSet(3, "retrieval/test", "retrieval/test", config.retrieval_test, (3, 5)),
    )


def _plan_faults(rows: int, seed: int) -> tuple[dict[int, Fault], dict[int, int]]:
    """Choose the web rows that misbehave, and those that repeat an earlier row.

    Shares are rounded up, so that a small world has every kind.
    """
    rng = np.random.default_rng([seed, rows])
    shuffled = iter((rng.permutation(rows - 1) + 1).tolist())  # row 0 stays healthy
    faults = {next(shuffled): fault for fault, share in FAULT_SHARES.items() for _ in range(ceil(share * rows))}
    repeated = [next(shuffled) for _ in range(ceil(REPEATED_SHARE * rows))]
    healthy = np.setdiff1d(np.arange(rows), [*faults, *repeated])
    return faults, {row: int(rng.choice(healthy[healthy < row])) for row in sorted(repeated)}


def _existing(root: Root, config: WorldConfig, sets: Sequence[_PictureSet]) -> World | None:
    """The finished world of this config, if it is there. Pictures are not looked for one by one."""
    world = root.read_model(WORLD, World)
    if world is None or world.format != FORMAT:
        return None
    same = world.config.model_copy(update={"workers": config.workers}) == config
    whole = all(root.exists(name) for name in (VOCABULARY, *(item.rows_file for item in sets)))
    return world if same and whole else None


def _address(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _make_pictures_and_rows(
    root: Root, folder: Path, config: WorldConfig, sets: Sequence[_PictureSet], port: int
) -> None:
    """Write everything but world.json."""
    chunks = [
        (item, range(start, min(start + _CHUNK, item.pictures)))
        for item in sets
        for start in range(0, item.pictures, _CHUNK)
    ]
    captions: dict[str, list[list[str]]] = {item.name: [] for item in sets}
    jobs = [partial(_draw, folder, config.seed, item, rows) for item, rows in chunks]
    for (item, _), of_chunk in zip(chunks, _run(jobs, config.workers), strict=True):
        captions[item.name] += of_chunk
    for item in sets:
        lines = [
            f"{caption}\t{_address(port)}{item.url_path(row)}"
            for row, of_row in enumerate(captions[item.name])
            for caption in of_row
        ]
        if item.name == WEB:
            lines = _with_bad_rows(lines)
        root.publish_bytes(item.rows_file, "".join(f"{line}\n" for line in lines).encode())
    root.publish_bytes(VOCABULARY, "".join(f"{word}\n" for word in vocabulary()).encode())


def _with_bad_rows(lines: list[str]) -> list[str]:
    """Add three rows that break off before the tab.

    They come a quarter, half and three quarters of the way.
    """
    mixed = list(lines)
    for nth in range(BAD_ROWS, 0, -1):
        mixed.insert(len(lines) * nth // (BAD_ROWS + 1), "free stock photo")
    return mixed


def _run(jobs: Sequence[Callable[[], list[list[str]]]], workers: int) -> list[list[list[str]]]:
    """Results in the order of the jobs.

    Processes are spawned, never forked: the caller may have threads. They die with this process, so that none of a
    killed run still writes into the folder when the next run does.
    """
    if workers == 1:
        return [job() for job in jobs]
    with WorkerPool(workers) as pool:
        futures = [pool.submit(job) for job in jobs]
        return [future.result() for future in futures]


def _draw(folder: Path, seed: int, pictures: _PictureSet, rows: range) -> list[list[str]]:
    """Write the pictures of some rows and return the captions of each row.

    Every row has generators of its own, derived from seed, set and row: how rows are spread over processes changes
    nothing.
    """

    @lru_cache(maxsize=2)
    def scene(row: int) -> Scene:
        return render_scene(np.random.default_rng([seed, pictures.number, row, 0]), *pictures.objects)

    target = folder / PICTURES / pictures.folder
    target.mkdir(parents=True, exist_ok=True)
    captions: list[list[str]] = []
    for row in rows:
        rng = np.random.default_rng([seed, pictures.number, row, 1])
        shown = scene(pictures.repeats.get(row, row))
        # A repeated picture has its earlier name; a missing one is nowhere, though it has a caption.
        if row not in pictures.repeats and pictures.faults.get(row) != Fault.NOT_FOUND:
            (target / f"{row:06d}.jpg").write_bytes(_jpeg(shown))
        if pictures.name == WEB:
            captions.append([noisy_caption(shown, rng, other_scene=scene(row + 1))])
        else:
            captions.append([clean_caption(shown, rng) for _ in range(CAPTIONS_PER_RETRIEVAL_PICTURE)])
    return captions


def _jpeg(scene: Scene) -> bytes:
    stream = io.BytesIO()
    scene.image.save(stream, "JPEG", quality=_JPEG_QUALITY)
    return stream.getvalue()
