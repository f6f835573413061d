"""The paper's ablations: an experiment, and variants of it that differ in one thing."""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

from pydantic import Field, model_validator

from flows.params.experiment import RebuildParams
from flows.params.shards import Params
from flows.params.training import Setting

Ablation = Literal["layers", "boxes", "settings"]

_PUBLISHED_VALUES: dict[Ablation, tuple[int, ...]] = {"layers": (3, 6, 12), "boxes": (36, 100)}
"""arXiv:1908.06066v1, tables 3 and 4."""


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
        "pretrain+finetune"
    )
    values: tuple[int | str, ...] | None = Field(
        default=None,
        min_length=1,
        description="numbers of layers or boxes, or names of settings. None: the paper's, where the experiment is of "
        "the paper's size; of another, a quarter, a half and the whole of it; all settings it has",
    )
    base: RebuildParams = Field(description="the whole experiment; what is not varied stays as it says")

    @model_validator(mode="after")
    def _check_values(self) -> SweepParams:
        for value in self.values or ():
            if self.ablation == "settings":
                self._check_setting(value)
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
        encoder = self.base.encoder
        whole = encoder.num_layers if self.ablation == "layers" else encoder.max_regions
        published = _PUBLISHED_VALUES[self.ablation]
        return published if whole == published[-1] else (max(1, whole // 4), max(1, whole // 2), whole)

    def _variant(self, value: int | str) -> Variant:
        if self.ablation == "settings":
            return Variant(str(value), value, self.base, cast(Setting, value))
        field = "num_layers" if self.ablation == "layers" else "max_regions"
        one, many = ("layer", "layers") if self.ablation == "layers" else ("box", "boxes")
        encoder = self.base.encoder.model_copy(update={field: value})
        name = f"{value} {one if value == 1 else many}"
        variant = None if encoder == self.base.encoder else name
        params = self.base.model_copy(update={"encoder": encoder, "variant": variant})
        return Variant(name, value, params, "pretrain+finetune")
