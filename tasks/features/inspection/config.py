"""Settings of `inspect`."""

from __future__ import annotations

from pydantic import Field

from tasks.records import Record


class InspectConfig(Record):
    """Settings of one inspection."""

    shards: tuple[tuple[int, int], ...] | None = Field(
        default=None, description="(first, last) numbers of shards, both included; None: all"
    )
    keys: tuple[str, ...] | None = Field(default=None, description="images to show; None: drawn at random")
    count: int = Field(default=12, ge=0, le=200, description="images to show, without keys")
    seed: int = Field(default=0, ge=0, lt=2**63, description="of the draw")
    min_score: float = Field(default=0.2, ge=0, le=1, description="regions below are not drawn; statistics have all")
    max_drawn: int = Field(default=10, ge=1, description="regions drawn on a picture, best first")
    max_images: int = Field(
        default=4096, ge=1, description="images read for the statistics; of larger splits an even selection"
    )

    def selects(self, shard: int) -> bool:
        return self.shards is None or any(first <= shard <= last for first, last in self.shards)
