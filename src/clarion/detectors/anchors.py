"""Do the anchors fit the data? If not, fit them by k-means."""

from __future__ import annotations

import logging

import numpy as np
import torch

from clarion.detectors.yolov5_loss import MAX_RATIO

log = logging.getLogger(__name__)

ENOUGH_RECALL = 0.98


def best_possible_recall(sizes: np.ndarray, anchors: np.ndarray) -> float:
    """Share of objects that at least one anchor may answer for. sizes: [n, 2], anchors: [k, 2] width, height in px."""
    ratio = sizes[:, None] / anchors[None]
    return float((np.maximum(ratio, 1 / ratio).max(-1).min(-1) < MAX_RATIO).mean())


def fit_anchors(sizes: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """k anchors [k, 2] (whole px, small to large) by k-means on the logarithms of `sizes`, since ratios decide."""
    from sklearn.cluster import KMeans

    centres = KMeans(k, n_init=10, random_state=seed).fit(np.log(sizes)).cluster_centers_
    anchors = np.exp(centres).round().clip(min=2)
    return anchors[anchors.prod(1).argsort()]


def adapt_anchors(anchors: torch.Tensor, sizes: np.ndarray, seed: int = 0) -> bool:
    """Replace anchors (in place) if they reach under 98 % of the objects and k-means reaches more.

    anchors: [levels, per level, 2] px; sizes: [n, 2] object width, height in px at the training image size.
    Returns whether they were replaced.
    """
    sizes = sizes[(sizes >= 2).all(1)]
    levels, per_level, _ = anchors.shape
    if len(np.unique(sizes, axis=0)) < levels * per_level:
        return False
    before = best_possible_recall(sizes, anchors.reshape(-1, 2).cpu().numpy())
    if before >= ENOUGH_RECALL:
        return False
    fitted = fit_anchors(sizes, levels * per_level, seed)
    after = best_possible_recall(sizes, fitted)
    if after <= before:
        return False
    log.info("anchors fitted to the data: best possible recall %.3f -> %.3f", before, after)
    anchors.copy_(torch.from_numpy(fitted).to(anchors).view_as(anchors))
    return True
