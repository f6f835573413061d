"""Shards that fail, and what is gone on with: captions and features of the others, told by everyone, mended later."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import tasks.world
from feature_extraction.config import ExtractorConfig
from flows.params.experiment import RebuildParams
from flows.params.recipes import recipe
from flows.params.shards import DownloadParams, ExtractParams
from flows.results import StageSummary
from flows.steps.data_stages import check_measured
from flows.steps.direct import DOWNLOAD, EXTRACT
from flows.steps.download import Work, run_download
from flows.steps.extract import run_extract
from flows.steps.shards import Collected, collect_shards
from flows.views.stage_texts import losses
from flows.views.status import read_status, status_text
from tasks.download.config import DownloadConfig
from tasks.download.fetching import Session
from tasks.download.pool import DownloadPool
from tasks.download.shard import Again, download_shard
from tasks.errors import StageError, UserError
from tasks.extract.pool import ExtractorPool
from tasks.extract.shard import extract_shard, load_on_device
from tasks.features.feature_sets import feature_sets
from tasks.features.verify_features import verify_features
from tasks.records import ShardRef, ShardResult
from tasks.storage.paths import image_shard_path, journal_path
from tasks.storage.root import Root
from tasks.training.data import DataSpec, resolve_data
from tasks.world.scenes import render_scene

SHARD_SIZE = 3
log = logging.getLogger("flows.test")
EXTRACTOR = ExtractorConfig(
    backend="torchvision",
    model="small",
    weights=str(Path(tasks.world.__file__).with_name("detector.safetensors")),
    max_regions=8,
    num_proposals=32,
    device="cpu",
)


def download(params: DownloadParams) -> StageSummary:
    (summary,) = run_download(params, replace(DOWNLOAD, shards=partial(download_here, params.download)))
    return summary


def download_here(
    config: DownloadConfig, root_uri: str, work: Work, pool: DownloadPool, again: Again, max_workers: int
) -> Collected:
    """What the pool does, without its processes, which take long to start."""
    dataset, ref = work[0]
    with Session(dataset, ref.split, config) as session:
        ended = tried((ref, partial(download_shard, Root(root_uri), dataset, ref, session, again)) for _, ref in work)
        return collect_shards([ref for _, ref in work], ended, log)


def extract_here(
    root_uri: str, refs: Sequence[ShardRef], config: ExtractorConfig, pool: ExtractorPool, max_workers: int
) -> Collected:
    ended = tried((ref, partial(extract_shard, Root(root_uri), ref, config, load=detector)) for ref in refs)
    return collect_shards(refs, ended, log)


detector = cache(load_on_device)


def tried(
    works: Iterable[tuple[ShardRef, Callable[[], ShardResult]]],
) -> Iterator[tuple[ShardRef, ShardResult | BaseException]]:
    for ref, work in works:
        try:
            yield ref, work()
        except Exception as error:  # noqa: BLE001 (what a pool's future does)
            yield ref, error


class Experiment:
    """A root, and the two stages over one split of twelve pictures in four shards. The last two rows share one."""

    def __init__(self, folder: Path) -> None:
        names = [f"{number}.jpg" for number in range(11)] + ["5.jpg"]
        for number in range(11):
            render_scene(np.random.default_rng(number), 2, 4).image.save(folder / f"{number}.jpg", quality=92)
        (folder / "rows.tsv").write_text("".join(f"caption {n}\t{name}\n" for n, name in enumerate(names)))
        split = {"rows": str(folder / "rows.tsv"), "images": str(folder)}
        self.root = Root(str(folder / "data"))
        self.datasets = [{"name": "web", "splits": {"train": split}, "shard_size": SHARD_SIZE}]

    def download(self, max_failed_share: float = 0.0) -> StageSummary:
        params = {"root_uri": self.root.uri, "datasets": self.datasets, "max_failed_share": max_failed_share}
        return download(DownloadParams.model_validate(params))

    def extract(self, max_failed_share: float = 0.0) -> StageSummary:
        params = {"root_uri": self.root.uri, "datasets": self.datasets, "max_failed_share": max_failed_share}
        (summary,) = run_extract(
            ExtractParams.model_validate(params | {"extractor": EXTRACTOR}), replace(EXTRACT, shards=extract_here)
        )
        return summary

    def break_download(self, shard: int) -> Path:
        """A folder where the shard's journal should be written."""
        path = Path(self.root.path(journal_path("web", "train", shard)))
        path.mkdir(parents=True)
        return path

    def break_images(self, shard: int) -> bytes:
        """Bytes of no tar in the place of a shard, which are as many."""
        path = Path(self.root.path(image_shard_path("web", "train", shard)))
        whole = path.read_bytes()
        path.write_bytes(b"\xff" * len(whole))
        return whole

    def captions(self) -> list[str]:
        path = self.root.path("datasets/web/train/captions.parquet")
        return [str(key) for key in pq.read_table(path)["caption_id"].to_pylist()]

    def identity(self) -> dict[str, str]:
        """What the name of a training run on this split is made of."""
        return resolve_data(self.root, DataSpec("web", "train", EXTRACTOR)).identity

    def params(self) -> RebuildParams:
        content = recipe("demo", self.root.uri).model_dump(mode="json")
        content["pretraining_dataset"] = self.datasets[0]
        return RebuildParams.model_validate(content | {"extractor": EXTRACTOR.model_dump()})


def numbered(*numbers: int) -> list[str]:
    return [f"{number:09d}" for number in numbers]


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return Experiment(tmp_path)


def test_what_failed_is_gone_on_without_and_made_later(
    experiment: Experiment, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flows")
    journal = experiment.break_download(1)
    with pytest.raises(StageError, match=r"1 of 4 shards failed: web/train/00001; the others are done, .* a directory"):
        experiment.download()
    assert not Path(experiment.root.path("datasets/web/train/captions.parquet")).exists()

    some = experiment.download(0.25)
    assert (some.ran, some.skipped, [one.ref.shard for one in some.failed]) == (0, 3, [1])
    # Whether row 11 has an image depends on row 5, which is in the shard that failed.
    assert experiment.captions() == numbered(0, 1, 2, 6, 7, 8, 9, 10)
    assert some.counts == {"ok": 8, "duplicate": 1, "shard_failed": 3}
    assert "web/train: going on without 1 of 4 shards (3 rows), which failed: 00001; run the command" in caplog.text

    with pytest.raises(UserError, match="1 of 4 image shards of web/train are missing, because their download failed"):
        experiment.extract()
    half = experiment.extract(0.25)
    assert (half.ran, [one.ref.shard for one in half.failed]) == (3, [1])
    assert losses([some, half]) == ["download of web/train went on without 1 of 4 shards (3 rows), which failed: 00001"]
    partial_identity = experiment.identity()
    status = read_status(experiment.params(), "--recipe demo")
    (split,) = (one for one in status.splits if one.name == "web/train")
    assert (split.downloaded, split.without_images, split.download_done) == (3, 1, False)
    assert "captions go without 1 shard, whose download failed" in status_text(status)
    assert status.next_command == "unicoder-vl download --recipe demo"

    with pytest.raises(StageError, match=r"1 of 4 shards failed: web/train/00001; the others are done"):
        experiment.download()
    assert experiment.identity() == partial_identity
    journal.rmdir()
    whole = experiment.download()
    assert (whole.ran, whole.skipped, whole.counts) == (1, 3, {"ok": 12})
    assert experiment.captions() == numbered(*range(12))
    assert experiment.extract().ran == 1
    identity = experiment.identity()
    assert identity["captions"] != partial_identity["captions"]
    assert identity["features"] != partial_identity["features"]
    assert "missing" not in json.loads(experiment.root.read_bytes("datasets/web/train/captions.json"))


def test_a_shard_that_cannot_be_extracted_is_gone_on_without_and_made_later(experiment: Experiment) -> None:
    experiment.download()
    whole = experiment.break_images(3)
    with pytest.raises(StageError, match="1 of 4 shards failed: web/train/00003; the others are done"):
        experiment.extract()
    some = experiment.extract(0.3)
    assert (some.ran, some.skipped, some.counts["ok"], some.counts["shard_failed"]) == (0, 3, 9, 2)
    partial_identity = experiment.identity()
    with pytest.raises(StageError, match="1 of 4 shards failed: web/train/00003; the others are done"):
        experiment.extract()
    assert experiment.identity() == partial_identity
    status = read_status(experiment.params(), "--recipe demo")
    (split,) = (one for one in status.splits if one.name == "web/train")
    assert (split.download_done, split.extracted, split.without_regions, split.extract_done) == (True, 3, 1, False)
    assert "features go without 1 shard with images" in status_text(status)
    (features,) = feature_sets(experiment.root)
    (problem,) = verify_features(experiment.root, features).problems
    assert problem.file.endswith("regions-00003.tar")
    assert "run: unicoder-vl extract" in problem.command

    Path(experiment.root.path(image_shard_path("web", "train", 3))).write_bytes(whole)
    again = experiment.extract()
    assert (again.ran, again.skipped) == (1, 3)
    assert experiment.identity() != partial_identity
    assert verify_features(experiment.root, features).problems == ()


def test_both_stages_together_may_lose_no_more_than_the_share(experiment: Experiment) -> None:
    experiment.break_download(0)
    experiment.download(0.25)
    experiment.break_images(2)
    with pytest.raises(StageError, match=r"2 of 4 shards failed: web/train/00000, web/train/00002, more of web/train"):
        experiment.extract(0.25)
    lost = experiment.extract(0.5)
    assert losses([lost]) == [
        "extract of web/train went on without 2 of 4 shards (3 images), which failed: 00000, 00002"
    ]


def test_images_of_other_settings_are_not_taken_for_those_that_failed(experiment: Experiment) -> None:
    """A shard that is to be made anew and fails leaves the old one standing, which is of no use."""
    experiment.download()
    experiment.break_download(1)
    changed = {"root_uri": experiment.root.uri, "datasets": experiment.datasets, "download": {"short_side": 32}}
    params = DownloadParams.model_validate(changed | {"accept_changes": True, "max_failed_share": 0.25})
    summary = download(params)
    assert (summary.ran, len(summary.failed), summary.counts["shard_failed"]) == (3, 1, 3)
    assert experiment.captions() == numbered(0, 1, 2, 6, 7, 8, 9, 10)
    assert experiment.extract(0.25).counts["ok"] == 8


def test_what_is_measured_has_to_be_whole(experiment: Experiment) -> None:
    experiment.download()
    experiment.break_images(3)
    summary = experiment.extract(0.3)
    params = experiment.params()
    check_measured(params, [summary])
    test_split = summary.model_copy(update={"name": f"{params.retrieval_dataset.name}/{params.evaluation_split}"})
    with pytest.raises(StageError, match="retrieval/test is what recall is measured on, and it lacks 1 of 4 shards"):
        check_measured(params, [test_split])
