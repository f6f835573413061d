"""Configs of before keep their identity, field by field, so that what was made with them is found.

`tests/golden/identities.json` was written by the last version that kept lists of field names beside the configs: the
identity of the defaults, and for each change of a field what the identity then has in addition, and what it lacks.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from feature_extraction.config import ExtractorConfig
from feature_extraction.identity import choice_of
from flows.params.experiment import RebuildParams
from model.config import FeatureSource, LoopConfig
from model.downstream.retrieval.config import FinetuneConfig, ScoringConfig, Shortlist
from model.families.unicoder_vl_config import UnicoderVLConfig
from model.jobs import FinetuneJob, PretrainJob, ScoreJob
from model.objectives.config import PretrainConfig
from tasks.download.config import DownloadConfig
from tasks.download.settings import result_settings
from tasks.evaluation.evaluate import scored_data_fingerprint
from tasks.training.data import ResolvedData

GOLDEN_FILES = Path(__file__).parents[1] / "golden"
GOLDEN = json.loads((GOLDEN_FILES / "identities.json").read_text())
CONFIGS = (ExtractorConfig, DownloadConfig, UnicoderVLConfig, LoopConfig, PretrainConfig, FinetuneConfig)
NAMES_OF_BEFORE = {"UnicoderVLConfig": "EncoderConfig"}


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
    golden = GOLDEN[NAMES_OF_BEFORE.get(config_type.__name__, config_type.__name__)]
    # In any order of the fields: fingerprints sort them.
    whole = told(config_type(**golden["base"]))
    assert json.dumps(whole, sort_keys=True) == json.dumps(golden["identity"], sort_keys=True)
    for case in golden["cases"]:
        identity = told(config_type.model_validate(golden["base"] | case["changes"]))
        kept = {name: value for name, value in golden["identity"].items() if name not in case["gone"]}
        assert json.dumps(identity, sort_keys=True) == json.dumps(kept | case["other"], sort_keys=True), case["changes"]
    changed = {name for case in golden["cases"] for name in case["changes"]}
    assert changed >= golden["identity"].keys() - golden["base"].keys()


@pytest.mark.parametrize(
    ("scoring", "fingerprint"),
    [
        (ScoringConfig(precision="fp32"), "25437ce3d685e94e7b759d3cd4b66f6c7f25a905068be44f86a0f4003980e9ee"),
        (
            ScoringConfig(
                precision="bf16",
                batch_size=3,
                block_pairs=9,
                device="cpu",
                num_processes=2,
                num_threads=1,
                protocols=("first:5",),
            ),
            "0ba395023ecaf8259d9dcba554bf59b23096c6805604602301296f90a2374454",
        ),
        (
            ScoringConfig(precision="fp32", shortlist=Shortlist(size=50)),
            "cf856133c1122261342a83c4bef3b00ed8bc216ea73a9d644cc0e366abb3054b",
        ),
    ],
)
def test_scores_that_were_made_are_found(scoring: ScoringConfig, fingerprint: str) -> None:
    source = FeatureSource(features_path="a", captions_path="b", name="c")
    data = ResolvedData(source=source, identity={"features": "f", "captions": "c"})
    assert scored_data_fingerprint(data, scoring) == fingerprint


RENAMED = {"word_weight": "mlm", "label_weight": "moc", "matching_weight": "vlm"}
"""What is a weight in `objectives` now."""


def lost(then: Any, now: Any, place: str = "") -> list[str]:
    """Places whose value is another one now."""
    if isinstance(then, dict) and isinstance(now, dict):
        return [one for name in then for one in lost(then[name], now.get(name), f"{place}.{name}")]
    return [] if then == now else [place]


def test_jobs_and_parameters_that_were_written_read_as_they_were() -> None:
    """A field that came later has its default; none is lost, and none has another value."""
    kinds = {"pretrain": PretrainJob, "finetune": FinetuneJob, "scores": ScoreJob, "params": RebuildParams}
    seen = set()
    with tarfile.open(GOLDEN_FILES / "root-0.1" / "root.tar.gz") as tar:
        for member in tar.getmembers():
            path = Path(member.name)
            if path.name not in ("job.json", "params.json"):
                continue
            stream = tar.extractfile(member)
            assert stream is not None
            content = json.load(stream)
            kind = "params" if path.name == "params.json" else path.parts[-2].partition("-")[0]
            kind = "scores" if path.parts[0] == "scores" else kind
            read = kinds[kind].model_validate(content).model_dump(mode="json")
            if pretrain := read.get("pretrain"):
                pretrain |= {name: pretrain["objectives"][one] for name, one in RENAMED.items()}
            if extractor := read.get("extractor"):
                extractor["top_labels"] = ExtractorConfig.model_validate(extractor).num_top
            assert lost(content, read) == [], member.name
            seen.add(kind)
    assert seen == set(kinds)
