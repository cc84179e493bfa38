"""Maps of one patient: what the pooling attended to, what the windows attended to, what raised and lowered the risk.

Kept apart, for they answer different questions: `mil` (attention over tiles) and `window` (inside a tile) show what was
weighed, `gradcam` what moved the risk and which way, `effect` how much the risk falls without a tile. `combined` is mil
x window: where the model looked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from clarion.cancer.looking.windows import merged, window_attention
from clarion.cancer.swin.bags import Bag

MAPS = ("combined", "mil", "window", "gradcam", "effect")
HEATMAP = "effect"  # the one drawn on a slide: it says which way, and holds where the truth is planted
CELLS = 8  # of a map a side of a tile, at most
BATCH = 32
GROUPS = 1000


@dataclass(frozen=True)
class PatientMaps:
    """One patient. cells [n tiles, c, c] float32 by name of MAPS: mil and effect spread evenly over their tile; window
    sums to 1 a tile (less what fell on padding); gradcam signed, in parts of the risk's gradient; combined sums to 1
    over the patient. attention [n]; effect [n]: risk minus the risk without that tile (above 0: it raises the risk)."""

    sample_id: str
    bag: Bag
    risk: float
    features: np.ndarray = field(repr=False)
    attention: np.ndarray = field(repr=False)
    effect: np.ndarray = field(repr=False)
    cells: dict[str, np.ndarray] = field(repr=False)
    padding: float = 0.0  # share of the window attention that fell on padding

    def scores(self) -> dict[str, np.ndarray]:
        """name -> float [n]: orders of importance of the tiles, for the faithfulness check."""
        return {
            "mil": self.attention,
            "gradcam": np.abs(self.cells["gradcam"].sum((1, 2))),
            "effect": np.abs(self.effect),
        }


def patient_maps(module: Any, bag: Bag, operator: str = "rollout") -> PatientMaps:
    """The maps of a patient with at least one tile, by a `SlideModule` in eval."""
    features = module.reader(bag)
    risk, attention, gradient, effect = tile_shares(module, features)
    window, gradcam, lost = in_tiles(module, bag, gradient, operator)
    cells = window.shape[1]
    mil, lost_risk = (
        np.repeat(np.repeat((tile / cells**2)[:, None, None], cells, 1), cells, 2) for tile in (attention, effect)
    )
    combined = attention[:, None, None] * window / np.maximum(window.sum((1, 2), keepdims=True), 1e-12)
    maps = {"combined": combined, "mil": mil, "window": window, "gradcam": gradcam, "effect": lost_risk}
    return PatientMaps(
        bag.sample_id, bag, risk, features, attention, effect, {k: v.astype(np.float32) for k, v in maps.items()}, lost
    )


def tile_shares(module: Any, features: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """(risk, attention [n], gradient of the risk by the features [n, width], effect [n] of leaving each tile out).

    Of more than GROUPS tiles neighbours are left out together and share their effect."""
    given = torch.from_numpy(features).to(module.device)[None].requires_grad_(True)
    mask = torch.ones(given.shape[:2], dtype=torch.bool, device=given.device)
    with torch.enable_grad():
        risk = module.risk(given, mask)[0]
        (gradient,) = torch.autograd.grad(risk, given)
    with torch.inference_mode():
        attention = module.network.embed(given, mask)[1][0]
    group = np.arange(len(features)) * min(len(features), GROUPS) // len(features)
    without = risks(module, features, group[None] != np.unique(group)[:, None])
    effect = ((float(risk.detach()) - without) / np.bincount(group))[group]
    return float(risk.detach()), attention.float().cpu().numpy(), gradient[0].cpu().numpy(), effect


def risks(module: Any, features: np.ndarray, masks: np.ndarray, most: float = 2e7) -> np.ndarray:
    """float64 [m]: the risk with the tiles of each mask bool [m, n] alone; `most` numbers of the tile layer at once."""
    network, found = module.network, []
    with torch.inference_mode():
        tiles = network.tile(torch.from_numpy(features).to(module.device))[None]  # the same whatever is left out
        step = max(1, int(most // tiles.numel()))
        for start in range(0, len(masks), step):
            part = torch.from_numpy(masks[start : start + step]).to(module.device)
            pooled, _ = network.pooling(tiles.expand(len(part), -1, -1), part)
            found.append(module.as_risk(network.head(pooled).float()).double().cpu())
    return torch.cat(found).numpy()


def in_tiles(module: Any, bag: Bag, gradient: np.ndarray, operator: str) -> tuple[np.ndarray, np.ndarray, float]:
    """(window attention, Grad-CAM) [n, c, c] of each tile, and the share of the attention that fell on padding.

    Features are the mean of the last map: the risk's gradient by a place of the map is that by the feature over the
    number of places, so Grad-CAM (Selvaraju et al. 2017) is map x gradient, summed over channels; its sign is kept."""
    encoder, device = module.network.encoder, module.device
    window, cam, start = [], [], 0
    for pixels in bag.pixels(batch=BATCH):
        given = torch.from_numpy(pixels).to(device)
        own = torch.from_numpy(gradient[start : start + len(pixels)]).to(device)
        start += len(pixels)
        with torch.inference_mode():
            images = encoder.normalised(given)
            window.append(merged(window_attention(encoder.swin, images), operator).cpu())
            last = encoder.last_map(given)
            places = last.shape[1] * last.shape[2]
            cam.append((torch.einsum("nrcd,nd->nrc", last.float(), own) / places).cpu())
    whole = torch.cat(window)
    cells = min(CELLS, whole.shape[1])
    lost = float(1 - whole.sum((1, 2)).mean())
    return as_cells(whole, cells).numpy(), as_cells(torch.cat(cam), cells).numpy(), lost


def as_cells(maps: torch.Tensor, cells: int) -> torch.Tensor:
    """[n, r, c] -> [n, cells, cells] with the same sum: each old place's share goes where it lies."""
    rows, columns = maps.shape[1:]
    fine = maps.repeat_interleave(cells, 1).repeat_interleave(cells, 2)  # every new cell is rows x columns of these
    pooled = functional.avg_pool2d(fine[:, None], (rows, columns))[:, 0]
    return pooled * (rows * columns) / (cells * cells)
