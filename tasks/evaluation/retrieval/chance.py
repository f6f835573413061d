"""The row of a retrieval table that knowing nothing reaches."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum

from model.downstream.retrieval.chance import chance_of_a_caption
from model.downstream.retrieval.metrics import RECALL_DEPTHS
from model.downstream.retrieval.protocols import protocol_rows
from tasks.evaluation.retrieval.setting_row import SettingRow


def chance_row(captions_per_image: Sequence[int], protocol: str = "all") -> SettingRow:
    """Expected recall of a random ranking.

    Of M captions, an image has c true ones. A random order of them has none of the c among its first k with
    probability C(M - c, k) / C(M, k) (hypergeometric); so image-to-text recall is the mean over images of one minus
    that. A caption has one true image among N: text-to-image recall is k / N. Both are exact. M and N are those of a
    fold; of several folds it is the mean, as of the metrics.

    Args:
        captions_per_image: c of every scored image, each at least 1, in the order of the scores.
        protocol: all, first:N or folds:N, see `model.downstream.retrieval.protocols`.
    """
    if not captions_per_image or min(captions_per_image) < 1:
        raise ValueError(f"every image needs a caption, got counts {list(captions_per_image)[:5]}")
    folds = [captions_per_image[rows.start : rows.stop] for rows in protocol_rows(protocol, len(captions_per_image))]
    return SettingRow(
        setting="chance",
        image_to_text={k: fsum(chance_of_a_caption(fold, k) for fold in folds) / len(folds) for k in RECALL_DEPTHS},
        text_to_image={k: fsum(min(k / len(fold), 1) for fold in folds) / len(folds) for k in RECALL_DEPTHS},
        images=sum(map(len, folds)),
        captions=sum(map(sum, folds)),
        seed=None,
        protocol=protocol,
        folds=len(folds),
        split_images=len(captions_per_image),
    )
