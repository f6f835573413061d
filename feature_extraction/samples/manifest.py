"""The feature manifest: what a folder of region shards holds, written last."""

from __future__ import annotations

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from feature_extraction.samples.regions import CLASS_SCORES_FORMAT, REGION_FORMAT, Encoding, RegionFormat, RegionLayout
from feature_extraction.samples.tars import ShardError


class ShardEntry(BaseModel):
    """One committed feature shard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Both name files of caches, so they are nothing that leads out of a folder.
    name: str = Field(pattern=r"^[\w-]+\.tar$")
    samples: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class FeatureManifest(BaseModel):
    """The facts of a feature set, written last beside its shards. Shards of different extractors refuse to mix."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: RegionFormat = Field(
        default="rgn/1", description="of the records: rgn/2 where they hold class scores, so that older readers refuse"
    )
    max_regions: int = Field(ge=1, description="R")
    feature_dim: int = Field(ge=1, description="D")
    encoding: Encoding
    num_top: int = Field(default=0, ge=0, description="T, best classes stored per region")
    num_classes: int = Field(
        default=0, ge=0, description="C where each region's distribution over all classes is stored, else 0"
    )
    labels: tuple[str, ...] = Field(description="name of each foreground class; its length is C")
    extractor: str = Field(description="fingerprint of the extractor")
    extractor_details: dict[str, object] = Field(description="what the fingerprint was made of")
    shards: tuple[ShardEntry, ...]

    @property
    def layout(self) -> RegionLayout:
        return RegionLayout(self.max_regions, self.feature_dim, self.encoding, self.num_top, self.num_classes)

    @property
    def class_scores_note(self) -> str | None:
        """How distributions read from these shards differ from the detector's; None: stored whole, or not at all."""
        if not self.num_top or self.num_classes or self.num_top >= len(self.labels):
            return None
        return (
            f"class scores are an approximation: the best {self.num_top} of {len(self.labels)} classes are stored of "
            "each region, and what they leave is spread evenly over the others"
        )

    @model_validator(mode="after")
    def _check_classes(self) -> FeatureManifest:
        if self.format != self.layout.format:
            raise ValueError(f"format {self.format} with class scores of {self.num_classes} classes")
        if self.num_classes not in (0, len(self.labels)):
            raise ValueError(f"class scores of {self.num_classes} classes, but {len(self.labels)} labels")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_none(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Write a manifest without top labels or class scores as before they existed.

        Training runs are named by its bytes.
        """
        fields: dict[str, object] = dump(self)
        return {name: value for name, value in fields.items() if name not in ("num_top", "num_classes") or value}


def parse_manifest(text: str | bytes, where: str) -> FeatureManifest:
    """Parse a feature manifest from its JSON.

    Raises:
        ShardError: not a manifest, or of another format version.
    """
    try:
        return FeatureManifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise ShardError(
            f"{where}: not a feature manifest of format {REGION_FORMAT} or {CLASS_SCORES_FORMAT} "
            f"({'.'.join(map(str, first['loc']))}: {first['msg']}); extract again"
        ) from error
