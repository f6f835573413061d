"""Configs of before keep their identity, field by field, so that what was made with them is found.

`tests/golden/identities.json` was written by the last version that kept lists of field names beside the configs: the
identity of the defaults, and for each change of a field what the identity then has in addition, and what it lacks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from feature_extraction.config import ExtractorConfig
from feature_extraction.identity import choice_of
from model.config import LoopConfig
from model.downstream.retrieval.config import FinetuneConfig
from model.families.config import EncoderConfig
from model.objectives.config import PretrainConfig
from tasks.download.config import DownloadConfig
from tasks.download.settings import result_settings

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "identities.json").read_text())
CONFIGS = (ExtractorConfig, DownloadConfig, EncoderConfig, LoopConfig, PretrainConfig, FinetuneConfig)


def told(config: Any) -> dict[str, Any]:
    if isinstance(config, ExtractorConfig):
        return config.fingerprinted()
    if isinstance(config, DownloadConfig):
        return result_settings(config)
    if isinstance(config, LoopConfig) and config.keep_best is not None:
        return config.identity() | {"result": choice_of(config) | {"validation": None}}
    return config.identity()


@pytest.mark.parametrize("config_type", CONFIGS)
def test_every_change_of_a_field_has_the_identity_that_it_had(config_type: type[BaseModel]) -> None:
    golden = GOLDEN[config_type.__name__]
    assert json.dumps(told(config_type(**golden["base"]))) == json.dumps(golden["identity"])
    for case in golden["cases"]:
        identity = told(config_type.model_validate(golden["base"] | case["changes"]))
        kept = {name: value for name, value in golden["identity"].items() if name not in case["gone"]}
        assert json.dumps(identity, sort_keys=True) == json.dumps(kept | case["other"], sort_keys=True), case["changes"]
    changed = {name for case in golden["cases"] for name in case["changes"]}
    assert changed >= golden["identity"].keys() - golden["base"].keys()
