"""The factcheck evaluator: known counts, ids not positions, intervals, a baseline that ignores the patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clarion.cancer.rationale.template import write_rationale
from clarion.errors import DataError
from clarion.evaluators.factcheck import FactcheckEvaluator, other_patients
from clarion.evaluators.factcheck_facts import Facts, Gene, Pattern

CONF = Path(__file__).resolve().parents[2] / "conf" / "evaluator" / "factcheck.yaml"


def patients(n: int, language: str = "en") -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(0)
    rows, truth = [], []
    for k in range(n):
        names = [f"GENE{g:05d}" for g in rng.choice(50, 4, replace=False)]
        signs = rng.choice([-1, 1], 4)
        genes = tuple(
            Gene(g, s * rng.uniform(0.1, 0.9), rng.uniform(0, 0.1), rng.normal())
            for g, s in zip(names, signs, strict=True)
        )
        facts = Facts(genes, (Pattern("necrosis", float(rng.uniform(0.1, 0.9))),), float(rng.uniform(40, 80)),
                      str(rng.choice(["F", "M"])), "II", survival=float(rng.uniform(0, 1)))  # fmt: skip
        names = {"sample_id": f"S{k}", "patient_id": f"P{k}"}
        rows.append(names | {"text": write_rationale(facts, language, k).text()})
        truth.append(names | {"facts": facts.to_json(), "sex": facts.sex})
    return pd.DataFrame(rows), pd.DataFrame(truth)


@pytest.fixture
def evaluator() -> FactcheckEvaluator:
    return FactcheckEvaluator(n_resamples=60)


@pytest.mark.parametrize("language", ["en", "ko"])
def test_right_texts_score_one_and_other_patients_texts_do_not(evaluator, language):
    predictions, truth = patients(8, language)
    result = evaluator.evaluate(predictions, truth, {"seed": 1})
    metrics, baseline = result["metrics"], result["baseline"]
    assert metrics["precision"]["value"] == 1 and metrics["precision"]["low"] < 1  # eight right ones prove no 1
    assert metrics["omission"]["value"] == 0 and metrics["removed_rate"]["value"] == 0
    assert metrics["precision"]["n"] == 8 == metrics["precision"]["n_patients"]
    assert baseline["precision"]["value"] < 0.6 and baseline["precision"]["name"] == "another patient's text"
    assert baseline["omission"]["value"] > 0.3
    assert set(result["subgroups"]["sex"]) == {"F", "M"}


def test_known_counts_before_and_after_cleaning(evaluator):
    predictions, truth = patients(4)
    facts = [Facts.read(f) for f in truth["facts"]]
    first = facts[0].genes[0]
    flipped = "a protective gene" if first.direction > 0 else "a risk gene"
    predictions["text"] = [
        f"{first.name} is {flipped}. EGFR matters.", f"{facts[1].genes[0].name} matters.", "", "Well."
    ]  # fmt: skip
    metrics = evaluator.evaluate(predictions, truth, {})["metrics"]
    assert metrics["precision"]["value"] == pytest.approx(2 / 4)  # two genes named rightly; a sign and a gene wrong
    assert metrics["precision"]["low"] is not None
    assert metrics["contradicted_rate"]["value"] == pytest.approx(1 / 4)
    assert metrics["unfounded_rate"]["value"] == pytest.approx(1 / 4)
    assert metrics["precision_cleaned"]["value"] == 1
    assert metrics["removed_rate"]["value"] == pytest.approx(2 / 4)
    assert metrics["empty_rate"]["value"] == pytest.approx(1 / 4)
    assert metrics["omission"]["value"] == pytest.approx(18 / 20)
    assert metrics["omission_cleaned"]["value"] == pytest.approx(19 / 20)
    assert metrics["precision_direction"]["value"] == 0 and metrics["precision_gene"]["value"] == pytest.approx(2 / 3)


def test_rows_are_joined_by_id_and_facts_may_come_with_the_predictions(evaluator):
    predictions, truth = patients(5)
    plain = evaluator.evaluate(predictions, truth, {})
    shuffled = evaluator.evaluate(predictions.sample(frac=1, random_state=2), truth.iloc[::-1], {})
    assert plain["metrics"] == shuffled["metrics"]
    moved = evaluator.evaluate(predictions.assign(facts=truth["facts"]), truth.drop(columns="facts"), {})
    assert moved["metrics"]["precision"]["value"] == 1 and "come with the predictions" in moved["notes"][0]


def test_a_text_without_claims_has_no_precision(evaluator):
    predictions, truth = patients(3)
    result = evaluator.evaluate(predictions.assign(text="Well."), truth, {})
    assert result["metrics"]["precision"]["value"] is None and result["metrics"]["omission"]["value"] == 1


def test_bad_tables_are_named(evaluator):
    predictions, truth = patients(3)
    for wrong, match in (
        ((predictions.drop(columns="text"), truth), "no column text"),
        ((predictions, truth.drop(columns="facts")), "column facts"),
        ((predictions, truth.assign(facts="{}x")), "Sample S0"),
        ((predictions.iloc[:2], truth), "S2"),
    ):
        with pytest.raises(DataError, match=match):
            evaluator.evaluate(*wrong, {})


def test_a_partner_is_another_patient():
    names = np.array(["a", "a", "b", "c", "c", "c"])
    partner = other_patients(names, 3)
    assert (names[partner] != names).all() and other_patients(np.array(["a", "a"]), 0) is None


def test_the_config_builds_and_serves_both_tasks():
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    assert CONF.read_text(encoding="utf-8").startswith("# @package evaluators.factcheck\n")
    built = instantiate(OmegaConf.load(CONF), _convert_="all")
    assert built.task == ["generation", "survival"] and built.name == "factcheck"
