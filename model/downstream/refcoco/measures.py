"""RefCOCO's measure: the share of expressions whose object was found. For RefCOCO+ and RefCOCOg, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.downstream.bootstrap import Values
from model.downstream.figures import Group, TaskFigures, figures_reader, mean_figures
from model.downstream.measures import Measure, MeasuredTask
from model.downstream.refcoco.boxes import RULES, WIDTHS, IouRule, Widths, iou, is_found


@dataclass(frozen=True)
class Expression:
    """A sentence for one object of a picture.

    Attributes:
        id: sent_id.
        ref: ref_id of the object; None: its file has none.
        image: COCO's image id, as text.
        box: of the object, (x0, y0, x1, y1) in pixels.
    """

    id: int
    ref: int | None
    image: str
    box: tuple[float, float, float, float]


def refcoco_figures(
    expressions: Sequence[Expression], boxes: Values, rule: IouRule = "above", widths: Widths = "plain"
) -> TaskFigures:
    """Accuracy over expressions, not over objects.

    Args:
        boxes: (expressions, 4) the box given for each, (x0, y0, x1, y1) in pixels.
    """
    found = is_found(iou(boxes, np.array([one.box for one in expressions]), widths), rule)
    images = [one.image for one in expressions]
    return TaskFigures(
        task="refcoco",
        protocol=f"{RULES[rule]}, {WIDTHS[widths]}: {len(expressions):,} expressions about "
        f"{len(set(images)):,} pictures",
        examples=len(expressions),
        images=len(set(images)),
        figures=mean_figures({"accuracy": Group(images, found)}),
    )


ACCURACY = Measure(name="accuracy", label="accuracy", decimals=2)

TASK = MeasuredTask(
    name="refcoco",
    subject="accuracy",
    main=ACCURACY,
    brief=(ACCURACY,),
    read=figures_reader("refcoco", (ACCURACY,)),
)
