"""Every option has a description: `unicoder-vl params` and Prefect's forms show nothing else to whoever sets it."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

REPOSITORY = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    for room in ("flows", "tasks", "model", "feature_extraction")
    for path in (REPOSITORY / room).rglob("*.py")
    if re.fullmatch(r"(.*_)?(config|params)|jobs|machines", path.stem) or path.parent.name == "params"
)
"""Where options live."""
CONFIGS = sorted(
    {
        config
        for module in MODULES
        for config in vars(importlib.import_module(module)).values()
        if inspect.isclass(config) and issubclass(config, BaseModel) and config.__module__ in MODULES
    },
    key=lambda config: (config.__module__, config.__name__),
)


def test_the_configs_of_all_rooms_are_looked_at() -> None:
    names = {config.__name__ for config in CONFIGS}
    assert {
        "RebuildParams",
        "DownloadConfig",
        "ImportConfig",
        "ExtractorConfig",
        "FinetuneConfig",
        "PretrainJob",
    } <= names
    assert len(names) > 30


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.__module__}.{config.__name__}")
def test_every_field_has_a_description(config: type[BaseModel]) -> None:
    assert [name for name, field in config.model_fields.items() if not field.description] == []
