"""Marks that say, beside a config's field, whether another value makes another result.

    class DetectorConfig(BaseModel):
        min_score: float = 0.2
        threads: Annotated[int, Identity.NEVER] = 4
        precision: Annotated[Literal["fp32", "bf16"], Identity.UNLESS_DEFAULT] = "fp32"

A field without a mark is part of the identity, so a new one that was forgotten makes results anew and mixes none. A
fingerprint is the hash of an identity, with what the files that it names hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from pydantic import BaseModel


class Identity(Enum):
    """Mark of a config's field, in its `Annotated`. A field may have two."""

    NEVER = "how the work is done, not what comes of it"
    UNLESS_DEFAULT = "came later: left out at its default, so that results made before it are still found"
    BY_CONTENT = "names a file: whoever makes the fingerprint adds what the file holds"
    CHOICE = "says which of several results is taken: left out here, see `choice_of`"


def identity_of(config: BaseModel) -> dict[str, Any]:
    """The fields that decide a config's result, as JSON.

    A config within the config goes by its own marks.
    """
    return _kept(config, config.model_dump(mode="json"), choice=False)


def choice_of(config: BaseModel) -> dict[str, Any]:
    """The fields that choose among several results, as JSON."""
    return _kept(config, config.model_dump(mode="json"), choice=True)


def in_identity(config_type: type[BaseModel]) -> frozenset[str]:
    """Names of the fields that can be part of the identity."""
    return frozenset(name for name in config_type.model_fields if _enters(_marks(config_type, name), choice=False))


def _kept(config: BaseModel, content: dict[str, Any], choice: bool) -> dict[str, Any]:
    kept = {}
    for name, field in type(config).model_fields.items():
        value, marks = getattr(config, name), _marks(type(config), name)
        if not _enters(marks, choice):
            continue
        if Identity.UNLESS_DEFAULT in marks and value == field.get_default(call_default_factory=True):
            continue
        kept[name] = _nested(value, content[name])
    return kept


def _nested(value: Any, content: Any) -> Any:
    """The content of a value, without what the configs in it leave out."""
    if isinstance(value, BaseModel):
        return _kept(value, content, choice=False)
    if isinstance(value, Mapping):
        return {key: _nested(one, content[key]) for one, key in zip(value.values(), content, strict=True)}
    if isinstance(value, list | tuple):
        return [_nested(one, its) for one, its in zip(value, content, strict=True)]
    return content


def _enters(marks: frozenset[Identity], choice: bool) -> bool:
    return not marks & {Identity.NEVER, Identity.BY_CONTENT} and (Identity.CHOICE in marks) == choice


def _marks(config_type: type[BaseModel], name: str) -> frozenset[Identity]:
    return frozenset(mark for mark in config_type.model_fields[name].metadata if isinstance(mark, Identity))
