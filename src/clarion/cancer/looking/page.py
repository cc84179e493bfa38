"""The zoomable page of one slide: OpenSeadragon (in the page) over JPEG tiles in a folder beside it; works offline."""

from __future__ import annotations

import base64
import math
import shutil
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from clarion import __version__
from clarion.cancer.looking.canvas import TILE, Canvas, colours, lay_out, region, view_downsample
from clarion.cancer.looking.maps import MAPS, PatientMaps
from clarion.cancer.slides.reader import Slide
from clarion.record import write_atomic

HERE = Path(__file__).parent
VIEWER = HERE / "openseadragon"
LICENCE = "openseadragon-licence.txt"
TOP = 8  # tiles shown
QUALITY = 85
LABELS = {"combined": "where it looked", "mil": "attention over tiles", "window": "window attention inside tiles",
          "gradcam": "what moved the risk", "effect": "the risk without each tile"}  # fmt: skip
MEANINGS = {
    "combined": "MIL attention of a tile times the window attention inside it: where the model looked, whichever way "
    "it moved the risk.",
    "mil": "The weight of each tile in the patient's vector. Even attention says that no tile was preferred.",
    "window": "Self-attention of the Swin inside each tile, every tile alike: heads and queries averaged, windows put "
    "back in place, stages merged by OPERATOR.",
    "gradcam": "Grad-CAM with its sign: red raised the risk, blue lowered it.",
    "effect": "The risk less what it would be without the tile: red tiles raise it, blue ones lower it.",
    "planted": "Tissue that was planted to drive the survival: the truth, which the model never saw.",
}


def write_page(
    folder: Path, maps: PatientMaps, number: int = 0, *, kind: str, told: str, facts: Sequence[tuple[str, str]],
    operator: str = "rollout", truth: Any = None,
) -> Path:  # fmt: skip
    """folder/slide-N.html with its tiles in folder/slide-N, for slide `number` of the patient. Returns the page.

    kind: of the data; told: one sentence on the patient's risk; truth: what `planted` gives of this slide, or None."""
    name = f"slide-{number + 1}"
    tiled = maps.bag.slides[number]
    with tiled.open() as slide:
        first = view_downsample(slide, min(tiled.tiles.mpp, 1.0))
        levels = write_tiles(folder / name, slide, first)
        canvases = {key: lay_out(maps, key, number) for key in MAPS}
        layers = [layer(key, canvas, slide) for key, canvas in canvases.items()]
        if truth is not None:
            planted = Canvas(truth.mask.astype(np.float32), truth.downsample, truth.downsample * slide.mpp)
            layers.append(layer("planted", planted, slide))
        tiles = top_tiles(maps, number, slide)
    for one in layers:
        one["meaning"] = MEANINGS[one["name"]].replace("OPERATOR", operator)
    page = environment().get_template("page.html").render(
        title=f"{maps.sample_id}, slide {number + 1} of {len(maps.bag.slides)}", kind=kind, told=told, facts=facts,
        layers=layers, tiles=tiles, version=__version__, folder=name, licence=LICENCE,
        openseadragon=(VIEWER / "openseadragon.min.js").read_text(encoding="utf-8"),
        view={**levels, "folder": name, "tile": TILE,
              "layers": [{k: one[k] for k in ("image", "width", "meaning")} for one in layers]},
    )  # fmt: skip
    write_atomic(folder / f"{name}.html", page)
    shutil.copyfile(VIEWER / "LICENSE.txt", folder / LICENCE)
    return folder / f"{name}.html"


def write_tiles(folder: Path, slide: Slide, downsample: float) -> dict[str, int]:
    """folder/LEVEL/X_Y.jpg of the slide from 1 / downsample down to one tile; numbered as Deep Zoom does."""
    width, height = (max(1, int(side / downsample)) for side in slide.dimensions)
    highest = math.ceil(math.log2(max(width, height, 2)))
    lowest = highest
    for level in range(highest, -1, -1):
        scale = 2 ** (highest - level)
        wide, high = math.ceil(width / scale), math.ceil(height / scale)
        place = folder / str(level)
        place.mkdir(parents=True, exist_ok=True)
        for row in range(0, high, TILE):
            for column in range(0, wide, TILE):
                size = min(TILE, wide - column), min(TILE, high - row)
                rgb = region(slide, column, row, *size, downsample * scale)
                (place / f"{column // TILE}_{row // TILE}.jpg").write_bytes(_jpeg(rgb))
        lowest = level
        if max(wide, high) <= TILE:
            break
    return {"width": width, "height": height, "lowest": lowest, "highest": highest}


def layer(name: str, canvas: Canvas, slide: Slide) -> dict[str, Any]:
    """One map as a transparent picture; width: of the slide's, as 1."""
    rgb, opacity = colours(canvas.strength())
    if name == "planted":
        rgb = np.broadcast_to(np.array([0, 150, 60], np.uint8), rgb.shape)
        opacity = 0.6 * (canvas.values > 0)
    rgba = np.dstack([rgb[..., ::-1], (255 * opacity).astype(np.uint8)])
    width = rgba.shape[1] * canvas.downsample / slide.dimensions[0]
    label = "planted truth" if name == "planted" else LABELS[name]
    return {"name": name, "label": label, "width": width, "image": _uri("png", cv2.imencode(".png", rgba)[1].tobytes())}


def top_tiles(maps: PatientMaps, number: int, slide: Slide) -> list[Mapping[str, Any]]:
    """The tiles of a slide with the largest |effect|, as pictures with their places in parts of the slide's width."""
    own = np.flatnonzero(maps.bag.places[:, 0] == number)
    chosen = own[np.argsort(-np.abs(maps.effect[own]), kind="stable")[:TOP]]
    tiles, width, found = maps.bag.slides[number].tiles, slide.dimensions[0], []
    for k in chosen:
        (pixels,) = maps.bag.pixels([k])
        x, y = tiles.xy[maps.bag.places[k, 1]]
        found.append({
            "image": _uri("jpeg", _jpeg(pixels[0])), "x": float(x) / width, "y": float(y) / width,
            "side": tiles.side / width, "effect": f"{maps.effect[k]:+.3g}",
            "attention": f"{maps.attention[k] * len(maps.bag):.2f}",
        })  # fmt: skip
    return found


@lru_cache
def environment() -> Environment:
    return Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)


def _jpeg(rgb: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
