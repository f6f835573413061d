"""Single fields of parameters, changed by name: `--set pretrain.steps=1000`, or `changes` of a deployment's run.

A run of a deployment that is given `params` is given all of them, since Prefect puts whole parameters in the place of
a deployment's own. `changes` is for the usual case, that one or two differ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from flows.params.checks import validation_text
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
    if not changes:
        return params
    content: dict[str, Any] = {"params": params.model_dump()}
    for name, value in changes.items():
        holder, place = content, "params"
        for part in name.split("."):
            holder, place = _open(holder, place, name), part
        _change(holder, place, value, name)
    try:
        return type(params).model_validate(content["params"])
    except ValidationError as error:
        raise UserError(validation_text(error)) from error


def read_changes(settings: Sequence[str]) -> dict[str, Any]:
    """Changes as a command line gives them: NAME=VALUE, with JSON or plain text as the value.

    Raises:
        UserError: one is not of this form.
    """
    changes: dict[str, Any] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UserError(f"--set {text!r} is not NAME=VALUE, such as pretrain.steps=1000")
        try:
            changes[name] = None if value.lower() == "none" else json.loads(value)
        except ValueError:
            changes[name] = value
    return changes


def _open(holder: Any, place: str, name: str) -> Any:
    """What lies at this place, to look for the next part of the name in it."""
    found = holder[_position(holder, place, name)]
    if isinstance(found, tuple):
        found = holder[_position(holder, place, name)] = list(found)
    if not isinstance(found, dict | list):
        raise UserError(f"{name}: {place} is {json.dumps(found)} and has no fields; change {place} itself")
    return found


def _change(holder: Any, place: str, value: Any, name: str) -> None:
    if isinstance(holder, dict):
        holder[place] = value  # Whether there is such a field, the model says.
    else:
        holder[_position(holder, place, name)] = value


def _position(holder: Any, place: str, name: str) -> str | int:
    if isinstance(holder, list):
        if not place.isdigit() or int(place) >= len(holder):
            raise UserError(f"{name}: {place} is not a position in a list of {len(holder)}, the first of which is 0")
        return int(place)
    if place not in holder:
        raise UserError(f"{name}: there is no field {place!r}; known are {', '.join(holder)}")
    return place
