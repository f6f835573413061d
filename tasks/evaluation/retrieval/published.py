"""Published results, to be read beside ours. Recalls are fractions, as everywhere; pages show percent.

The papers say "sentence retrieval" or "text retrieval" where an image looks for its captions. That is image-to-text
here; their "image retrieval" is text-to-image. They do not say whether COCO's 1K is the first thousand images of the
test split or the mean of five folds.
"""

from __future__ import annotations

from dataclasses import dataclass

V1 = "Unicoder-VL, first version"
AAAI = "Unicoder-VL, AAAI version"
UNITER_BASE = "UNITER-base"
UNITER_LARGE = "UNITER-large"

_V1_SOURCE = "Li et al., arXiv:1908.06066v1"
_AAAI_SOURCE = "Li et al., AAAI 2020"
_UNITER_SOURCE = "Chen et al., ECCV 2020"

_DEPTHS = (1, 5, 10)


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table.

    Attributes:
        model: which one, with its version.
        setting: zero-shot, task-specific (without pretraining) or pretrain+finetune.
        dataset: flickr30k or coco; always its test split.
        protocol: 1K or 5K, the number of images that a query ranks or is ranked among.
        image_to_text: k -> recall@k of images that look for a caption, a fraction.
        text_to_image: k -> recall@k of captions that look for their image, a fraction.
        source: the paper, and the table where it is one of several.
    """

    model: str
    setting: str
    dataset: str
    protocol: str
    image_to_text: dict[int, float]
    text_to_image: dict[int, float]
    source: str


@dataclass(frozen=True)
class PublishedAblation:
    """A published row of a model in which one thing was changed.

    Attributes:
        of: what was changed: layers of the encoder, or regions an image.
        value: to how many.
    """

    of: str
    value: int
    row: PublishedRow


@dataclass(frozen=True)
class PublishedObjectives:
    """A published row of UNITER-base that was pretrained with some objectives alone.

    Attributes:
        objectives: as the paper names them.
        image_to_text: mean of recall@1, 5 and 10 of images that look for a caption, a fraction.
        text_to_image: the same of captions that look for their image.
    """

    objectives: str
    image_to_text: float
    text_to_image: float


def published_rows(dataset: str, protocol: str) -> list[PublishedRow]:
    """Published rows for a dataset (flickr30k or coco) by a protocol (1K or 5K)."""
    return [row for row in PUBLISHED if (row.dataset, row.protocol) == (dataset, protocol)]


def published_ablations(of: str) -> list[PublishedAblation]:
    """The rows in which `layers` or `regions` were changed, fewest first."""
    return [ablation for ablation in ABLATIONS if ablation.of == of]


def _row(
    model: str,
    setting: str,
    test_set: tuple[str, str],
    image_to_text: tuple[float, ...],
    text_to_image: tuple[float, ...],
    source: str,
) -> PublishedRow:
    """A row from recalls in percent, as the papers print them, at 1, 5 and 10; or at 1 alone."""
    dataset, protocol = test_set
    return PublishedRow(model, setting, dataset, protocol, _fractions(image_to_text), _fractions(text_to_image), source)


def _fractions(percents: tuple[float, ...]) -> dict[int, float]:
    return {k: round(percent / 100, 4) for k, percent in zip(_DEPTHS, percents, strict=False)}


_FLICKR = ("flickr30k", "1K")
_COCO_1K = ("coco", "1K")
_COCO_5K = ("coco", "5K")
_ZERO, _SPECIFIC, _FULL = "zero-shot", "task-specific", "pretrain+finetune"

PUBLISHED: tuple[PublishedRow, ...] = (
    _row(V1, _ZERO, _FLICKR, (61.6, 84.8, 90.1), (42.4, 71.8, 81.5), f"{_V1_SOURCE}, table 2"),
    _row(V1, _SPECIFIC, _FLICKR, (73.0, 89.0, 94.1), (57.8, 82.2, 88.9), f"{_V1_SOURCE}, table 2"),
    _row(V1, _FULL, _FLICKR, (82.3, 95.1, 97.8), (68.3, 90.3, 94.6), f"{_V1_SOURCE}, table 2"),
    _row(AAAI, _ZERO, _FLICKR, (64.3, 85.8, 92.3), (48.4, 76.0, 85.2), _AAAI_SOURCE),
    _row(AAAI, _FULL, _FLICKR, (86.2, 96.3, 99.0), (71.5, 90.9, 94.9), _AAAI_SOURCE),
    _row(UNITER_BASE, _ZERO, _FLICKR, (80.7, 95.7, 98.0), (66.2, 88.4, 92.9), _UNITER_SOURCE),
    _row(UNITER_BASE, _FULL, _FLICKR, (85.9, 97.1, 98.8), (72.5, 92.4, 96.1), _UNITER_SOURCE),
    _row(UNITER_LARGE, _FULL, _FLICKR, (87.3, 98.0, 99.2), (75.6, 94.1, 96.8), _UNITER_SOURCE),
    _row(V1, _ZERO, _COCO_1K, (43.7, 75.6, 85.3), (32.5, 65.7, 79.4), f"{_V1_SOURCE}, table 1"),
    _row(V1, _SPECIFIC, _COCO_1K, (75.1, 94.3, 97.8), (63.9, 91.6, 96.5), f"{_V1_SOURCE}, table 1"),
    _row(V1, _FULL, _COCO_1K, (82.6, 96.6, 99.3), (68.5, 92.7, 96.9), f"{_V1_SOURCE}, table 1"),
    _row(AAAI, _ZERO, _COCO_1K, (54.4, 82.8, 90.6), (43.4, 76.0, 87.0), _AAAI_SOURCE),
    _row(AAAI, _FULL, _COCO_1K, (84.3, 97.3, 99.3), (69.7, 93.5, 97.2), _AAAI_SOURCE),
    _row(V1, _FULL, _COCO_5K, (59.6, 85.1, 91.8), (44.5, 74.4, 84.0), f"{_V1_SOURCE}, table 1"),
    _row(AAAI, _FULL, _COCO_5K, (62.3, 87.1, 92.8), (46.7, 76.0, 85.3), _AAAI_SOURCE),
    _row(UNITER_BASE, _FULL, _COCO_5K, (64.4, 87.4, 93.1), (50.3, 78.5, 87.2), _UNITER_SOURCE),
    _row(UNITER_LARGE, _FULL, _COCO_5K, (65.7, 88.6, 93.8), (52.9, 79.9, 88.0), _UNITER_SOURCE),
)

_LAYERS_SOURCE, _REGIONS_SOURCE = f"{_V1_SOURCE}, table 3", f"{_V1_SOURCE}, table 4"

ABLATIONS: tuple[PublishedAblation, ...] = (
    PublishedAblation("layers", 3, _row(V1, _FULL, _FLICKR, (60.1, 72.3, 86.5), (49.4, 70.9, 85.5), _LAYERS_SOURCE)),
    PublishedAblation("layers", 6, _row(V1, _FULL, _FLICKR, (72.4, 93.1, 96.3), (58.1, 83.4, 90.2), _LAYERS_SOURCE)),
    PublishedAblation("layers", 12, _row(V1, _FULL, _FLICKR, (82.3, 95.1, 97.8), (68.3, 90.3, 94.6), _LAYERS_SOURCE)),
    PublishedAblation("layers", 24, _row(AAAI, _FULL, _FLICKR, (86.5,), (73.6,), _AAAI_SOURCE)),
    PublishedAblation(
        "regions", 36, _row(V1, _FULL, _COCO_1K, (66.1, 93.2, 96.9), (57.8, 86.7, 93.8), _REGIONS_SOURCE)
    ),
    PublishedAblation(
        "regions", 100, _row(V1, _FULL, _COCO_1K, (82.6, 96.6, 99.3), (68.5, 92.7, 96.9), _REGIONS_SOURCE)
    ),
)

OBJECTIVES: tuple[PublishedObjectives, ...] = (
    PublishedObjectives("no pretraining", 0.6555, 0.6174),
    PublishedObjectives("MLM", 0.8925, 0.7788),
    PublishedObjectives("MLM + ITM", 0.9112, 0.8164),
    PublishedObjectives("MLM + ITM + MRFR", 0.9231, 0.8176),
    PublishedObjectives("MLM + ITM + MRC", 0.9145, 0.8139),
    PublishedObjectives("MLM + ITM + MRC-kl", 0.9257, 0.8210),
    PublishedObjectives("MLM + ITM + MRC-kl + MRFR", 0.9287, 0.8373),
    PublishedObjectives("MLM + ITM + MRC-kl + MRFR + WRA", 0.9303, 0.8372),
)
"""On Flickr30K's validation split, pretrained on COCO and Visual Genome: `OBJECTIVES_SOURCE`."""
OBJECTIVES_SOURCE = f"{_UNITER_SOURCE}, table 2"
