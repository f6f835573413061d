"""The text alone that pretraining reads beside its pairs: where it lies, and the digests of its shards."""

from __future__ import annotations

from dataclasses import dataclass

from model.config import TextSource
from tasks.download.text import finished_text
from tasks.errors import UserError
from tasks.storage.local_copy import local_copy
from tasks.storage.paths import CACHE, text_folder, text_settings_path
from tasks.storage.root import Root


@dataclass(frozen=True)
class TextSpec:
    """One split of text alone."""

    dataset: str
    split: str

    def __str__(self) -> str:
        return f"{self.dataset}/{self.split}"


@dataclass(frozen=True)
class ResolvedText:
    """Paths of a split of text, and what it is.

    Attributes:
        source: as the root has it.
        identity: sha256 of each shard, in order; where the shards came from does not count.
    """

    source: TextSource
    identity: tuple[str, ...]


def resolve_text(root: Root, text: TextSpec) -> ResolvedText:
    """Find a split's text.

    Raises:
        UserError: it is not there, or not finished.
    """
    manifest = finished_text(root, text.dataset, text.split)
    if manifest is None:
        begun = root.exists(text_settings_path(text.dataset, text.split))
        command = "`unicoder-vl download` with the same parameters"
        if begun:
            raise UserError(f"the text of {text} under {root.uri} is not finished; run {command}")
        raise UserError(
            f"there is no text of {text} under {root.uri}; run {command}, or "
            f"`unicoder-vl download --text FILE --name {text} --root {root.uri}`"
        )
    return ResolvedText(
        source=TextSource(
            text_path=root.path(text_folder(text.dataset, text.split)),
            name=str(text),
            cache_path=str(local_copy(root).local(CACHE)),
        ),
        identity=tuple(shard.sha256 for shard in manifest.shards),
    )
