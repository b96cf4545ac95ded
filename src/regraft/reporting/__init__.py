"""The report as one page that needs nothing from outside, and readers that take the events of a fit elsewhere while it runs."""

from typing import TYPE_CHECKING

from regraft.registry import Registry

if TYPE_CHECKING:
    from regraft.reporting.event_reader import EventReader
    from regraft.reporting.section import Section

# In the order of the page. A section whose data a report does not have is left out.
SECTIONS: "Registry[type[Section]]" = Registry(
    "sections",
    {
        "metrics": "regraft.reporting.sections.metrics:Metrics",
        "ladder": "regraft.reporting.sections.ladder:LadderSection",
        "seeds": "regraft.reporting.sections.seeds:Seeds",
        "ablation": "regraft.reporting.sections.ablation:Ablation",
        "learning-curves": "regraft.reporting.sections.curves:Curves",
        "confusion": "regraft.reporting.sections.confusion:ConfusionSection",
        "classes": "regraft.reporting.sections.classes:ClassesSection",
        "calibration": "regraft.reporting.sections.calibration:Calibration",
        "abstaining": "regraft.reporting.sections.abstain:Abstain",
        "conformal-sets": "regraft.reporting.sections.conformal:Conformal",
        "slices": "regraft.reporting.sections.slices:Slices",
        "weak-slices": "regraft.reporting.sections.weak_slices:WeakSlices",
        "fairness": "regraft.reporting.sections.fairness:Fairness",
        "worst-errors": "regraft.reporting.sections.worst:WorstErrors",
        "data-checks": "regraft.reporting.sections.data:Data",
        "cost": "regraft.reporting.sections.cost:CostSection",
        "lineage": "regraft.reporting.sections.lineage:Lineage",
        "again": "regraft.reporting.sections.again:Again",
    },
)

EVENT_READERS: "Registry[type[EventReader]]" = Registry(
    "event-readers",
    {
        "json-lines": "regraft.reporting.readers.json_lines:JsonLinesReader",
        "curves": "regraft.reporting.readers.curves:CurvesReader",
        "tensorboard": "regraft.reporting.readers.tensorboard:TensorboardReader",
        "mlflow": "regraft.reporting.readers.mlflow:MlflowReader",
    },
)

__all__ = ["EVENT_READERS", "SECTIONS"]
