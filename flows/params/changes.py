"""Single fields of parameters, changed by name: `--set pretrain.steps=1000`, or `changes` of a deployment's run.

A run of a deployment that is given `params` is given all of them, since Prefect puts whole parameters in the place of
a deployment's own. `changes` is for the usual case, that one or two differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails

from feature_extraction.config import ExtractorConfig
from flows.params.checks import validation_text
from model.config import Config
from model.families.config import EncoderConfig
from model.families.configs import FAMILIES, of_family
from tasks.errors import UserError

Changes = Annotated[
    dict[str, Any],
    Field(
        description='Fields of params that differ in this run, by their dotted names: {"max_workers": 8, '
        '"pretrain.steps": 1000}'
    ),
]

_Params = TypeVar("_Params", bound=BaseModel)


def with_changes(params: _Params, changes: Mapping[str, Any] | None) -> _Params:
    """The parameters with other values of the fields named; validated again.

    Args:
        params: any of the flows' parameters.
        changes: by dotted names; a number is a position in a list, such as `datasets.0.shard_size`.

    Raises:
        UserError: there is no such field, or the value cannot be.
    """
    changed = params
    for name, value in (changes or {}).items():
        changed = _changed(changed, _parts(changed, name), value, name)
    return _validated(changed) if changes else params


def with_settings(params: _Params, settings: Sequence[str], section: str | None = None) -> _Params:
    """The parameters with other values, as a command's `--set NAME=VALUE` gives them.

    A value is `none`, JSON, plain text, or a list with commas: the first of these that the field takes.

    Args:
        params: any of the flows' parameters.
        settings: as typed.
        section: the field of params that the command is about: names of its fields may be given alone, such as
            `short_side` for `download.short_side`.

    Raises:
        UserError: one is not of this form, there is no such field, or the value cannot be.
    """
    changed = params
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UserError(f"--set {text!r} is not NAME=VALUE, such as {section or 'pretrain'}.{_EXAMPLES[section]}")
        changed = _set(changed, _full_name(params, name, section), value)
    return _validated(changed) if settings else params


_EXAMPLES = {None: "steps=1000", "download": "threads=64", "extractor": "batch_size=16", "scoring": "batch_size=512"}


def _full_name(params: BaseModel, name: str, section: str | None) -> str:
    first = name.partition(".")[0]
    fields = type(params).model_fields
    if section is None or first in fields:
        return name
    own = type(getattr(params, section)).model_fields
    if first not in own and first not in _renamed(getattr(params, section)):
        raise UserError(
            f"--set {name}: there is no setting {first!r}; known are {', '.join(own)}, all of {section}, and of the "
            f"whole {', '.join(fields)}"
        )
    return f"{section}.{name}"


def _set(params: _Params, name: str, text: str) -> _Params:
    """A copy with one value, read as its field takes it.

    It is not validated as a whole yet: a later setting may mend what does not fit together.
    """
    parts = _parts(params, name)
    depths: list[tuple[int, _Params]] = []
    for value in _readings(text):
        read = _changed(params, parts, value, name)
        if not (problems := _problems_at(read, parts)):
            return read
        depths.append((len(problems[0]["loc"]), read))
    # None fits: the reading whose problem lies deepest has the message that helps.
    return max(depths, key=lambda one: one[0])[1]


def _parts(params: BaseModel, name: str) -> list[str]:
    """The parts of a dotted name, those of before by what they are now (`renamed` of its config)."""
    parts, rest = [], name.split(".")
    value: Any = params
    while rest:
        first, *rest = rest
        if now := _renamed(value).get(first):
            first, *rest = [*now.split("."), *rest]
        parts.append(first)
        value = getattr(value, first, None) if isinstance(value, BaseModel) else None
    return parts


def _renamed(value: Any) -> Mapping[str, str]:
    """A config's names of before, and what they are now."""
    return value.renamed if isinstance(value, Config | ExtractorConfig) else {}


def _readings(text: str) -> list[Any]:
    """What a text may mean, the likeliest first."""
    readings: list[Any] = []
    if text.lower() in ("none", "null"):
        readings.append(None)
    with suppress(ValueError):
        readings.append(json.loads(text))
    readings.append(text)
    if not text.startswith(("[", "{")):
        readings.append([part.strip() for part in text.split(",") if part.strip()])
    return readings


def _problems_at(params: BaseModel, parts: Sequence[str]) -> list[ErrorDetails]:
    """What is wrong with the value at a place, or within it."""
    try:
        type(params).model_validate(params.model_dump(warnings=False))
    except ValidationError as error:
        return [problem for problem in error.errors() if _lies_at(problem, parts)]
    return []


def _lies_at(problem: ErrorDetails, parts: Sequence[str]) -> bool:
    """Whether a problem lies at or below a place; pydantic names members of unions in between."""
    place = iter([str(part) for part in problem["loc"]])
    return all(part in place for part in parts)


def _validated(params: _Params) -> _Params:
    try:
        return type(params).model_validate(params.model_dump(warnings=False))
    except ValidationError as error:
        raise UserError(validation_text(error, type(params))) from error


def _changed(value: Any, parts: Sequence[str], new: Any, name: str) -> Any:
    """A copy of a value with another one at a place within it; not validated."""
    place, rest = parts[0], parts[1:]
    match value:
        case BaseModel():
            if place not in (known := type(value).model_fields):
                raise UserError(f"{name}: there is no field {place!r}; known are {', '.join(known)}")
            if isinstance(value, EncoderConfig) and place == "family" and new in FAMILIES and new != value.family:
                return of_family(value, new)
            return value.model_copy(update={place: _inner(getattr(value, place), parts, new, name)})
        case dict():
            if rest and place not in value:
                raise UserError(f"{name}: there is no {place!r}; known are {', '.join(value)}")
            return value | {place: _inner(value.get(place), parts, new, name)}
        case _:
            if not place.isdecimal() or int(place) >= len(value):
                raise UserError(f"{name}: {place} is not a position in a list of {len(value)}, the first of which is 0")
            at = int(place)
            return [*value[:at], _inner(value[at], parts, new, name), *value[at + 1 :]]


def _inner(value: Any, parts: Sequence[str], new: Any, name: str) -> Any:
    place, rest = parts[0], parts[1:]
    if not rest:
        return new
    if not isinstance(value, BaseModel | dict | list | tuple):
        raise UserError(f"{name}: {place} is {json.dumps(value, default=str)} and has no fields; change {place} itself")
    return _changed(value, rest, new, name)
