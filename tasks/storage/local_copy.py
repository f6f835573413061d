"""The local working folder of a root on an object store: in this user's cache, laid out as the root itself.

    CACHE/journal, ...                               what is under way; see `tasks.download.journal`, `.mirror`
    CACHE/runs/RUN, CACHE/scores/EVALUATION          copies, kept in step with the root while this machine works there
    CACHE/node-1/runs/RUN                            on a machine that follows another one, see `tasks.workers.nodes`
    CACHE/cache                                      feature shards, a bounded number of them, and tables of the loader
    CACHE/fetched/captions-SHA.parquet               captions, by their sha256
    CACHE/fetched/SHA/RUN/checkpoints/step-0000700   a checkpoint to be read, by the sha256 of its weights

CACHE is $XDG_CACHE_HOME/unicoder-vl/ROOT (without that variable, ~/.cache/unicoder-vl/ROOT), where ROOT comes from the
root's URI. It may be emptied whenever nothing runs, but for what could not be uploaded yet: that is told as it happens.
A local root needs none of this: every function here then gives what lies under the root itself.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from model.config import FeatureSource
from model.publish import Lock
from tasks.errors import UserError
from tasks.records import CheckpointRef, FileDigest, Receipt, Record
from tasks.storage.paths import captions_path, captions_receipt_path, run_folder
from tasks.storage.root import Root

WEIGHTS = "model.safetensors"
"""The file that makes a checkpoint whole: the last one to be uploaded, and the first one to be removed."""
CHECKPOINT_RECORD = "files.json"
"""Beside a checkpoint's files on an object store: what they are."""

_RULES = "tokenizer_config.json"
"""Which checkpoints of before lack: their vocabularies are lower-casing."""
_READ = ("config.json", "vocab.txt", _RULES, WEIGHTS)
"""Files that using a checkpoint takes, as far as it has them.

The rest, two thirds of its bytes, is for resuming the training.
"""
_FETCHED = "fetched"
_DIGITS = 16


class CheckpointFiles(Record):
    """Content of CHECKPOINT_RECORD: every other file of the checkpoint, by name."""

    files: dict[str, FileDigest]


def local_copy(root: Root) -> Root:
    """The root itself if it is a local folder; else the local folder where its files are worked on."""
    if root.is_local:
        return root
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Root(str(cache / "unicoder-vl" / hashlib.sha256(root.uri.encode()).hexdigest()[:_DIGITS]))


def with_local_captions(root: Root, source: FeatureSource) -> FeatureSource:
    """The same features with captions on this machine, fetched unless they were before.

    A run knows its captions by their bytes. The model room would know only the version of a file on an object store,
    and take the same captions, uploaded again, for others.

    Raises:
        UserError: the captions are gone, or were made anew meanwhile.
        StorageError: the store does not answer.
    """
    if root.is_local:
        return source
    dataset, _, split = source.name.partition("/")
    remote = captions_path(dataset, split)
    receipt = root.read_model(captions_receipt_path(dataset, split), Receipt)
    expected = None if receipt is None else receipt.files.get(remote.rpartition("/")[2])
    if expected is None:
        raise UserError(f"{source.name} has no captions under {root.uri}; run `unicoder-vl download`")
    target = local_copy(root).local(f"{_FETCHED}/captions-{expected.sha256[:_DIGITS]}.parquet")
    if not target.exists():
        try:
            root.fetch(remote, target, expected)
        except FileNotFoundError as error:
            raise UserError(f"{root.path(remote)} is gone; run `unicoder-vl download`") from error
    return source.model_copy(update={"captions_path": str(target)})


def local_checkpoint(root: Root, checkpoint: CheckpointRef) -> str:
    """A local folder with the checkpoint, fetched unless it was before.

    Raises:
        UserError: the checkpoint is gone.
        StorageError: the store does not answer, or what came is damaged.
    """
    if root.is_local:
        return checkpoint.uri
    target = _fetched_checkpoint(root, checkpoint)
    remote = checkpoint.uri.removeprefix(root.path("")).lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Where several evaluations want it at once, one fetches it.
    with Lock(target.with_name(f"{target.name}.lock")) as lock:
        lock.hold()
        if not (target / WEIGHTS).exists():
            try:
                record = root.read_model(f"{remote}/{CHECKPOINT_RECORD}", CheckpointFiles)
                known = {} if record is None else dict(record.files)
                known[WEIGHTS] = FileDigest(bytes=root.size(f"{remote}/{WEIGHTS}") or 0, sha256=checkpoint.fingerprint)
                for name in _READ:
                    if name != _RULES or root.exists(f"{remote}/{name}"):
                        root.fetch(f"{remote}/{name}", target / name, known.get(name))
            except FileNotFoundError as error:
                raise UserError(
                    f"{checkpoint.uri} is not there any more: newer checkpoints took its place, or somebody removed "
                    "it; run the same command again"
                ) from error
    return str(target)


def keep_for_reading(root: Root, checkpoint: CheckpointRef, folder: Path) -> None:
    """Copy a checkpoint just trained to where `local_checkpoint` looks.

    So it is not fetched again.

    What it takes to go on with a training that is complete is left behind.
    """
    target = _fetched_checkpoint(root, checkpoint)
    target.mkdir(parents=True, exist_ok=True)
    for name in _READ:
        if (folder / name).exists() or name != _RULES:
            shutil.move(folder / name, target / name)


def _fetched_checkpoint(root: Root, checkpoint: CheckpointRef) -> Path:
    """The local folder of a checkpoint: named by its weights, then as in its run, by which a report finds that run."""
    name = checkpoint.uri.rpartition(f"{run_folder(checkpoint.run)}/")[2]
    return local_copy(root).local(f"{_FETCHED}/{checkpoint.fingerprint[:_DIGITS]}/{checkpoint.run}/{name}")
