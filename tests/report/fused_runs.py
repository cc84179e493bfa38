"""A fused run as it is recorded: the real evaluators, ablation summary and comparison on a small table of patients."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pandas
from evaluated_runs import record

from clarion.cancer.fusion.ablation import FORMAT, summarise
from clarion.evaluators.factcheck import FactcheckEvaluator
from clarion.evaluators.factcheck_facts import Facts, Gene, Pattern
from clarion.evaluators.survival import SurvivalEvaluator
from clarion.unimodal import side_by_side

PATIENTS = 40
WRONG = 5  # of the texts states a q that the facts do not hold
TISSUE = "On the slide the model attended to necrosis (40% of the attention)."  # as it was told; on the slide is stroma


def tables(n: int = PATIENTS, seed: int = 0):
    """(predictions with texts, truth with facts, {name: predictions of another model})."""
    rng = numpy.random.default_rng(seed)
    hazard = rng.normal(0, 1.2, n)
    time = numpy.minimum(rng.exponential(60 * numpy.exp(-hazard)) + 0.5, 119.0)
    event = (time < 119) & (rng.random(n) < 0.85)
    ids = [f"P{k:02d}" for k in range(n)]
    risk = hazard + rng.normal(0, 0.3, n)
    predictions, truth = [], []
    for k, name in enumerate(ids):
        z = float(rng.normal())
        facts = Facts(genes=(Gene("TP53", 0.42, 0.003, z), Gene("EGFR", -0.31, 0.02, 1.4)), age=60.0 + k % 20, sex="F",
                      stage="II", cancer="ALFA", horizon=60.0, patterns=(Pattern("stroma", 0.9),))  # fmt: skip
        alive = float(1 / (1 + numpy.exp(risk[k])))
        q = "q = 0.9" if k < WRONG else "q = 0.003"
        text = (f"The patient {'survives' if alive >= 0.5 else 'dies'}.\n\nTP53 is a risk gene ({q}). EGFR is a "
                "protective gene, over-expressed in this patient. All of this is to be read with care.\n\n"
                + TISSUE)  # fmt: skip
        patterns = '[{"name": "necrosis", "share": 0.4}]'
        answered = {"text": text, "answer": "dies", "missing": [], "patterns": patterns}
        predictions.append({"sample_id": name, "patient_id": name, "risk": float(risk[k]), "survival": [alive],
                            "times": [60.0], "probability": alive, **answered})  # fmt: skip
        truth.append({"sample_id": name, "patient_id": name, "time": float(time[k]), "event": bool(event[k]),
                      "cancer": "ALFA", "age": facts.age, "facts": facts.to_json()})  # fmt: skip

    def other(noise: float) -> pandas.DataFrame:
        return pandas.DataFrame({"sample_id": ids, "patient_id": ids, "risk": hazard + rng.normal(0, noise, n)})

    others = {"ridge_cox": other(3.0), "unimodal_slide": other(1.0), "unimodal_omics": other(1.5)}
    return predictions, truth, others


def ablations(predictions) -> dict:
    """explanation.json: the slide moves the answer, the clinical words do not; two patients' texts are compared."""
    rows = []
    for k, row in enumerate(predictions[:12]):
        plain = {"sample_id": row["sample_id"], "patient_id": row["patient_id"], "risk": 0.0}
        text = "a" if k < 2 else None
        for what, moved in (("none", 0.0), ("slide_zeroed", 0.2 + k / 100), ("clinical_withheld", 0.0)):
            away = moved if row["probability"] < 0.5 else -moved
            rows.append({**plain, "ablation": what, "probability": row["probability"] + away,
                         "text": text and text + what * (moved > 0)})  # fmt: skip
    return {"format": FORMAT, "patients": 12, "metrics": summarise(pandas.DataFrame(rows)), "rows": [],
            "notes": ["Zeroed is the mean training patient."]}  # fmt: skip


def build_fused(directory: Path, kind: str = "phantom", notes: tuple[str, ...] = ()) -> Path:
    """A run directory of a fused model whose two unimodal models are shown beside."""
    predictions, truth, others = tables()
    few = {"n_resamples": 100}
    evaluators = {"survival": SurvivalEvaluator(**few), "factcheck": FactcheckEvaluator(**few)}
    record(directory, "fusion_smollm2", "cancer_fusion_demo", "survival", evaluators, predictions, truth, kind)
    path = directory / "metrics.json"
    results = json.loads(path.read_text())
    names = {"unimodal_slide": "slide alone (swin_mil_nano)", "unimodal_omics": "omics alone (tabular_transformer)"}
    frames = pandas.DataFrame(predictions), others, pandas.DataFrame(truth)
    results["evaluators"]["survival"]["beside"] = side_by_side(evaluators["survival"], *frames, {"seed": 0}, names)
    results["evaluators"]["survival"]["notes"] += list(notes)
    path.write_text(json.dumps(results))
    config = directory / "config.yaml"
    config.write_text(config.read_text().replace("  name: fusion_smollm2", "  name: fusion_smollm2\n  fusion:\n    "
                                                 "modalities: [slide, omics]"))  # fmt: skip
    (directory / "explanation.json").write_text(json.dumps(ablations(predictions)))
    return directory


def add_look(directory: Path, pages: tuple[str, ...] = ("P00/slide-1.html",)) -> dict:
    """RUN/look as `clarion look` leaves it, with a page for the first patient."""

    def estimate(value, low=None, high=None):
        return {"value": value, "low": low, "high": high, "note": None}

    gains = {name: {"curve": [0.1, 0.2, 0.3, 0.4], "gain": estimate(0.031, 0.01, 0.05)} for name in ("mil", "effect")}
    found = {
        "format": "clarion-looking/1", "run": directory.name, "model": "swin_mil_nano", "hash": "0" * 64,
        "data": "cancer_fusion_demo", "split": "test", "data_kind": "phantom", "operator": "rollout",
        "patients": [{"sample_id": "P00", "tiles": 20, "slides": 1, "risk": 1.25, "files": list(pages)},
                     {"sample_id": "P01", "tiles": 0, "slides": 1, "files": []}],
        "faithfulness": {"n": 1, "draws": 20, "shares": [0.05, 0.1, 0.2, 0.4], "deletion": gains, "insertion": gains},
        "pointing": {"slides": 24, "patients": 24, "chance": estimate(0.31, 0.25, 0.37),
                     "maps": {name: {"hits": estimate(0.875, 0.75, 1.0), "mass": estimate(0.62, 0.5, 0.7)}
                              for name in ("combined", "mil", "window", "gradcam", "effect")}},
        "notes": ["1 of 2 patients have no slide with tissue: nothing was looked at."],
    }  # fmt: skip
    (directory / "look" / "P00").mkdir(parents=True)
    (directory / "look" / "P00" / "slide-1.html").write_text("<title>slide</title>")
    (directory / "look" / "looking.json").write_text(json.dumps(found))
    return found
