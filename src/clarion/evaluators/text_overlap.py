"""Overlap of generated and reference texts: ROUGE-L, BLEU, METEOR, chrF; one score a sample, or statistics to pool.

Every function says in `method` what it was computed with (library, version, tokenizer): the same name with another
tokenizer is another metric.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from clarion.errors import UsageError
from clarion.evaluators.generation import words

Tokens = Callable[[str], list[str]]
WORDS = "lower-case words of any script (NFKC), punctuation dropped"
WORDNET = "/usr/share/wordnet"  # where Debian and Ubuntu install it
NEEDED = ("index.sense", "index.noun", "data.noun", "index.verb", "data.verb", "index.adj", "data.adj")
# The names of WordNet's 45 lexicographer files in their numbering (lexnames(5WN)), which distributions leave out.
LEXICOGRAPHER = {
    "adj": "all pert", "adv": "all", "noun": "Tops act animal artifact attribute body cognition communication event "
    "feeling food group location motive object person phenomenon plant possession process quantity relation shape "
    "state substance time", "verb": "body change cognition communication competition consumption contact creation "
    "emotion motion perception possession social stative weather", "adj.": "ppl",
}  # fmt: skip
_POS = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}


class Pieces:
    """Sub-word pieces of a model's tokenizer, as upstream's scores counted them. folder: with tokenizer files."""

    def __init__(self, folder: str | Path):
        from transformers import AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"evaluators.essay.tokenizer={folder} holds no tokenizer ({' '.join(str(error).split())[:120]})."
            ) from None
        self.name = f"sub-word tokens of {Path(folder).name} ({len(self.tokenizer):,} pieces)"

    def __call__(self, text: str) -> list[str]:
        return self.tokenizer.tokenize(text)


class _Tokenizer:
    """The interface of rouge-score's tokenizers over a function."""

    def __init__(self, tokens: Tokens):
        self.tokenize = tokens


def rouge_keeps(references: Sequence[str]) -> bool:
    """Whether rouge-score's own tokenizer (a-z, 0-9) keeps something of every reference."""
    from rouge_score import tokenizers

    own = tokenizers.DefaultTokenizer(use_stemmer=True)
    return all(own.tokenize(r) for r in references)


def rouge_l(
    texts: Sequence[str], references: Sequence[str], tokens: Tokens | None = None, latin: bool | None = None
) -> tuple[np.ndarray, str]:
    """ROUGE-L F1 (Lin 2004) of each text [n]. tokens None: rouge-score's own (a-z, 0-9, Porter stems) where `latin`,
    else words of any script (Korean would have no tokens at all). latin None: as `rouge_keeps` says of these
    references; who scores parts of a set decides once for the whole, or the parts are measured differently."""
    from rouge_score import rouge_scorer

    label = f"ROUGE-L F1, rouge-score {version('rouge-score')}"
    if tokens is not None:
        scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=_Tokenizer(tokens))
        label += f", {getattr(tokens, 'name', WORDS)}"
    elif rouge_keeps(references) if latin is None else latin:
        scorer, label = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True), f"{label}, a-z 0-9, Porter stems"
    else:
        scorer, label = rouge_scorer.RougeScorer(["rougeL"], tokenizer=_Tokenizer(words)), f"{label}, {WORDS}"
    pairs = zip(texts, references, strict=True)
    return np.array([scorer.score(r, t)["rougeL"].fmeasure for t, r in pairs], dtype=np.float64), label


def bleu_sentences(texts: Sequence[str], references: Sequence[str], tokens: Tokens = words) -> tuple[np.ndarray, str]:
    """Sentence BLEU-4, smoothing method 1 (Chen & Cherry 2014), of each text [n]; an empty text scores 0."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    smooth, scores = SmoothingFunction().method1, []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of every text without a shared 4-gram
        for text, reference in zip(texts, references, strict=True):
            found, wanted = tokens(text), tokens(reference)
            scores.append(sentence_bleu([wanted], found, smoothing_function=smooth) if found and wanted else 0.0)
    name = getattr(tokens, "name", WORDS)
    return np.array(scores, dtype=np.float64), f"sentence BLEU-4 smoothing 1, averaged, nltk {version('nltk')}, {name}"


def meteor(
    texts: Sequence[str], references: Sequence[str], dictionary: Any, tokens: Tokens = words
) -> tuple[np.ndarray, str]:
    """METEOR (Banerjee & Lavie 2005; alpha .9, beta 3, gamma .5) with WordNet synonyms of each text [n]; an empty text
    scores 0. dictionary: of `wordnet`."""
    from nltk.translate.meteor_score import meteor_score

    scores = []
    for text, reference in zip(texts, references, strict=True):
        found, wanted = tokens(text), tokens(reference)
        scores.append(meteor_score([wanted], found, wordnet=dictionary) if found and wanted else 0.0)
    name = getattr(tokens, "name", WORDS)
    return np.array(scores, dtype=np.float64), f"METEOR, nltk {version('nltk')}, WordNet {dictionary.release}, {name}"


def corpus_statistics(name: str, texts: Sequence[str], references: Sequence[str]) -> tuple[np.ndarray, Callable, str]:
    """sacreBLEU's `bleu` or `chrf` as sums: statistics a sample [n, S], (sums [S]) -> score 0..100, method.

    Corpus scores are functions of sums over samples, so that a resample needs sums alone (Post 2018)."""
    from sacrebleu.metrics import BLEU, CHRF

    metric = BLEU() if name == "bleu" else CHRF()
    rows = metric._extract_corpus_statistics(list(texts), [list(references)])
    metric.corpus_score(list(texts[:1]), [list(references[:1])])  # a signature needs one call
    label = "corpus BLEU" if name == "bleu" else "corpus chrF2 (character n-grams)"

    def score(sums: np.ndarray) -> float:
        return float(metric._compute_score_from_stats(sums.tolist()).score)

    return np.array(rows, dtype=np.float64), score, f"{label}, sacreBLEU {metric.get_signature()}"


# ------------------------------------------------------------------------------------------------------- WordNet


def wordnet(folder: str | Path | None = None) -> Any:
    """WordNet 3.0 from the system: `folder`, else $WNSEARCHDIR, else /usr/share/wordnet. Raises UsageError with the
    packages to install where it is not there."""
    place = Path(folder or os.environ.get("WNSEARCHDIR") or WORDNET).expanduser().resolve()
    absent = [name for name in NEEDED if not (place / name).is_file()]
    if absent:
        raise UsageError(
            f"{place} has no WordNet ({', '.join(absent[:2])} ...): install wordnet-base and wordnet-sense-index "
            "(Debian, Ubuntu), or name its folder with WNSEARCHDIR."
        )
    return _open_wordnet(str(place))


@lru_cache(maxsize=2)
def _open_wordnet(place: str) -> Any:
    import nltk.data
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    class SystemWordNet(WordNetCorpusReader):
        """WordNet without the multilingual mapping, which needs a second copy from nltk's downloads."""

        def open(self, file: str) -> Any:
            if file == "lexnames" and not Path(place, file).is_file():
                return io.StringIO(lexnames())
            return super().open(file)

        def map_wn(self, version: str = "wordnet") -> None:
            return None

        @lru_cache(maxsize=100_000)  # noqa: B019  (one instance a process; METEOR asks for the same words again)
        def synsets(self, lemma: str, pos: Any = None) -> list:
            return super().synsets(lemma, pos)

    if place not in nltk.data.path:
        nltk.data.path.append(place)  # nltk opens nothing outside the folders on this list
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = SystemWordNet(place, None)
    reader.release = reader.get_version()
    return reader


def lexnames() -> str:
    """The text of WordNet's file `lexnames`: number, name and part of speech of each lexicographer file."""
    names = [(kind.rstrip("."), name) for kind, listed in LEXICOGRAPHER.items() for name in listed.split()]
    return "".join(f"{k:02d}\t{kind}.{name}\t{_POS[kind]}\n" for k, (kind, name) in enumerate(names))
