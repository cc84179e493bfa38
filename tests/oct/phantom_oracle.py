"""Predictors that know the phantom's truth, so that everything after the networks can be checked against it."""

from __future__ import annotations

import numpy as np

from clarion.oct.quantify import Model
from clarion.oct.volume import SURFACES, Volume
from clarion.samples import Prediction

SOURCE = {"model": "truth", "hash": "0" * 16}


class Oracle:
    """Answers layers, presence and boxes with the truth of the volume's own eye."""

    def __init__(self, volume: Volume):
        self.truth = {s.scan_id: volume.truth.bscan(s.direction, s.line) for s in volume.scans}

    def layers(self, samples):
        for s in samples:
            rows = np.stack([self.truth[s.sample_id].surfaces[name] for name in SURFACES]).astype(np.float32)
            yield Prediction(s.sample_id, s.patient_id, {"surfaces": rows, "sd": np.full_like(rows, 0.3)})

    def presence(self, samples):
        for s in samples:
            assert s.inputs["ilm"].shape == (s.inputs["bscan"].shape[1],)
            found = self.truth[s.sample_id].presence.astype(np.float32)
            yield Prediction(s.sample_id, s.patient_id, {"presence": found})

    def boxes(self, samples):
        for s in samples:
            found = self.truth[s.sample_id].boxes
            yield Prediction(s.sample_id, s.patient_id, {"boxes": found.tolist(), "scores": [0.9] * len(found),
                                                         "labels": [0] * len(found)})  # fmt: skip

    def models(self, boxes: bool = False) -> dict:
        models = {"layers": Model(self.layers, SOURCE), "presence": Model(self.presence, SOURCE, calibrated_as="truth")}
        if boxes:
            models["detector"] = Model(self.boxes, SOURCE)
        return models
