"""Does retinal thickness go with the membrane? In um, adjusted for where in the macula, with a spatial null."""

from clarion.oct.association.estimate import Association, DoseBin, associate
from clarion.oct.association.legacy import colour_classes, legacy_score, legacy_weights, thickness_classes

__all__ = [
    "Association", "DoseBin", "associate", "colour_classes", "legacy_score", "legacy_weights", "thickness_classes",
]  # fmt: skip
