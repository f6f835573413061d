"""The papers' ablations: an experiment, and variants of it that differ in one thing."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, cast

from pydantic import Field, model_validator

from flows.params.experiment import RebuildParams
from flows.params.shards import Params
from flows.params.training import Setting
from model.objectives.config import OBJECTIVES, PretrainConfig

Ablation = Literal["layers", "boxes", "settings", "objectives"]

_PUBLISHED_VALUES: dict[Ablation, tuple[int, ...]] = {"layers": (3, 6, 12), "boxes": (36, 100)}
"""arXiv:1908.06066v1, tables 3 and 4."""
_PUBLISHED_OBJECTIVES = (
    "mlm",
    "mlm+itm",
    "mlm+itm+mrfr",
    "mlm+itm+mrc",
    "mlm+itm+mrc-kl",
    "mlm+itm+mrc-kl+mrfr",
    "mlm+itm+mrc-kl+mrfr+wra",
)
"""arXiv:1909.11740, table 2, lines 5 to 11."""
_ALIGNMENT = "wra"
"""Word-region alignment, which is a part of itm: see `PretrainConfig.alignment_weight`."""
_ALIGNMENT_WEIGHT = 0.1
"""UNITER's, where the experiment has none."""


class Variant(NamedTuple):
    """One row of a sweep's table."""

    name: str
    value: int | str
    params: RebuildParams
    setting: Setting


class SweepParams(Params):
    """An experiment, the thing that is varied, and its values."""

    ablation: Ablation = Field(
        description="layers: how many the encoder has (encoder.num_layers); boxes: how many regions of an image it "
        "reads, the best-scored ones of those extracted (encoder.max_regions); settings: zero-shot, task-specific, "
        "pretrain+finetune; objectives: what pretraining learns (pretrain.objectives), in the same number of steps"
    )
    values: tuple[int | str, ...] | None = Field(
        default=None,
        min_length=1,
        description="numbers of layers or boxes, names of settings, or objectives joined by +, such as mlm+itm, where "
        "wra is itm's word-region alignment. None: the papers', where the experiment is of the paper's size; of "
        "another, a quarter, a half and the whole of it; all settings it has; objectives as in UNITER's table 2",
    )
    base: RebuildParams = Field(description="the whole experiment; what is not varied stays as it says")

    @model_validator(mode="after")
    def _check_values(self) -> SweepParams:
        for value in self._default_values() if self.values is None else self.values:
            if self.ablation == "settings":
                self._check_setting(value)
            elif self.ablation == "objectives":
                self._check_objectives(value)
            elif not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"{value!r} is no number of {self.ablation}: give whole numbers from 1, such as 3,6,12"
                )
            elif self.ablation == "boxes" and value > self.base.extractor.max_regions:
                raise ValueError(f"boxes={value} exceeds extractor.max_regions={self.base.extractor.max_regions}")
        return self

    def _check_setting(self, value: int | str) -> None:
        if value not in self.base.settings:
            raise ValueError(f"there is no setting {value!r} here; known are {', '.join(self.base.settings)}")

    def _check_objectives(self, value: int | str) -> None:
        names = str(value).split("+")
        known = (*OBJECTIVES, _ALIGNMENT)
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"{value}: there is no objective {unknown[0]!r}; known are {', '.join(known)}")
        if _ALIGNMENT in names and "itm" not in names:
            raise ValueError(f"{value}: wra aligns the pairs of itm; name both, as in mlm+itm+wra")
        if "mrc-kl" in names and self.base.extractor.class_scores == "none":
            raise ValueError(
                f"{value}: mrc-kl learns distributions over classes, but extractor.class_scores=none stores none; "
                "extract them with --set extractor.class_scores=all, or name --values without mrc-kl"
            )

    def variants(self) -> list[Variant]:
        """The variants in the order of the values, each once."""
        values = self._default_values() if self.values is None else self.values
        return [self._variant(value) for value in dict.fromkeys(values)]

    @property
    def name(self) -> str:
        """Name of the sweep's files. Another recipe's sweep on the same root, dataset and seed replaces them."""
        seed = self.base.finetune.seed
        return f"{self.ablation}-{self.base.retrieval_dataset.name}" + (f"-seed{seed}" if seed else "")

    def _default_values(self) -> tuple[int | str, ...]:
        if self.ablation == "settings":
            return self.base.settings
        if self.ablation == "objectives":
            return _PUBLISHED_OBJECTIVES
        encoder = self.base.encoder
        whole = encoder.num_layers if self.ablation == "layers" else encoder.max_regions
        published = _PUBLISHED_VALUES[self.ablation]
        return published if whole == published[-1] else (max(1, whole // 4), max(1, whole // 2), whole)

    def _variant(self, value: int | str) -> Variant:
        if self.ablation == "settings":
            return Variant(str(value), value, self.base, cast(Setting, value))
        if self.ablation == "objectives":
            return self._varied(_objectives_text(str(value)), value, {"pretrain": self._pretrain(str(value))})
        field = "num_layers" if self.ablation == "layers" else "max_regions"
        one, many = ("layer", "layers") if self.ablation == "layers" else ("box", "boxes")
        encoder = self.base.encoder.model_copy(update={field: value})
        return self._varied(f"{value} {one if value == 1 else many}", value, {"encoder": encoder})

    def _varied(self, name: str, value: int | str, changed: dict[str, Any]) -> Variant:
        """A variant by the fields that it changes; evaluations of one that changes nothing are the experiment's."""
        params = self.base.model_copy(update=changed)
        if params != self.base:
            of_base = self.base.variant
            params = params.model_copy(update={"variant": name if of_base is None else f"{of_base}, {name}"})
        return Variant(name, value, params, "pretrain+finetune")

    def _pretrain(self, value: str) -> PretrainConfig:
        """Pretraining with these objectives: each as the experiment has it, or else with a share of 1."""
        base, names = self.base.pretrain, value.split("+")
        own = base.alignment_weight or _ALIGNMENT_WEIGHT
        return base.model_copy(
            update={
                "objectives": {name: base.objectives.get(name, 1.0) for name in OBJECTIVES if name in names},
                "alignment_weight": own if _ALIGNMENT in names else 0.0,
            }
        )


def _objectives_text(value: str) -> str:
    """As papers write them: MLM + ITM + MRC-kl."""
    return " + ".join(name.upper().replace("-KL", "-kl") for name in value.split("+"))
