"""The state of an experiment, read from receipts, without Prefect and without writing anything."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from pydantic import Field

from feature_extraction.samples.manifest import parse_manifest
from feature_extraction.samples.tars import ShardError
from flows.params.evaluated_run import evaluation_spec
from flows.params.experiment import RebuildParams
from flows.params.training import Setting
from flows.views.progress import counts_text
from tasks.config import DatasetConfig
from tasks.download.journal import journaled_shards
from tasks.download.settings import begun_splits, nothing_begun
from tasks.download.text import begun_texts, finished_text
from tasks.errors import UserError
from tasks.evaluation.evaluate import find_evaluation
from tasks.evaluation.history import read_history
from tasks.extractor import extractor_fingerprint
from tasks.made_from import captions_are_stale, stale_features
from tasks.records import FIRST_TASK, Outcome, Receipt, Record, Stage
from tasks.rows.manifest import list_shards
from tasks.storage.paths import (
    captions_receipt_path,
    feature_manifest_path,
    features_folder,
    image_receipt_path,
    manifest_receipt_path,
    region_shard_number,
    run_folder,
)
from tasks.storage.root import Root
from tasks.training.run_name import finished_run, run_name

RunState = Literal["done", "begun", "not begun"]


class SplitStatus(Record):
    """One split of one dataset."""

    name: str = Field(description="dataset/split")
    rows: int | None = Field(description="rows of the manifest; None before there is one")
    shards: int
    downloaded: int = Field(description="finished image shards")
    begun: int = Field(description="image shards under way: begun, or begun again, and not finished")
    outcomes: dict[str, int] = Field(description="rows by outcome, of the finished shards")
    download_done: bool
    extracted: int = Field(description="finished feature shards of this extractor")
    extract_done: bool
    without_images: int = Field(description="shards that captions go without, because their download failed")
    without_regions: int = Field(description="shards with images that the finished features go without")
    of_other_images: int = Field(default=0, description="feature shards made from other images than the root has now")


class TextStatus(Record):
    """One split of text alone."""

    name: str = Field(description="dataset/split")
    begun: bool = Field(default=True, description="False: the experiment asks for it, and nothing of it is there")
    passages: int | None = Field(description="its length; None before it is finished")
    blank: int | None = Field(description="blank lines left out; None before it is finished")


class RunStatus(Record):
    """One training run."""

    stage: Stage
    setting: str = Field(description="pretrain, task-specific or pretrain+finetune")
    run: str | None = Field(description="its folder; None while what it depends on is not there")
    state: RunState


class Status(Record):
    """A whole experiment."""

    root_uri: str
    splits: tuple[SplitStatus, ...]
    texts: tuple[TextStatus, ...] = Field(default=(), description="text alone: under the root, or asked for")
    runs: tuple[RunStatus, ...]
    evaluated: dict[str, bool]
    other_tasks: dict[str, int] = Field(default={}, description="evaluations of other tasks in the root's history")
    notes: tuple[str, ...] = Field(description="what could not be found out, and why")
    next_command: str | None = Field(description="what would run next; None when everything is done")


def read_status(params: RebuildParams, options: str) -> Status:
    """Read the state of an experiment.

    A shard counts where its receipt is there. Whether the receipt still fits the parameters is decided when the stage
    runs; a changed extractor or training config shows at once, since it has other folders.

    Args:
        options: what to add to the next command, such as `--recipe demo --root data`.
    """
    root = Root(params.root_uri)
    notes = []
    extractor: str | None = None
    try:
        extractor, _ = extractor_fingerprint(params.extractor)
    except UserError as error:
        notes.append(f"features are not looked for: {error}")
    splits = tuple(
        _split_status(root, dataset, split, extractor) for dataset in params.datasets for split in dataset.splits
    )
    wanted = {f"{text.name}/{split}" for text in params.texts for split in text.splits}
    texts = _text_statuses(root, wanted)
    runs = _run_statuses(root, params)
    evaluated: dict[str, bool] = {setting: _is_evaluated(root, params, setting) for setting in params.settings}
    return Status(
        root_uri=params.root_uri,
        splits=splits,
        texts=texts,
        runs=runs,
        evaluated=evaluated,
        other_tasks=dict(Counter(row.task for row in read_history(root) if row.task != FIRST_TASK)),
        notes=tuple(notes),
        next_command=_next_command(splits, [text for text in texts if text.name in wanted], runs, evaluated, options),
    )


def read_download_status(root_uri: str) -> Status:
    """Read the state of the downloads under a root, whatever command began them, and of nothing else.

    Raises:
        UserError: nothing was downloaded there yet.
    """
    root = Root(root_uri)
    texts = _text_statuses(root)
    splits = tuple(
        _split_status(
            root,
            DatasetConfig(name=name, splits={split: begun.source}, shard_size=begun.settings["shard_size"]),
            split,
            None,
        )
        for (name, split), begun in begun_splits(root).items()
    )
    if not splits and not texts:
        raise nothing_begun(root)
    pending = not all(split.download_done for split in splits) or any(text.passages is None for text in texts)
    return Status(
        root_uri=root_uri,
        splits=splits,
        texts=texts,
        runs=(),
        evaluated={},
        notes=("only the download was looked at; --recipe or --params tell of the rest",),
        next_command=f"unicoder-vl download --root {shlex.quote(root_uri)}" if pending else None,
    )


def downloads_pending(params: RebuildParams) -> bool:
    """True unless every split's shards and captions are finished."""
    root = Root(params.root_uri)
    return not all(
        _split_status(root, dataset, split, None).download_done
        for dataset in params.datasets
        for split in dataset.splits
    )


def status_text(status: Status) -> str:
    """The status for a terminal."""
    lines = [f"{'':24} {'rows':>9}  {'downloaded':>12}  {'extracted':>12}"]
    for split in status.splits:
        rows = "-" if split.rows is None else f"{split.rows:,}"
        downloaded, extracted = f"{split.downloaded}/{split.shards}", f"{split.extracted}/{split.shards}"
        outcomes = counts_text(split.outcomes) + (f"; shards under way: {split.begun:,}" if split.begun else "")
        lines.append(f"{split.name:24} {rows:>9}  {downloaded:>12}  {extracted:>12}  {outcomes}")
        if split.without_images:
            lines.append(f"  captions go without {_shards_text(split.without_images)}, whose download failed")
        if split.without_regions:
            lines.append(f"  features go without {_shards_text(split.without_regions)} with images")
        if split.of_other_images:
            lines.append(
                f"  features of {_shards_text(split.of_other_images)} are of other images than the root has now"
            )
    for text in status.texts:
        passages = "-" if text.passages is None else f"{text.passages:,}"
        unfinished = "text under way" if text.begun else "text, not begun"
        state = unfinished if text.blank is None else f"text; {text.blank:,} blank lines left out"
        lines.append(f"{text.name:24} {passages:>9}  {state}")
    if status.runs:
        lines.append("")
    for run in status.runs:
        lines.append(f"{run.setting:24} {run.state:10} {run.run or ''}".rstrip())
    for setting, done in status.evaluated.items():
        lines.append(f"{'evaluate ' + setting:24} {'done' if done else 'not done'}")
    for task, number in status.other_tasks.items():
        evaluations = "1 evaluation" if number == 1 else f"{number:,} evaluations"
        lines.append(f"{'evaluate ' + task:24} {evaluations} in the history")
    lines += ["", *status.notes]
    lines.append(f"next: {status.next_command}" if status.next_command else "everything is done")
    return "\n".join(lines)


def _shards_text(number: int) -> str:
    return "1 shard" if number == 1 else f"{number:,} shards"


def _split_status(root: Root, dataset: DatasetConfig, split: str, extractor: str | None) -> SplitStatus:
    manifest = root.read_model(manifest_receipt_path(dataset.name, split), Receipt)
    shards = [] if manifest is None else list_shards(root, dataset, split)
    found = root.read_models([image_receipt_path(dataset.name, split, ref.shard) for ref in shards], Receipt)
    receipts = [receipt for receipt in found if receipt is not None]
    begun = journaled_shards(root, dataset.name, split)
    captions = root.read_model(captions_receipt_path(dataset.name, split), Receipt)
    outcomes: Counter[str] = Counter()
    for receipt in receipts if captions is None else [captions]:
        outcomes.update({Outcome(name).value: number for name, number in receipt.counts.items()})
    present = {ref.shard: receipt for ref, receipt in zip(shards, found, strict=True) if receipt is not None}
    stale = manifest is not None and captions is not None and captions_are_stale(manifest, captions, present)
    without_images = set() if captions is None else set(captions.missing)
    listed: set[int] | None = None
    extracted = of_others = 0
    if extractor is not None:
        listed = _listed_shards(root, feature_manifest_path(extractor, dataset.name, split))
        names = root.names(features_folder(extractor, dataset.name, split))
        of_others = len(stale_features(root, dataset.name, split, extractor))
        extracted = sum(re.fullmatch(r"regions-\d+\.json", name) is not None for name in names) - of_others
    without_regions = set() if listed is None else set(present) - without_images - listed
    return SplitStatus(
        name=f"{dataset.name}/{split}",
        rows=None if manifest is None else manifest.counts["rows"],
        shards=len(shards),
        downloaded=len(receipts),
        begun=len(begun),
        outcomes=dict(outcomes),
        download_done=captions is not None
        and not stale
        and len(receipts) == len(shards) > 0
        and not begun
        and not without_images,
        extracted=extracted,
        extract_done=listed is not None and not without_regions and not of_others,
        of_other_images=of_others,
        without_images=len(without_images),
        without_regions=len(without_regions),
    )


def _text_statuses(root: Root, wanted: Iterable[str] = ()) -> tuple[TextStatus, ...]:
    """Of those begun under the root, then of those that an experiment wants and that are not."""
    found = {}
    for (dataset, split), settings in begun_texts(root).items():
        manifest = finished_text(root, dataset, split, settings.fingerprint)
        length = (None, None) if manifest is None else (manifest.passages, manifest.blank)
        name = f"{dataset}/{split}"
        found[name] = TextStatus(name=name, passages=length[0], blank=length[1])
    missing = [name for name in sorted(wanted) if name not in found]
    return (*found.values(), *(TextStatus(name=name, begun=False, passages=None, blank=None) for name in missing))


def _listed_shards(root: Root, manifest: str) -> set[int] | None:
    """Numbers of the shards in a feature manifest; None without a manifest.

    Raises:
        UserError: it is damaged.
    """
    if not root.exists(manifest):
        return None
    try:
        shards = parse_manifest(root.read_bytes(manifest), root.path(manifest)).shards
    except ShardError as error:
        raise UserError(str(error)) from error
    return {region_shard_number(entry.name) for entry in shards}


def _run_statuses(root: Root, params: RebuildParams) -> tuple[RunStatus, ...]:
    pretraining = params.for_pretrain().spec()
    runs = [_run_status(root, Stage.PRETRAIN, "pretrain", lambda: run_name(root, pretraining))]
    if params.task_specific is not None:
        specific = params.for_finetune(params.task_specific).spec()
        runs.append(_run_status(root, Stage.FINETUNE, "task-specific", lambda: run_name(root, specific)))
    full = params.for_finetune().spec()
    runs.append(_run_status(root, Stage.FINETUNE, "pretrain+finetune", lambda: run_name(root, full)))
    return tuple(runs)


def _run_status(root: Root, stage: Stage, setting: str, find_name: Callable[[], str]) -> RunStatus:
    try:
        run = find_name()
    except UserError:
        # What it depends on is not there, so its name is not known yet: that is what "not begun" says.
        return RunStatus(stage=stage, setting=setting, run=None, state="not begun")
    if finished_run(root, run, stage) is not None:
        return RunStatus(stage=stage, setting=setting, run=run, state="done")
    begun = root.exists(run_folder(run))
    return RunStatus(stage=stage, setting=setting, run=run, state="begun" if begun else "not begun")


def _is_evaluated(root: Root, params: RebuildParams, setting: Setting) -> bool:
    try:
        evaluation = evaluation_spec(root, params.for_evaluate(setting))
    except UserError:
        return False  # There is no checkpoint, or no features, to evaluate yet.
    return find_evaluation(root, evaluation) is not None


def _next_command(
    splits: tuple[SplitStatus, ...],
    texts: Sequence[TextStatus],
    runs: tuple[RunStatus, ...],
    evaluated: dict[str, bool],
    options: str,
) -> str | None:
    if not all(split.download_done for split in splits) or any(text.passages is None for text in texts):
        return f"unicoder-vl download {options}"
    if not all(split.extract_done for split in splits):
        return f"unicoder-vl extract {options}"
    for run in runs:
        if run.state != "done":
            setting = "" if run.stage == Stage.PRETRAIN else f" --setting {run.setting}"
            return f"unicoder-vl {run.stage.value}{setting} {options}"
    for setting, done in evaluated.items():
        if not done:
            return f"unicoder-vl evaluate --setting {setting} {options}"
    return None
