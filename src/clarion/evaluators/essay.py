"""Essay answers scored against references: ROUGE-L, BLEU, METEOR, chrF, SemScore, and contradictions beside it.

Overlap and embeddings are blind to meaning turned round: "yes" and "no" have a SemScore of .73. Hence the
contradiction rate, and the SemScore in which an answer that contradicts its reference counts 0.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from clarion.errors import ClarionError, UsageError
from clarion.evaluators import text_overlap
from clarion.evaluators.bootstrap import Interval, bootstrap, entry
from clarion.evaluators.generation import words
from clarion.evaluators.join import join
from clarion.evaluators.mcqa_questions import as_text
from clarion.evaluators.polarity import MIN_SIMILARITY, contradiction
from clarion.evaluators.subgroups import subgroups
from clarion.evaluators.text_embedding import Encoder, cosines

log = logging.getLogger(__name__)

BOOTSTRAP = "percentile bootstrap over patients (documents)"
METRICS = ("rouge_l", "bleu", "sacrebleu", "chrf", "meteor", "semscore", "contradiction")
_RESERVED = ("question", "answer", "options", "answer_index", "context")
Score = tuple[np.ndarray, str]  # one score a sample [n], and what it was computed with


class EssayEvaluator:
    """Scores of free answers; `evaluate` returns the dict described in CONTRIBUTING.

    metrics: which of METRICS; encoder: folder of a sentence-transformers model (null: the packaged
    all-MiniLM-L6-v2; the published scores used all-mpnet-base-v2); wordnet: folder of WordNet (null: $WNSEARCHDIR or
    the system's); legacy: ROUGE, BLEU and METEOR also on the sub-word pieces of `tokenizer` (a folder), as upstream
    scored; n_resamples, level: bootstrap over patients, here documents; most_values: a truth column with more values
    makes no subgroups. A metric that cannot be computed is None with a note, never 0; an empty answer is 0.
    """

    def __init__(
        self, task: str = "generation", metrics: Sequence[str] = METRICS, encoder: str | None = None,
        wordnet: str | None = None, legacy: bool = False, tokenizer: str | None = None, n_resamples: int = 1000,
        level: float = 0.95, most_values: int = 24, name: str = "essay",
    ):  # fmt: skip
        unknown = sorted(set(metrics) - set(METRICS))
        if unknown:
            raise UsageError(f"evaluators.essay.metrics: {', '.join(unknown)} is unknown: choose {', '.join(METRICS)}.")
        if legacy and not tokenizer:
            raise UsageError(
                "evaluators.essay.legacy=true scores on a model's sub-word pieces: name the folder of its tokenizer "
                "with evaluators.essay.tokenizer=/folder."
            )
        self.task, self.name, self.chosen = task, name, [m for m in METRICS if m in metrics]
        self.encoder, self.wordnet = encoder, wordnet
        self.pieces = text_overlap.Pieces(tokenizer) if legacy else None
        self.n_resamples, self.level, self.most_values = n_resamples, level, most_values

    def evaluate(self, predictions: pd.DataFrame, truth: pd.DataFrame, context: Mapping[str, Any]) -> dict:
        """predictions: sample_id, patient_id, text [, stopped]; truth: answer [, answer_index: rows of 0 or more are
        multiple-choice questions and left to the mcqa evaluator] and columns that make subgroups; context: seed,
        validation (its answers give the majority), full_truth (of the split that these rows are a part of).
        Joined by sample_id."""
        seed, notes = int(context.get("seed") or 0), []
        if "answer_index" in truth and (truth["answer_index"].to_numpy(dtype=int) >= 0).all():
            note = f"All {len(truth)} rows are multiple-choice questions: there is no essay (evaluator=mcqa)."
            return {"metrics": {}, "baseline": {}, "curves": {}, "subgroups": {}, "notes": [note]}
        predictions, truth = join(predictions, truth, ["text"], ["answer"])
        if "answer_index" in truth:
            essay = truth["answer_index"].to_numpy(dtype=int) < 0
            if not essay.all():
                notes.append(f"{int((~essay).sum())} multiple-choice row(s) are not scored here (evaluator=mcqa).")
            predictions, truth = (t[essay].reset_index(drop=True) for t in (predictions, truth))
        texts = [as_text(t) for t in predictions["text"]]
        answers, patients = [as_text(a) for a in truth["answer"]], truth["patient_id"].to_numpy()
        scorer = _Scorer(self, _all_answers(context.get("full_truth"), answers), notes)
        scores = scorer.per_sample(texts, answers)
        scores |= _rates(predictions, texts, notes)
        metrics = self._entries(scores, patients, seed, notes)
        metrics |= self._pooled(scorer, texts, answers, patients, seed, notes)
        for name in scorer.failed:
            metrics[name] = entry(Interval(None), 0, 0, scorer.failed[name])
        if scorer.reasons:
            counted = ", ".join(f"{kind} {n}" for kind, n in scorer.reasons.most_common())
            notes.append(f"Contradictions with the reference, by rule: {counted}.")
        groups: dict[str, dict] = {}
        for column, value, rows in subgroups(truth, _RESERVED, self.most_values, notes):
            part = {name: (values[rows], method) for name, (values, method) in scores.items()}
            groups.setdefault(column, {})[value] = self._entries(part, patients[rows], seed, None)
        ordered = [m for m in ("rouge_l", "bleu", "meteor", "semscore") if m in metrics]
        return {
            "metrics": {name: metrics[name] for name in [*ordered, *(m for m in metrics if m not in ordered)]},
            "baseline": self._baseline(scorer, texts, answers, truth, patients, context, seed, notes),
            "curves": {},
            "subgroups": groups,
            "notes": notes,
        }

    def _entries(self, scores: Mapping[str, Score], patients, seed: int, notes: list[str] | None) -> dict:
        found = {}
        for name, (values, method) in scores.items():

            def stat(weights: np.ndarray, values=values) -> np.ndarray:
                return weights @ values / weights.sum(1)

            interval = bootstrap(stat, patients, self.n_resamples, seed, self.level)
            found[name] = entry(interval, len(values), len(set(patients)), f"{method}; {BOOTSTRAP}", None, notes, name)
        return found

    def _pooled(self, scorer: _Scorer, texts, answers, patients, seed: int, notes: list[str] | None) -> dict:
        """Corpus BLEU and chrF: functions of sums over the samples, so a resample draws sums."""
        found = {}
        for name, kind in (("sacrebleu", "bleu"), ("chrf", "chrf")):
            made = scorer.attempt(name, lambda kind=kind: text_overlap.corpus_statistics(kind, texts, answers))
            if made is None:
                continue
            rows, score, method = made

            def stat(weights: np.ndarray, rows=rows, score=score) -> np.ndarray:
                return np.array([score(sums) for sums in weights @ rows]) / 100.0

            interval = bootstrap(stat, patients, self.n_resamples, seed, self.level)
            found[name] = entry(interval, len(texts), len(set(patients)), f"{method}; {BOOTSTRAP}", None, notes, name)
        return found

    def _baseline(self, scorer, texts, answers, truth, patients, context, seed, notes) -> dict:
        """The most frequent answer for everyone; and each answer against another question's reference (chance)."""
        validation = context.get("validation")
        table = validation[1] if validation and validation[1] is not None else None
        known = list(table["answer"]) if table is not None and len(table) else answers
        counts = Counter(as_text(a) for a in known)
        majority = min(counts, key=lambda a: (-counts[a], a))
        where = "the validation answers" if known is not answers else "the scored answers themselves"
        notes.append(
            f"Majority baseline: the most frequent of {where}, given {counts[majority]} of {len(known)} times."
        )
        scores = scorer.per_sample([majority] * len(answers), answers, quiet=True)
        base = {k: v | {"name": "majority"} for k, v in self._entries(scores, patients, seed, None).items()}
        if len(answers) > 1:
            order = np.random.default_rng(seed).permutation(len(answers))
            partner = np.empty(len(answers), dtype=int)
            partner[order] = np.roll(order, 1)  # one cycle: nobody keeps its own reference
            others = [answers[k] for k in partner]
            scores = scorer.per_sample(texts, others, quiet=True, only=("rouge_l", "semscore"))
            shuffled = self._entries(scores, patients, seed, None)
            base |= {f"{k}_shuffled": v | {"name": "another question's reference"} for k, v in shuffled.items()}
        return base


def _all_answers(full: pd.DataFrame | None, answers: list[str]) -> list[str]:
    """The references of the whole split where only a part of it is scored."""
    if full is None:
        return answers
    if "answer_index" in full:
        full = full[full["answer_index"].to_numpy(dtype=int) < 0]
    return [as_text(a) for a in full["answer"]]


class _Scorer:
    """The chosen metrics, opened once. answers: of the whole split, which decide how words are told apart, so that its
    parts are measured alike. failed: metric -> why it could not be computed."""

    def __init__(self, owner: EssayEvaluator, answers: Sequence[str], notes: list[str]):
        self.owner, self.notes, self.failed = owner, notes, {}
        self.reasons: Counter = Counter()
        wanted = owner.chosen
        self.encoder = self.dictionary = None
        self.latin = text_overlap.rouge_keeps(answers) if "rouge_l" in wanted else None
        if "semscore" in wanted or "contradiction" in wanted:
            if owner.encoder is not None:
                self.encoder = Encoder(owner.encoder)  # the user's own choice: an error, not a note
            else:
                self.encoder = self.attempt("semscore", Encoder)
        if "meteor" in wanted:
            english = sum(bool(re.search("[A-Za-z]{2}", a)) for a in answers)
            if english < len(answers) / 2:
                self._fail("meteor", "its stems and synonyms are English, and most references are not")
            else:
                self.dictionary = self.attempt("meteor", lambda: text_overlap.wordnet(owner.wordnet))

    def attempt(self, name: str, compute: Callable[[], Any]) -> Any:
        """compute(), or None with a note: one metric that fails must not take the others with it."""
        if name not in self.owner.chosen and name != "semscore":
            return None
        try:
            return compute()
        except ClarionError as error:
            self._fail(name, str(error))
        except Exception as error:
            log.exception("the metric %s failed", name)
            self._fail(name, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        return None

    def _fail(self, name: str, why: str) -> None:
        self.failed[name] = why
        self.notes.append(f"{name} is not computed: {why}")

    def per_sample(
        self, texts: Sequence[str], answers: Sequence[str], quiet: bool = False, only: Sequence[str] = METRICS
    ) -> dict[str, Score]:
        """Metric -> one score a sample. quiet: of a baseline, whose contradictions are not counted by rule."""
        wanted = [m for m in self.owner.chosen if m in only and m not in self.failed]
        found: dict[str, Score | None] = {}
        token_sets = [("", None, words)]
        if self.owner.pieces is not None:
            token_sets.append(("_legacy", self.owner.pieces, self.owner.pieces))
        for suffix, rouge_tokens, tokens in token_sets:
            if "rouge_l" in wanted:
                found[f"rouge_l{suffix}"] = self.attempt(
                    "rouge_l", lambda t=rouge_tokens: text_overlap.rouge_l(texts, answers, t, self.latin)
                )
            if "bleu" in wanted:
                found[f"bleu{suffix}"] = self.attempt(
                    "bleu", lambda t=tokens: text_overlap.bleu_sentences(texts, answers, t)
                )
            if "meteor" in wanted:
                found[f"meteor{suffix}"] = self.attempt(
                    "meteor", lambda t=tokens: text_overlap.meteor(texts, answers, self.dictionary, t)
                )
        cosine = self._semscore(texts, answers) if self.encoder is not None else None
        if "semscore" in wanted and cosine is not None:
            found["semscore"] = cosine
        if "contradiction" in wanted:
            found |= self._contradictions(texts, answers, cosine, quiet)
        return {name: score for name, score in found.items() if score is not None}

    def _semscore(self, texts: Sequence[str], answers: Sequence[str]) -> Score | None:
        def compute() -> Score:
            values = cosines(self.encoder(texts), self.encoder(answers))
            empty = np.array([not t.strip() for t in texts])
            values = np.where(empty, 0.0, values)  # an encoder finds a likeness in nothing, too
            return values, f"SemScore, cosine of embeddings, {self.encoder.signature}"

        return self.attempt("semscore", compute)

    def _contradictions(self, texts, answers, cosine: Score | None, quiet: bool) -> dict[str, Score]:
        likeness = cosine[0] if cosine is not None else [None] * len(texts)
        reasons = [contradiction(a, t, s) for t, a, s in zip(texts, answers, likeness, strict=True)]
        if not quiet:
            self.reasons.update(r.split(":")[0] for found in reasons for r in found)
        against = np.array([float(bool(found)) for found in reasons])
        gate = f", above a cosine of {MIN_SIMILARITY}" if cosine is not None else ""
        rules = f"verdict, negation, opposite, side and number rules on sentences about the same{gate}"
        found = {"contradiction_rate": (against, f"share of answers that contradict the reference: {rules}")}
        if cosine is not None:
            found["semscore_agreeing"] = (cosine[0] * (1 - against), f"{cosine[1]}; contradicting answers count 0")
        return found


def _rates(predictions: pd.DataFrame, texts: Sequence[str], notes: list[str]) -> dict[str, Score]:
    rates = {"empty_rate": (np.array([float(not t.strip()) for t in texts]), "share of empty answers")}
    if empty := int(rates["empty_rate"][0].sum()):
        notes.append(f"{empty} empty answer(s) score 0, and are not left out.")
    if "stopped" in predictions and predictions["stopped"].notna().all():
        cut = 1.0 - predictions["stopped"].astype(float).to_numpy()
        rates["cut_off_rate"] = (cut, "share of answers that ended at max_new_tokens")
        if cut.any():
            notes.append(f"{int(cut.sum())} answer(s) reached max_new_tokens and are scored as they are.")
    return rates
