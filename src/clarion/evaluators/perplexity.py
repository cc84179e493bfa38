"""Likelihood of whole documents: perplexity over tokens and bits per byte."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from clarion.errors import DataError
from clarion.evaluators.bootstrap import bootstrap, entry
from clarion.evaluators.join import join
from clarion.evaluators.subgroups import subgroups

BOOTSTRAP = "percentile bootstrap over documents"
METHODS = {
    "perplexity": "exp(sum of negative log-likelihoods / sum of tokens), end-of-text token included",
    "bits_per_byte": "sum of negative log2-likelihoods / bytes of the texts in UTF-8: comparable between tokenizers",
}


class PerplexityEvaluator:
    """Scores of per-document likelihoods; `evaluate` returns the dict described in CONTRIBUTING.

    Perplexity depends on the tokenizer (fewer, longer tokens raise it), bits per byte does not. The baseline is the
    untouched base model where the predictions hold its likelihoods (adapters), else a byte-unigram model counted on the
    validation texts.
    """

    def __init__(
        self, task: str = "generation", n_resamples: int = 1000, level: float = 0.95, most_values: int = 12,
        name: str = "perplexity",
    ):  # fmt: skip
        self.task, self.name, self.most_values = task, name, most_values
        self.n_resamples, self.level = n_resamples, level

    def evaluate(self, predictions: pd.DataFrame, truth: pd.DataFrame, context: Mapping[str, Any]) -> dict:
        """predictions: sample_id, patient_id, nll (nats), tokens, bytes [, untouched_nll]; truth: text, and any column
        that makes subgroups; context: seed, validation. DataError for likelihoods that are no numbers."""
        seed, notes = int(context.get("seed") or 0), []
        predictions, truth = join(predictions, truth, ["nll", "tokens", "bytes"], ["text"])
        columns = {c: predictions[c].to_numpy(np.float64) for c in ("nll", "tokens", "bytes")}
        bad = ~np.isfinite(columns["nll"]) | (columns["nll"] < 0) | (columns["tokens"] <= 0) | (columns["bytes"] <= 0)
        if bad.any():
            ids = ", ".join(truth["sample_id"][bad].head(5))
            raise DataError(f"{int(bad.sum())} documents have no usable likelihood ({ids}): is a text empty?")
        units = truth["patient_id"].to_numpy()
        groups: dict[str, dict] = {}
        for column, value, rows in subgroups(truth, ("text",), self.most_values, notes):
            part = {name: values[rows] for name, values in columns.items()}
            groups.setdefault(column, {})[value] = self._entries(part, units[rows], seed, None)
        name = "untouched model"
        if "untouched_nll" in predictions and predictions["untouched_nll"].notna().all():
            base = columns | {"nll": predictions["untouched_nll"].to_numpy(np.float64)}
        else:
            base, name = columns | {"nll": self._unigram(truth, context, notes)}, "byte unigram"
        notes.append(f"Perplexity counts {int(columns['tokens'].sum())} tokens of this model's own tokenizer.")
        return {
            "metrics": self._entries(columns, units, seed, notes),
            "baseline": {k: {**v, "name": name} for k, v in self._entries(base, units, seed, None).items()},
            "curves": {},
            "subgroups": groups,
            "notes": notes,
        }

    def _unigram(self, truth: pd.DataFrame, context: Mapping[str, Any], notes: list[str]) -> np.ndarray:
        """NLL [n] of each text and its end, bytes drawn independently with the frequencies of the validation texts."""
        validation = context.get("validation")
        known = validation is not None and validation[1] is not None and "text" in validation[1]
        source = validation[1]["text"] if known else truth["text"]
        counts = np.ones(257)  # add one: a byte never seen is not impossible; 256 is the end of a text
        for text in source:
            counts += _histogram(text)
        log_p = np.log(counts / counts.sum())
        notes.append(f"Baseline: byte frequencies of the {'validation' if known else 'scored'} texts.")
        return np.array([-(_histogram(text) @ log_p) for text in truth["text"]])

    def _entries(
        self, columns: Mapping[str, np.ndarray], units: np.ndarray, seed: int, notes: list[str] | None
    ) -> dict[str, dict]:
        found = bootstrap(_ratios(columns), units, self.n_resamples, seed, self.level)
        n, n_units = len(units), len(set(units))
        return {
            name: entry(found[name], n, n_units, f"{METHODS[name]}; {BOOTSTRAP}", unit, notes, name)
            for name, unit in (("perplexity", None), ("bits_per_byte", "bit/byte"))
        }


def _ratios(columns: Mapping[str, np.ndarray]) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    def stat(weights: np.ndarray) -> dict[str, np.ndarray]:
        nll = weights @ columns["nll"]
        # A very bad model overflows float64 near 709 nats a token: infinite is the honest value.
        with np.errstate(over="ignore"):
            perplexity = np.exp(nll / (weights @ columns["tokens"]))
        return {"perplexity": perplexity, "bits_per_byte": nll / np.log(2) / (weights @ columns["bytes"])}

    return stat


def _histogram(text: str) -> np.ndarray:
    counts = np.bincount(np.frombuffer(text.encode(), np.uint8), minlength=257).astype(np.float64)
    counts[256] = 1
    return counts
