"""The tissue that the slide model attended to, as words of a fused model's prompt: a head fitted beside the fusion.

The head (model.fusion.patterns.head) reads the tile features of the slide run and is fitted on the labelled tiles of
training patients alone; labelled validation patients say how good it is. Where the data hold no labels there is no
head, and prompts say nothing of tissue.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clarion.config import nearest, numbered, target_problems
from clarion.errors import UsageError
from clarion.trainers.base import Sample

log = logging.getLogger(__name__)

FOLDER = "tissue"  # beside the unimodal models of a checkpoint
OPTIONS = {"head", "kinds", "min_share"}
MODALITY = "slide"


def check(options: Mapping[str, Any] | None) -> None:
    """UsageError for settings of model.fusion.patterns that are wrong; null is none of them."""
    if options is None:
        return
    if not isinstance(options, Mapping):
        raise UsageError("model.fusion.patterns is {head, kinds, min_share}, or null for prompts without tissue.")
    if strange := sorted(set(options) ^ OPTIONS):
        raise UsageError(f"model.fusion.patterns.{strange[0]} is unknown or absent; it has "
                         f"{', '.join(sorted(OPTIONS))}.{nearest(strange[0], OPTIONS)}")  # fmt: skip
    if problems := target_problems({"head": {"_target_": options["head"]}}, "model.fusion.patterns"):
        raise UsageError(numbered(problems))
    if int(options["kinds"]) < 1 or not 0 <= float(options["min_share"]) < 1:
        raise UsageError("model.fusion.patterns: kinds must be at least 1, min_share from 0 to below 1.")


class Tissue:
    """Samples -> the kinds of tissue attended to. head: fitted; module: the slide model; kinds: most that are told;
    min_share: of the attention, below which a kind is not told."""

    def __init__(self, head: Any, module: Any, options: Mapping[str, Any]):
        self.head, self.module = head, module
        self.kinds, self.min_share = int(options["kinds"]), float(options["min_share"])

    @classmethod
    def fit(cls, options: Mapping[str, Any] | None, encoders: Any, data: Any, seed: int) -> Tissue | None:
        """The head on the training patients' labelled tiles (data.tissue_labels). None where the config wants none,
        where nothing is labelled, and where the slide model looks at no tiles."""
        from hydra.utils import get_class

        if options is None or MODALITY not in encoders.modules or not hasattr(data, "tissue_labels"):
            return None
        module = encoders.modules[MODALITY]
        if not (hasattr(module, "bag") and hasattr(module, "reader")):
            log.warning("the slide model looks at no tiles: prompts say nothing of tissue")
            return None
        if not len(data.tissue_labels("train")):
            log.info("no tile of a training patient is labelled (tissue.csv): prompts say nothing of tissue")
            return None
        head = get_class(options["head"]).fit_on(module, data, seed)
        held = head.held_out.get("balanced_accuracy")
        told = "no validation patient is labelled"
        if held is not None:
            told = (f"balanced accuracy {held['value']:.3f} on {held['n']} labelled tiles of {held['n_patients']} "
                    "validation patients")  # fmt: skip
        log.info("kinds of tissue (%s): %s", ", ".join(head.kinds), told)
        return cls(head, module, options)

    @classmethod
    def load(cls, options: Mapping[str, Any] | None, encoders: Any, folder: Path) -> Tissue | None:
        """The head of a checkpoint; None where it has none."""
        from hydra.utils import get_class

        if options is None or not folder.is_dir():
            return None
        module = encoders.modules[MODALITY]
        head = get_class(options["head"])
        return cls(head.load(folder, head.digest(module)), module, options)

    def __call__(self, samples: Sequence[Sample]) -> list[dict[str, float]]:
        """kind -> share of the attention, of each sample; {} for one without tiles."""
        return self.head.attended(self.module, samples, self.kinds, self.min_share)
