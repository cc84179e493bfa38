"""Perplexity and bits per byte: known answers, weights, baselines, refusals."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from clarion.errors import DataError
from clarion.evaluators.perplexity import PerplexityEvaluator

TEXTS = ["abcd", "the eye", "망막", "a longer text about the fovea"]


def tables(nll, tokens, **columns):
    ids = [f"d{k}" for k in range(len(nll))]
    size = [len(text.encode()) for text in TEXTS[: len(nll)]]
    predictions = pd.DataFrame({"sample_id": ids, "patient_id": ids, "nll": nll, "tokens": tokens, "bytes": size})
    truth = pd.DataFrame({"sample_id": ids, "patient_id": ids, "text": TEXTS[: len(nll)]})
    return predictions.assign(**columns), truth


def score(predictions, truth, **context):
    return PerplexityEvaluator(n_resamples=200).evaluate(predictions, truth, {"seed": 0, **context})


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary():
    tokens = [3, 5, 2, 9]
    result = score(*tables([n * math.log(1000) for n in tokens], tokens))
    assert result["metrics"]["perplexity"]["value"] == pytest.approx(1000)
    size = sum(len(text.encode()) for text in TEXTS)
    assert result["metrics"]["bits_per_byte"]["value"] == pytest.approx(19 * math.log2(1000) / size)


def test_long_documents_weigh_by_their_tokens():
    result = score(*tables([2.0, 300.0], [2, 100]))
    entry = result["metrics"]["perplexity"]
    assert entry["value"] == pytest.approx(math.exp(302 / 102)) and entry["n"] == 2
    assert entry["low"] == pytest.approx(math.exp(1)) and entry["high"] == pytest.approx(math.exp(3))


def test_rows_are_joined_by_id():
    predictions, truth = tables([2.0, 30.0, 5.0, 7.0], [2, 10, 3, 4])
    assert score(predictions.iloc[::-1], truth)["metrics"] == score(predictions, truth)["metrics"]


def test_the_untouched_model_is_the_baseline_where_it_was_measured():
    result = score(*tables([2.0, 3.0], [2, 2], untouched_nll=[4.0, 4.0]))
    assert result["baseline"]["perplexity"]["value"] == pytest.approx(math.exp(2))
    assert result["baseline"]["perplexity"]["name"] == "untouched model"


def test_the_byte_baseline_knows_the_validation_texts_only():
    predictions, truth = tables([2.0, 3.0], [2, 2])
    known = pd.DataFrame({"text": ["abcd" * 50, "the eye" * 50]})
    near = score(predictions, truth, validation=(None, known))["baseline"]["bits_per_byte"]
    far = score(predictions, truth, validation=(None, pd.DataFrame({"text": ["\x01" * 700]})))
    assert near["name"] == "byte unigram" and near["value"] < 8 < far["baseline"]["bits_per_byte"]["value"]


@pytest.mark.parametrize("nll", [[math.nan, 1.0], [-1.0, 1.0]])
def test_unusable_likelihoods_are_refused(nll):
    with pytest.raises(DataError, match="1 documents have no usable likelihood .d0"):
        score(*tables(nll, [2, 2]))


def test_a_missing_document_is_refused():
    predictions, truth = tables([2.0, 3.0], [2, 2])
    with pytest.raises(DataError, match="1 sample id"):
        score(predictions.iloc[:1], truth)
