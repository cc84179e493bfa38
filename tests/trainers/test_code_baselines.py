"""The coding baselines: majority, embedding alone and rules, through fit, checkpoint and prediction."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from clarion.errors import DataError, UsageError
from clarion.samples import Sample
from clarion.trainers.base import Run
from clarion.trainers.coder import CoderTrainer, best_threshold
from clarion.trainers.coder_embedding import EmbeddingCoder

SCOPE = ["H25", "H35.34", "H43.1"]
NOTES = {
    "train": [("Primary open-angle glaucoma of both eyes, moderate stage.", ["H40.1132"]),
              ("Primary open-angle glaucoma of both eyes.", ["H40.1132", "H25.13"]),
              ("Macular cyst.", ["H35.342"])],
    "val": [("Age-related nuclear cataract, bilateral. The weather was fine that day.", ["H25.13"]),
            ("Vitreous hemorrhage, left eye. She came by bus.", ["H43.12"]),
            ("Macular cyst, hole, or pseudohole, right eye.", ["H35.341"])],
    "test": [("Vitreous hemorrhage, right eye. He likes football.", ["H43.11"])],
}  # fmt: skip


class Cases:
    name, task, kind, splits = "cases", "generation", "phantom", {k: list(range(len(v))) for k, v in NOTES.items()}

    def samples(self, split):
        for k, (note, _) in enumerate(NOTES[split]):
            yield Sample(f"{split}{k}", f"p{k}", {"note": note})

    def truth(self, split):
        rows = enumerate(NOTES[split])
        return pd.DataFrame([{"sample_id": f"{split}{k}", "patient_id": f"p{k}", "codes": c} for k, (_, c) in rows])


@dataclass
class Log:
    rows: list = field(default_factory=list)

    def log(self, metrics, step):
        self.rows.append(dict(metrics))


def fitted(folder, data=None, **model):
    trainer = CoderTrainer({"name": "x", "task": "generation", "coder": None, "threshold": "auto"} | model)
    trainer.check()
    run = Run(cfg=OmegaConf.create({}), directory=folder, data=data or Cases(), tracker=Log())
    return trainer, trainer.fit(run), run.tracker


def test_the_majority_answers_every_case_alike(tmp_path):
    trainer, checkpoint, _ = fitted(tmp_path)
    [one] = trainer.load(checkpoint)(Cases().samples("test"))
    assert one.values["codes"][0] == "H40.1132"
    assert one.values["confidences"][0] == pytest.approx(2 / 3)


def test_embedding_alone_finds_titles_and_its_threshold_keeps_chatter_out(tmp_path):
    node = {"_target_": "clarion.trainers.coder_embedding.EmbeddingCoder", "scope": SCOPE}
    trainer, checkpoint, log = fitted(tmp_path, coder=node)
    assert log.rows == [{"val/leaf_f1": 1.0}]
    [one] = trainer.load(checkpoint)(Cases().samples("test"))
    assert one.values["codes"] == ["H43.11"] and one.values["confidences"][0] > 0.7
    found = EmbeddingCoder(SCOPE).batch(["He likes football.", "", "Cataract. Cataract."])
    assert len(found[0].codes) == 1 and found[0].codes[0].confidence < one.values["confidences"][0]
    assert found[1].codes == [] and len(found[2].codes) == 1


def test_rules_go_the_same_way(tmp_path):
    node = {"_target_": "clarion.llm.coding.coder.TextCoder", "scope": "7", "embedding": False}
    trainer, checkpoint, log = fitted(tmp_path, coder=node)
    assert log.rows[0]["val/leaf_f1"] > 0.6
    [one] = trainer.load(checkpoint)(Cases().samples("test"))
    assert one.values["codes"] == ["H43.11"]


def test_the_threshold_is_the_best_of_all():
    rng = np.random.default_rng(0)
    true = [[f"H{rng.integers(20, 30)}"] for _ in range(60)]
    found = []
    for [code] in true:
        codes = sorted({f"H{rng.integers(20, 30)}" for _ in range(3)})
        found.append((codes, [float(rng.random() / 4 + (0.5 if c == code else 0.2)).__round__(2) for c in codes]))

    def f1(threshold):
        kept = [{c for c, s in zip(*row, strict=True) if s >= threshold} for row in found]
        right = sum(len(k & set(t)) for k, t in zip(kept, true, strict=True))
        return 2 * right / (sum(map(len, kept)) + len(true))

    threshold, value = best_threshold(found, true)
    assert value == pytest.approx(f1(threshold))
    assert value == pytest.approx(max(f1(s) for _, sure in found for s in sure))
    assert best_threshold([([], [])], [["H20"]]) == (0.0, 0.0)


def test_what_cannot_work_is_refused(tmp_path):
    with pytest.raises(UsageError, match="not an admitted class"):
        fitted(tmp_path, coder={"_target_": "os.system"})
    with pytest.raises(UsageError, match="auto or a number"):
        fitted(tmp_path, threshold="high")
    with pytest.raises(UsageError, match="scope=H99"):
        EmbeddingCoder(scope="H99")
    trainer, checkpoint, _ = fitted(tmp_path)
    with pytest.raises(UsageError, match="another model.coder"):
        CoderTrainer({"coder": {"_target_": "clarion.trainers.coder_embedding.EmbeddingCoder"}}).load(checkpoint)
    with pytest.raises(UsageError, match="no checkpoint"):
        trainer.load(tmp_path)

    class NoCodes(Cases):
        def truth(self, split):
            return super().truth(split).assign(codes=[[] for _ in NOTES[split]])

    with pytest.raises(DataError, match="holds no codes"):
        fitted(tmp_path, data=NoCodes())
