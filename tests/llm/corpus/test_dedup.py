"""De-duplication: agrees with brute force, keeps the first, goes on from its record, counts its memory."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from clarion.llm.corpus.dedup import Deduplicator, Fingerprinter
from clarion.llm.near_texts import BandIndex
from clarion.llm.text_hashes import (
    bands_and_rows,
    coefficients,
    content_hash,
    jaccard,
    shingles,
    signature,
    windows,
    word_hashes,
)
from clarion.llm.text_words import words

SETTINGS = {"exact": True, "near": True, "shingle_words": 5, "jaccard": 0.8, "permutations": 128, "max_candidates": 200}


def texts(n: int, seed: int, korean: bool = False) -> list[str]:
    """Random texts; every third repeats an earlier one with up to 6 % of its words changed."""
    rng = np.random.default_rng(seed)
    syllables = "가나다라마바사아자차카타파하" if korean else "abcdefghijklmnop"
    vocabulary = np.array(["".join(rng.choice(list(syllables), 4)) for _ in range(4000)])
    made: list[np.ndarray] = []
    for k in range(n):
        if k % 3 == 2:
            words = made[rng.integers(len(made))].copy()
            change = rng.random(len(words)) < rng.uniform(0, 0.06)
            words[change] = rng.choice(vocabulary, change.sum())
        else:
            words = rng.choice(vocabulary, rng.integers(60, 200))
        made.append(words)
    return [" ".join(words) for words in made]


def plain_shingles(text: str, k: int) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + k]) for i in range(max(len(words) - k + 1, 1))}


def cut(text: str):
    return shingles(word_hashes(text), 5)


def brute_force(group: list[str], k: int, threshold: float) -> list[int | None]:
    """For each text the kept earlier one of highest Jaccard index (the first of equals) at or above the threshold."""
    sets = [plain_shingles(t, k) for t in group]
    answers: list[int | None] = []
    for i in range(len(group)):
        best = (None, 0.0)
        for j in range(i):
            if answers[j] is None:
                similarity = len(sets[i] & sets[j]) / len(sets[i] | sets[j])
                if similarity >= threshold and similarity > best[1]:
                    best = (j, similarity)
        answers.append(best[0])
    return answers


def run(group: list[str], folder, settings=SETTINGS, kept: int = 0) -> tuple[list, Deduplicator]:
    dedup = Deduplicator(settings, folder)
    dedup.start(kept)
    return [dedup.check(dedup.make(text)) for text in group], dedup


@pytest.mark.parametrize(("k", "korean"), [(5, False), (13, False), (5, True)])
def test_the_same_pairs_as_brute_force(tmp_path, k, korean):
    group = texts(240, seed=k, korean=korean)
    found, dedup = run(group, tmp_path, {**SETTINGS, "shingle_words": k})
    truth = brute_force(group, k, 0.8)
    assert 20 < sum(t is not None for t in truth) < 80
    rows = [i for i, t in enumerate(truth) if t is None]  # documents kept, in their order
    assert [None if kind is None else rows[number] for kind, number, _ in found] == truth
    dedup.close()


def test_jaccard_of_hashes_is_that_of_the_shingles():
    group = texts(30, seed=1)
    for a, b in zip(group, group[1:]):
        x, y = plain_shingles(a, 5), plain_shingles(b, 5)
        assert jaccard(cut(a), cut(b)) == pytest.approx(len(x & y) / len(x | y), abs=1e-9)
    assert len(cut("one two")) == 1 and len(cut("?!")) == 0
    assert jaccard(cut(""), cut("")) == 0


def test_windows_roll_on_to_the_same_hashes():
    hashes = word_hashes(" ".join(f"w{k % 7}" for k in range(40)))
    for n in (1, 3, 13, 40):
        rolled = windows(hashes, n)
        assert rolled.tolist() == [windows(hashes[k : k + n], n)[0] for k in range(len(hashes) - n + 1)]
    assert len(windows(hashes, 41)) == 0 and len(set(windows(hashes, 13).tolist())) == 7


def test_a_word_is_the_same_however_it_is_written():
    """Ligatures of PDFs, full-width forms and decomposed Hangul; marks belong to words, underscores do not."""
    assert words("The e\ufb03cacy, _OCT_ \uff11\uff12") == ["the", "efficacy", "oct", "12"]
    assert words("\u1112\u1161\u11ab\uae00 눈") == ["한글", "눈"] and words("नेत्र रोग") == ["नेत्र", "रोग"]
    for text in ("The e\ufb03cacy of _it_", "नेत्र रोग", "망막 전막?", "a\ud800b", "", "…"):
        assert len(word_hashes(text)) == len(words(text))
        assert word_hashes(text).tolist() == word_hashes(" ".join(words(text)).upper()).tolist()


def test_signatures_estimate_the_index():
    """The share of equal entries is the Jaccard index within its standard error, over many pairs."""
    a, b = coefficients(128)
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(200):
        common, own = rng.integers(0, 2**32, 300, dtype=np.uint32), rng.integers(0, 2**32, (2, 75), dtype=np.uint32)
        x, y = (np.unique(np.concatenate([common, side])) for side in own)
        errors.append((signature(x, a, b) == signature(y, a, b)).mean() - jaccard(x, y))
    assert abs(np.mean(errors)) < 0.01 and 0.02 < np.std(errors) < 0.05  # sqrt(.67 * .33 / 128) = .042


def test_bands_find_pairs_at_the_threshold():
    assert bands_and_rows(0.8, 128) == (21, 6)
    for threshold in (0.5, 0.7, 0.9):
        bands, rows = bands_and_rows(threshold, 128)
        assert bands * rows <= 128 and 1 - (1 - threshold**rows) ** bands >= 0.995


def test_case_spaces_and_punctuation_do_not_matter_for_exact_ones(tmp_path):
    written, plain, turned = ("The Eye, and\n the lens.", "the eye and the lens", "the lens and the eye")
    assert content_hash(word_hashes(written)) == content_hash(word_hashes(plain)) != content_hash(word_hashes(turned))
    found, dedup = run(["The Eye, sees!", "the eye sees", "Other"], tmp_path, {**SETTINGS, "near": False})
    assert [f[:2] for f in found] == [(None, 0), ("exact", 0), (None, 1)]
    dedup.close()


def test_it_goes_on_from_its_record(tmp_path):
    group = texts(120, seed=4)
    whole, dedup = run(group, tmp_path / "whole")
    dedup.close()
    first, dedup = run(group[:70], tmp_path / "part")
    kept = sum(kind is None for kind, *_ in first[:60])
    dedup.flush()  # ten more documents were written than the state knows of
    dedup.close()
    second, dedup = run(group[60:], tmp_path / "part", kept=kept)
    dedup.close()
    assert first[:60] + second == whole
    for name in ("kept.bin", "shingles.bin"):
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_index_grows_and_costs_what_it_says():
    index, rng = BandIndex(21), np.random.default_rng(0)
    keys = rng.integers(1, 2**63, (20_000, 21), dtype=np.uint64)
    keys[10_000:, 0] = keys[:10_000, 0]  # every later document shares one band with an earlier one
    for row in keys:
        index.add(row)
    assert index.nbytes / len(keys) < 1000
    found, cut = index.candidates(keys[15_000], 10)
    assert found.tolist() == [15_000, 5_000] and not cut
    assert index.candidates(keys[15_000], 1)[1]


def test_a_fingerprint_is_the_same_in_every_process():
    import subprocess
    import sys

    text = "An epiretinal membrane distorts the macula of the left eye."
    made = Fingerprinter(SETTINGS)(text)
    code = (
        "import json, sys; from clarion.llm.corpus.dedup import Fingerprinter\n"
        "f = Fingerprinter(json.loads(sys.argv[1]))(sys.argv[2])\n"
        "print(json.dumps([f.content.hex(), f.shingles.tolist(), f.bands.tolist()]))"
    )
    command = [sys.executable, "-c", code, json.dumps(SETTINGS), text]
    other = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert other == [made.content.hex(), made.shingles.tolist(), made.bands.tolist()]
