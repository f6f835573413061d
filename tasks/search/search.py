"""Search with a trained run: pictures for a text, captions for a picture. In a notebook:

    from tasks.search import open_search
    search = open_search("data", run="finetune-0123456789ab", images="retrieval/test")
    search.images("a red ball left of a cube", top=5)

gives a list of Hit(key, score, caption, path), best first; `hit.picture()` is its picture, and
`search.captions("photo.jpg")` finds captions for a picture. The model is loaded once and asked as often as you like.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from feature_extraction.samples.regions import RegionSample, decode_regions
from model.downstream.retrieval.config import ScoringConfig, Shortlist
from model.errors import InputError
from tasks.errors import UserError
from tasks.records import CheckpointRef
from tasks.search.defaults import choose_split, newest_run
from tasks.search.query_picture import DetectorFiles, PictureDetector, picture_settings
from tasks.search.stored_pictures import StoredPictures
from tasks.storage.local_copy import local_checkpoint, with_local_captions
from tasks.storage.root import Root
from tasks.training.runs import CheckpointChoice, RunRef, choose_checkpoint, data_for, find_run

if TYPE_CHECKING:
    from model.data.batch import Regions
    from model.data.captions import Captions
    from model.data.store import FeatureStore
    from model.downstream.retrieval.search import Ranker

log = logging.getLogger(__name__)

OnPairs = Callable[[int, int], object]
"""Called with the pairs that are scored and with all that there are to score."""


def _say_nothing(done: int, total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Hit:
    """A picture that was found, or a caption with the picture it belongs to.

    Attributes:
        key: of the picture.
        score: matching logit; higher fits better, and only the order means something.
        caption: the one found; of a picture found by a text, its first one.
        path: the picture's file or URL, as its row of the manifest names it; where there is none, its shard and member.
    """

    key: str
    score: float
    caption: str
    path: str
    _read_jpeg: Callable[[str], bytes | None] = field(repr=False, compare=False)

    def picture(self) -> Image.Image:
        """The picture as it was stored for extraction.

        Raises:
            UserError: its image shard is not there any more.
        """
        jpeg = self._read_jpeg(self.key)
        if jpeg is None:
            raise UserError(
                f"the stored picture of {self.key} is not there any more; {self.path} is where it came from"
            )
        return Image.open(io.BytesIO(jpeg))


@dataclass(frozen=True)
class QueryPicture:
    """A picture to find captions for: its file's name or key, and its regions as a shard holds them."""

    name: str
    jpeg: bytes | None
    record: bytes

    @property
    def regions(self) -> RegionSample:
        return decode_regions(self.name, self.record)


def open_search(
    root: str | Root,
    run: str | None = None,
    images: str | None = None,
    checkpoint: CheckpointChoice = "result",
    scoring: ScoringConfig | None = None,
    detector_files: DetectorFiles | None = None,
) -> Search:
    """Load a run's checkpoint, and open the split to search.

    Args:
        root: where runs and features lie.
        run: its name, or the beginning of it; None: the newest complete one, see `newest_run`.
        images: DATASET/SPLIT whose pictures and captions are searched; None: the only one that has features.
        checkpoint: of the run.
        scoring: device, batch size, precision; with `shortlist`, searches are approximate.
        detector_files: for pictures from a disk, where the features know their detector's files by digest only.

    Raises:
        UserError: there is no such run, checkpoint or split, or they do not fit each other.
        ShardError: the features are damaged.
    """
    under = Root(root) if isinstance(root, str) else root
    config = scoring or ScoringConfig()
    chosen = newest_run(under) if run is None else find_run(under, run)
    weights = choose_checkpoint(under, chosen, checkpoint)
    name = choose_split(under, weights, images)
    source = with_local_captions(under, data_for(under, weights, *name).source)

    from model.data.captions import load_captions
    from model.data.store import open_store
    from model.downstream.retrieval.search import Ranker
    from model.families.fit import check_features, check_matching
    from model.training.checkpoint import load_model
    from model.training.loop import set_up_torch
    from model.training.processes import pick_device

    set_up_torch(config.num_threads)
    with _input_errors_told():
        device = pick_device(config.device)
        with redirect_stdout(io.StringIO()):  # The hub's loader prints a line, but stdout is for results.
            model, vocabulary = load_model(local_checkpoint(under, weights))
        store = open_store(source, model.config.adaptive_regions)
        check_features(model, store, weights.run)
        check_matching(model, weights.run)
        captions = load_captions(source, store)
        ranker = Ranker(model.to(device), vocabulary, store, captions, config, device)
    gpu = f"cuda:{device.index or 0}"
    detector = PictureDetector(
        store.manifest,
        picture_settings(under, *name),
        detector_files or DetectorFiles(),
        gpu if device.type == "cuda" else "cpu",
    )
    return Search(
        root=under,
        run=chosen,
        checkpoint=weights,
        dataset=name[0],
        split=name[1],
        shortlist=config.shortlist,
        ranker=ranker,
        store=store,
        captions=captions,
        detector=detector,
    )


class Search:
    """A loaded checkpoint and an opened split. `open_search` makes one.

    Attributes:
        root: where everything lies.
        run: whose checkpoint is asked.
        checkpoint: that is asked.
        dataset: that is searched.
        split: that is searched.
        num_images: pictures that are searched.
        num_captions: captions that are searched.
        pictures: of the split.
        labels: names of the regions' labels.
    """

    def __init__(
        self,
        root: Root,
        run: RunRef,
        checkpoint: CheckpointRef,
        dataset: str,
        split: str,
        shortlist: Shortlist | None,
        ranker: Ranker,
        store: FeatureStore,
        captions: Captions,
        detector: PictureDetector,
    ) -> None:
        self.root, self.run, self.checkpoint, self.dataset, self.split = root, run, checkpoint, dataset, split
        self.num_images, self.num_captions = len(store), len(captions.texts)
        self.pictures = StoredPictures(root, dataset, split, store)
        self.labels = store.manifest.labels
        self._ranker, self._shortlist, self._detector = ranker, shortlist, detector
        self._store, self._captions = store, captions

    def images(self, text: str, top: int = 5, on_pairs: OnPairs = _say_nothing) -> list[Hit]:
        """The pictures that fit a text best, best first; equal scores come in the order of the split.

        Words that the vocabulary does not know, and a text longer than the model reads, are warned of in the log.

        Args:
            text: in the words of a caption.
            top: how many.
            on_pairs: is told how far it is.

        Raises:
            UserError: no word of the text is known; or scores are not finite.
            ShardError: a shard is damaged.
        """
        self._check_top(top, self.num_images)
        with _input_errors_told():
            query = self._ranker.read(text)
            if query.unknown:
                log.warning("the vocabulary of this run does not know: %s", ", ".join(query.unknown))
            if query.cut:
                log.warning("the query is longer than the model reads, and is cut before: %s", query.cut)
            ranking = self._ranker.images(query, on_pairs)
        found = zip(ranking.rows[:top].tolist(), ranking.scores[:top].tolist(), strict=True)
        return [self._hit(row, score, self._first_caption(row)) for row, score in found]

    def captions(self, picture: str | Path | QueryPicture, top: int = 5, on_pairs: OnPairs = _say_nothing) -> list[Hit]:
        """The captions that fit a picture best, best first; equal scores come in the order of the split.

        A text that several captions have is listed once, with the picture of the first.

        Args:
            picture: see `read_picture`.
            top: how many.
            on_pairs: is told how far it is.

        Raises:
            UserError: as `read_picture`; or scores are not finite.
            ShardError: a shard is damaged.
        """
        self._check_top(top, self.num_captions)
        query = picture if isinstance(picture, QueryPicture) else self.read_picture(picture)
        manifest, adaptive = self._store.manifest, self._store.adaptive_regions

        def regions(most: int) -> Regions:
            from model.downstream.retrieval.search import record_regions

            return record_regions(query.record, manifest.layout, len(manifest.labels), most, adaptive)

        with _input_errors_told():
            ranking = self._ranker.captions(regions, on_pairs)
        best: dict[str, tuple[int, float]] = {}
        for row, score in zip(ranking.rows.tolist(), ranking.scores.tolist(), strict=True):
            best.setdefault(self._captions.texts[row], (row, score))
            if len(best) == top:
                break
        return [self._hit(int(self._captions.image_rows[row]), score, text) for text, (row, score) in best.items()]

    def read_picture(self, picture: str | Path) -> QueryPicture:
        """A picture with its regions: a file of any common form, or one of the split by its key.

        Raises:
            UserError: it is neither, or no picture; or its regions cannot be found here, see `PictureDetector.read`.
            ShardError: a shard is damaged.
        """
        if Path(picture).is_file():
            jpeg, record = self._detector.read(Path(picture))
            return QueryPicture(Path(picture).name, jpeg, record)
        key = str(picture)
        if not self.pictures.has(key):
            raise UserError(
                f"{key} is neither a picture file nor the key of a picture of {self.dataset}/{self.split} that has "
                "regions"
            )
        return QueryPicture(key, self.pictures.jpeg(key), self.pictures.record(key))

    def approximate(self, candidates: int) -> str | None:
        """How many candidates are scored exactly, in words; None where all are."""
        short = self._shortlist
        if short is None or not self._ranker.shortens(candidates):
            return None
        return f"only the best {short.size:,} of a first pass over {short.regions} regions were scored exactly"

    def _hit(self, row: int, score: float, caption: str) -> Hit:
        """The hit for a picture, by its row in the feature store."""
        key = self._store.keys[row]
        return Hit(key, score, caption, self.pictures.path(key), self.pictures.jpeg)

    def _first_caption(self, row: int) -> str:
        """A picture's first caption; empty where it has none."""
        captions = np.flatnonzero(self._captions.image_rows == row)
        return self._captions.texts[int(captions[0])] if len(captions) else ""

    def _check_top(self, top: int, candidates: int) -> None:
        if top < 1:
            raise UserError(f"top={top}: ask for at least one hit")
        if self._shortlist is not None and top > self._shortlist.size and self._ranker.shortens(candidates):
            raise UserError(f"a shortlist of {self._shortlist.size} has fewer than the {top} hits asked for; raise it")


@contextmanager
def _input_errors_told() -> Iterator[None]:
    """Raise the model room's InputError as a UserError."""
    try:
        yield
    except InputError as error:
        raise UserError(str(error)) from error
