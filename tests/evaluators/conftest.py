"""Simulated detections: tables as run.py hands them to an evaluator."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest


def simulate_boxes(
    seed: int,
    images: int = 40,
    per_patient: int = 5,
    classes: int = 1,
    most_truths: int = 4,
    false_per_image: float = 3.0,
    found: float = 0.8,
    jitter: float = 6.0,
    size: tuple[float, float] = (8, 120),
    decimals: int | None = None,
    copies: int = 1,
    whole_pixels: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Truth boxes, each found with probability `found` with jittered corners, plus false ones; scores favour the true.

    decimals: round scores (ties); copies: each found box that many times (duplicates); whole_pixels: exact IoU ties.
    """
    rng = np.random.default_rng(seed)
    width, height = 512.0, 496.0

    def draw(n: int) -> np.ndarray:
        wh = rng.uniform(*size, (n, 2))
        xy = rng.uniform(0, 1, (n, 2)) * (np.array([width, height]) - wh)
        return np.concatenate([xy, xy + wh], axis=1)

    truths, predictions = [], []
    for i in range(images):
        key = {"sample_id": f"s{i:04d}", "patient_id": f"p{i // per_patient:03d}"}
        box, label = draw(n := rng.integers(0, most_truths + 1)), rng.integers(0, classes, n)
        keep = np.repeat(np.flatnonzero(rng.random(n) < found), copies)
        hit = box[keep] + rng.normal(0, jitter, (len(keep), 4))
        false = draw(rng.poisson(false_per_image))
        guess = np.concatenate([hit, false])
        guess = np.concatenate([np.minimum(guess[:, :2], guess[:, 2:]), np.maximum(guess[:, :2], guess[:, 2:])], axis=1)
        guess_label = np.concatenate([label[keep], rng.integers(0, classes, len(false))])
        swapped = rng.random(len(guess)) < 0.1
        guess_label = np.where(swapped, rng.integers(0, classes, len(guess)), guess_label)
        score = np.concatenate([rng.beta(4, 2, len(hit)), rng.beta(2, 4, len(false))])
        score = np.round(score, decimals) if decimals is not None else score
        if whole_pixels:
            box, guess = box.round(), guess.round()
        order = rng.permutation(len(guess))
        # Networks work in float32: let both sides start from the same numbers.
        box, guess, score = (a.astype(np.float32).astype(np.float64) for a in (box, guess[order], score[order]))
        truths.append(
            {**key, "boxes": box.tolist(), "labels": label.tolist(), "width": width, "height": height, "stage": i % 3}
        )
        predictions.append(
            {**key, "boxes": guess.tolist(), "scores": score.tolist(), "labels": guess_label[order].tolist()}
        )
    return pd.DataFrame(predictions), pd.DataFrame(truths)


@pytest.fixture
def make_boxes():
    return simulate_boxes
