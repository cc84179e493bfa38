"""Do the anchors fit the data? If not, fit them by k-means."""

from __future__ import annotations

import logging

import numpy as np
import torch

from clarion.detectors.yolov5_loss import MAX_RATIO

log = logging.getLogger(__name__)

ENOUGH_RECALL = 0.98
BETTER = 0.8  # fitted anchors must come this much nearer to the objects' shapes to be worth leaving COCO's


def best_possible_recall(sizes: np.ndarray, anchors: np.ndarray) -> float:
    """Share of objects that at least one anchor may answer for. sizes: [n, 2], anchors: [k, 2] width, height in px."""
    ratio = sizes[:, None] / anchors[None]
    return float((np.maximum(ratio, 1 / ratio).max(-1).min(-1) < MAX_RATIO).mean())


def mean_misfit(sizes: np.ndarray, anchors: np.ndarray) -> float:
    """By what factor the worse side of the nearest anchor is off, averaged over objects (1: perfect)."""
    ratio = sizes[:, None] / anchors[None]
    return float(np.maximum(ratio, 1 / ratio).max(-1).min(-1).mean())


def fit_anchors(sizes: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """k anchors [k, 2] (whole px, small to large) by k-means on the logarithms of `sizes`, since ratios decide."""
    from sklearn.cluster import KMeans

    centres = KMeans(k, n_init=10, random_state=seed).fit(np.log(sizes)).cluster_centers_
    anchors = np.exp(centres).round().clip(min=2)
    return anchors[anchors.prod(1).argsort()]


def adapt_anchors(anchors: torch.Tensor, sizes: np.ndarray, seed: int = 0) -> bool:
    """Replace anchors (in place) by k-means ones if they reach under 98 % of the objects, or fit them much worse.

    The published check looks at reach alone. Membranes are long and flat: COCO's anchors reach them, but start at
    so low an overlap that objectness, whose target is that overlap, is slow to learn.

    anchors: [levels, per level, 2] px; sizes: [n, 2] object width, height in px at the training image size.
    Returns whether they were replaced.
    """
    sizes = sizes[(sizes >= 2).all(1)]
    levels, per_level, _ = anchors.shape
    if len(np.unique(sizes, axis=0)) < levels * per_level:
        return False
    own = anchors.reshape(-1, 2).cpu().numpy()
    fitted = fit_anchors(sizes, levels * per_level, seed)
    before, after = best_possible_recall(sizes, own), best_possible_recall(sizes, fitted)
    misfit, fitted_misfit = mean_misfit(sizes, own), mean_misfit(sizes, fitted)
    further = before < ENOUGH_RECALL and after > before
    nearer = after >= before and fitted_misfit - 1 < BETTER * (misfit - 1)
    if not (further or nearer) or np.allclose(own, fitted):
        return False
    log.info("anchors fitted: reach %.3f -> %.3f, misfit %.2f -> %.2f", before, after, misfit, fitted_misfit)
    anchors.copy_(torch.from_numpy(fitted).to(anchors).view_as(anchors))
    return True
