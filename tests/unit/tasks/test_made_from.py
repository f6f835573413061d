"""Features and captions of rows or images that are not there any more are refused by whoever reads them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import tasks.world
from feature_extraction.config import ExtractorConfig
from flows.params.checks import check_download
from flows.params.shards import DownloadParams
from flows.views.status import _split_status
from tasks import made_from
from tasks.config import DatasetConfig, RowsConfig
from tasks.download.captions import make_captions
from tasks.download.config import DownloadConfig
from tasks.download.fetching import Session
from tasks.download.settings import keep_settings
from tasks.download.shard import download_shard
from tasks.errors import UserError
from tasks.extract.feature_manifest import write_feature_manifest
from tasks.extract.shard import extract_shard, load_on_device
from tasks.extractor import extractor_fingerprint
from tasks.features.export_features import export_features
from tasks.features.feature_sets import FeatureSet, one_feature_set
from tasks.features.imports.config import ImportConfig
from tasks.features.imports.features import import_features
from tasks.features.inspection.config import InspectConfig
from tasks.features.inspection.inspection import inspect_features
from tasks.features.verify_features import verify_features
from tasks.made_from import check_features, made_from_path
from tasks.rows.manifest import drop_shards_beyond, list_shards, make_manifest
from tasks.storage.paths import image_receipt_path
from tasks.storage.root import Root
from tasks.training.data import DataSpec, resolve_data
from tasks.world.scenes import render_scene
from tests.foreign import lxmert_file

DATASET, SPLIT, NAME = "drawn", "test", "drawn/test"
PICTURES = 5
EXTRACTOR = ExtractorConfig(
    backend="torchvision",
    model="small",
    weights=str(Path(tasks.world.__file__).with_name("detector.safetensors")),
    max_regions=4,
    num_proposals=16,
    device="cpu",
)
DATA = DataSpec(DATASET, SPLIT, EXTRACTOR)
detector = cache(load_on_device)


class Project:
    """A root, and a list of pictures on this disk in shards of two."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = Root(str(folder / "root"))

    @property
    def dataset(self) -> DatasetConfig:
        rows = RowsConfig(rows=str(self.folder / "rows.tsv"), images=str(self.folder))
        return DatasetConfig(name=DATASET, splits={SPLIT: rows}, shard_size=2)

    def list_rows(self, order: Sequence[int]) -> None:
        (self.folder / "rows.tsv").write_text("".join(f"picture {n}\t{n}.jpg\n" for n in order))

    def begin_download(self) -> None:
        make_manifest(self.root, self.dataset, SPLIT, accept_changes=True)
        keep_settings(self.root, self.dataset, SPLIT, DownloadConfig())
        drop_shards_beyond(self.root, DATASET, SPLIT, len(list_shards(self.root, self.dataset, SPLIT)))

    def download(self) -> None:
        self.begin_download()
        with Session(self.dataset, SPLIT, DownloadConfig()) as session:
            for ref in list_shards(self.root, self.dataset, SPLIT):
                download_shard(self.root, self.dataset, ref, session)
        make_captions(self.root, self.dataset, SPLIT)

    def extract(self) -> None:
        for ref in list_shards(self.root, self.dataset, SPLIT):
            extract_shard(self.root, ref, EXTRACTOR, load=detector)
        write_feature_manifest(self.root, DATASET, SPLIT, EXTRACTOR)

    def import_by(self, match: str) -> str:
        """Features of all pictures from another program's file; the set's fingerprint."""
        source = lxmert_file(self.folder / "theirs.tsv", [str(number) for number in range(PICTURES)])
        config = ImportConfig(sources=(source,), detector="theirs", match=match, shard_size=2)
        return import_features(self.root, DATASET, SPLIT, config).extractor

    def forget(self, extractor: str | None = None) -> None:
        """Leave the features as an older version did."""
        extractor = extractor or extractor_fingerprint(EXTRACTOR)[0]
        self.root.remove(made_from_path(extractor, DATASET, SPLIT))

    @property
    def features(self) -> FeatureSet:
        return one_feature_set(self.root, NAME)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures, downloaded and extracted."""
    folder = tmp_path_factory.mktemp("project")
    for number in range(PICTURES):
        render_scene(np.random.default_rng(number), 2, 4).image.save(folder / f"{number}.jpg", quality=92)
    project = Project(folder)
    project.list_rows(range(PICTURES))
    project.download()
    project.extract()
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Project:
    shutil.copytree(finished, tmp_path / "project")
    return Project(tmp_path / "project")


READERS: dict[str, Callable[[Project], object]] = {
    "training and scoring": lambda project: resolve_data(project.root, DATA),
    "export": lambda project: export_features(project.root, project.features, "npz", project.folder / "out"),
    "inspect": lambda project: inspect_features(project.root, project.features, InspectConfig()),
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.parametrize("older", [False, True], ids=["", "older"])
def test_readers_refuse_features_of_another_order_until_they_are_extracted_again(
    project: Project, reader: Callable[[Project], object], older: bool
) -> None:
    if older:
        project.forget()
    reader(project)
    shutil.rmtree(project.folder / "out", ignore_errors=True)
    project.list_rows([1, 0, 2, 3, 4])
    project.download()
    expected = (
        r"features of drawn/test .* made from other images than are under .*\(1 of 3 shards, 00000 for one\): run `"
    )
    with pytest.raises(UserError, match=expected + "unicoder-vl extract`"):
        reader(project)
    assert not (project.folder / "out").exists()
    assert [problem.what for problem in verify_features(project.root, project.features).problems] == [
        "it was made by another extractor, or from pictures that have changed since"
    ]
    project.extract()
    reader(project)


def test_status_counts_features_of_other_images_as_not_extracted(project: Project) -> None:
    extractor = extractor_fingerprint(EXTRACTOR)[0]
    status = _split_status(project.root, project.dataset, SPLIT, extractor)
    assert (status.extracted, status.extract_done, status.of_other_images) == (3, True, 0)
    project.list_rows([1, 0, 2, 3, 4])
    project.begin_download()
    assert not _split_status(project.root, project.dataset, SPLIT, extractor).download_done
    project.download()
    status = _split_status(project.root, project.dataset, SPLIT, extractor)
    assert status.download_done
    assert (status.extracted, status.extract_done, status.of_other_images) == (2, False, 1)


@pytest.mark.parametrize("older", [False, True], ids=["", "older"])
def test_captions_of_rows_that_were_replaced_are_refused_until_the_download_ends(project: Project, older: bool) -> None:
    if older:
        project.forget()
    project.list_rows([1, 0, 2, 3, 4])
    project.begin_download()
    with pytest.raises(
        UserError, match=r"captions of drawn/test were made from other rows .* run `unicoder-vl download`"
    ):
        resolve_data(project.root, DATA)
    with pytest.raises(UserError, match="captions of drawn/test were made from other rows"):
        write_feature_manifest(project.root, DATASET, SPLIT, EXTRACTOR)


@pytest.mark.parametrize("older", [False, True], ids=["", "older"])
def test_features_of_shards_that_the_rows_have_no_more_are_refused(project: Project, older: bool) -> None:
    if older:
        project.forget()
    project.list_rows(range(4))
    project.download()
    with pytest.raises(UserError, match=r"\(1 of 3 shards, 00002 for one\)"):
        resolve_data(project.root, DATA)
    assert verify_features(project.root, project.features).problems
    project.extract()
    resolve_data(project.root, DATA)


@pytest.mark.parametrize("older", [False, True], ids=["", "older"])
def test_what_cannot_be_known_is_accepted(project: Project, older: bool) -> None:
    if older:
        project.forget()
    shutil.rmtree(project.root.local(f"datasets/{DATASET}/{SPLIT}/images"))  # Cleared from the disk, receipts and all.
    resolve_data(project.root, DATA)
    inspect_features(project.root, project.features, InspectConfig())


def test_a_finished_set_is_known_without_a_look_at_its_shards(project: Project) -> None:
    for shard in range(3):
        project.root.publish_bytes(image_receipt_path(DATASET, SPLIT, shard), b"not read")
    resolve_data(project.root, DATA)
    project.forget()
    with pytest.raises(UserError, match=r"images-00000\.json is not a Receipt"):
        resolve_data(project.root, DATA)


def test_new_captions_of_the_same_images_need_no_extraction(project: Project) -> None:
    before = resolve_data(project.root, DATA).identity
    project.list_rows([*range(PICTURES), 9])  # There is no ninth picture: its shard's images stay what they were.
    project.download()
    assert resolve_data(project.root, DATA).identity == before


# --- imported features ----------------------------------------------------------------------------------------------


@pytest.fixture
def listed(finished: Path, tmp_path: Path) -> Project:
    """The pictures and their list; nothing is downloaded yet."""
    shutil.copytree(finished, tmp_path / "project", ignore=shutil.ignore_patterns("root"))
    return Project(tmp_path / "project")


def test_a_split_whose_features_were_imported_by_order_is_not_downloaded(listed: Project) -> None:
    extractor = listed.import_by("order")
    check_features(listed.root, DATASET, SPLIT, extractor)  # They are as good as ever by themselves.
    params = DownloadParams(root_uri=listed.root.uri, datasets=(listed.dataset,))
    for changes in ({}, {"accept_changes": True}):
        with pytest.raises(
            UserError, match=r"imported by order and belong to no rows, .* remove that folder, and import"
        ):
            check_download(params.model_copy(update=changes))
    assert not listed.root.exists("datasets")
    shutil.rmtree(listed.root.local(f"features/{extractor[:12]}/{DATASET}/{SPLIT}"))
    check_download(params)


def test_an_import_by_order_that_was_stopped_holds_a_download_up_too(listed: Project) -> None:
    extractor = listed.import_by("order")
    folder = f"features/{extractor[:12]}/{DATASET}/{SPLIT}"
    listed.root.remove(f"{folder}/manifest.json")
    with pytest.raises(UserError, match="imported by order"):
        check_download(DownloadParams(root_uri=listed.root.uri, datasets=(listed.dataset,)))


def test_features_imported_by_order_are_refused_where_rows_came_later(listed: Project) -> None:
    extractor = listed.import_by("order")
    listed.download()  # As an older version did.
    with pytest.raises(UserError, match="imported by order"):
        check_features(listed.root, DATASET, SPLIT, extractor)
    with pytest.raises(UserError, match="imported by order"):
        inspect_features(listed.root, listed.features, InspectConfig())
    assert len(verify_features(listed.root, listed.features).problems) == 3
    assert listed.import_by("name") == extractor
    check_features(listed.root, DATASET, SPLIT, extractor)
    check_download(DownloadParams(root_uri=listed.root.uri, datasets=(listed.dataset,)))


def test_imported_features_of_another_order_are_refused_until_they_are_imported_again(listed: Project) -> None:
    listed.download()
    extractor = listed.import_by("name")
    imported = DataSpec(DATASET, SPLIT, ExtractorConfig(backend="imported", model=extractor))
    resolve_data(listed.root, imported)
    listed.list_rows([1, 0, 2, 3, 4])
    listed.download()
    for reader in (
        lambda: resolve_data(listed.root, imported),
        lambda: write_feature_manifest(listed.root, DATASET, SPLIT, imported.extractor),
    ):
        with pytest.raises(UserError, match=r"\(1 of 3 shards, 00000 for one\): run `unicoder-vl import-features`"):
            reader()
    listed.import_by("name")
    resolve_data(listed.root, imported)


def test_what_an_older_version_imported_is_used_with_a_warning(
    listed: Project, caplog: pytest.LogCaptureFixture
) -> None:
    listed.download()
    extractor = listed.import_by("name")
    listed.forget(extractor)
    made_from._warn_of_import.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            check_features(listed.root, DATASET, SPLIT, extractor)
    assert caplog.text.count("did not note of which images") == 1
    shutil.rmtree(listed.root.local("datasets"))
    with caplog.at_level(logging.WARNING):
        check_download(DownloadParams(root_uri=listed.root.uri, datasets=(listed.dataset,)))
    assert "were imported before it was downloaded" in caplog.text
