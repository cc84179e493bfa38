"""The page of one prognosis: probability, text with what was struck, genes, tissue, heat, what was missing; offline."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from clarion import __version__
from clarion.cancer.looking.canvas import Canvas, colours, region
from clarion.cancer.prognosis.words import Words
from clarion.cancer.rationale import english, hangul
from clarion.cancer.slides.reader import Slide
from clarion.evaluators.factcheck_claims import SUPPORTED
from clarion.evaluators.factcheck_text import Checked, split_sentences

HERE = Path(__file__).parent
LONGEST = 720  # pixels of a thumbnail's longer side
SAY = {"en": english, "ko": hangul}


def render(document: Mapping[str, Any], checked: Checked | None, pictures: list[dict[str, Any]], words: Words) -> str:
    """HTML of what prognosis.json holds. pictures: of each slide {number, of, tiles, plain, heat, page, heatmap}."""
    language, survival, model = words.language, document["survival"], document["model"]
    months = f"{survival['months']:g}"
    return _environment().get_template("page.html").render(
        w=words, language=language, version=__version__, title=words("title", name=document["patient"]),
        kind=model["data_kind"], months=months, survival=survival, percent=percent,
        bar=probability_bar(survival, words), told=_told(document, words, months), missing=document["missing"],
        warnings=document["warnings"], blocks=None if checked is None else text_blocks(document["text_as_written"],
                                                                                       checked, words),
        check=document["factcheck"], template=_paragraphs(document["rationale"]["text"]),
        genes=_genes(document["facts"], words), fitted=model["table_patients"], tissue=_tissue(document, language),
        pictures=pictures, quality=_quality(document), inputs=_inputs(document, words), model=model,
    )  # fmt: skip


# ---- probability -----------------------------------------------------------------------------------------------


def probability_bar(survival: Mapping[str, Any], words: Words) -> Markup:
    """0 to 100 % as a line, the interval as a band, the probability as a dot, the whole group as a tick."""
    left, wide, y = 36, 528, 44

    def at(p: float) -> float:
        return round(left + wide * p, 1)

    parts = [f'<line class="axis" x1="{left}" y1="{y}" x2="{left + wide}" y2="{y}"/>']
    for p in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line class="axis" x1="{at(p)}" y1="{y - 4}" x2="{at(p)}" y2="{y + 4}"/>'
                     f'<text x="{at(p)}" y="{y + 30}" text-anchor="middle">{p:.0%}</text>')  # fmt: skip
    if (group := survival["group"]["probability"]) is not None:
        parts.append(f'<line class="group" x1="{at(group)}" y1="{y - 26}" x2="{at(group)}" y2="{y + 10}"/>')
    if survival["low"] is not None:
        low, high = at(survival["low"]), at(survival["high"])
        parts.append(f'<rect class="band" x="{low}" y="{y - 9}" width="{max(high - low, 1):.1f}" height="18" rx="4"/>')
    parts.append(f'<circle class="dot" cx="{at(survival["probability"])}" cy="{y}" r="8"/>')
    label = f"{words('alive', months=format(survival['months'], 'g'))}: {percent(survival['probability'])}"
    return Markup(f'<svg class="chart" viewBox="0 0 600 82" role="img" aria-label="{escape(label)}">'
                  + "".join(parts) + "</svg>")  # fmt: skip


def _told(document: Mapping[str, Any], words: Words, months: str) -> list[str]:
    """The sentences below the bar."""
    survival, answer = document["survival"], document["answer"]
    told = []
    if survival["low"] is not None:
        told += [words("made", how=survival["how"], n=survival["n"], deaths=survival["deaths"],
                       raw=percent(survival["raw"])), words("mean")]  # fmt: skip
    group = survival["group"]
    if group["probability"] is not None:
        value = percent(group["probability"])
        if group["low"] is not None:
            value += f" ({percent(group['low'])} – {percent(group['high'])})"
        told.append(words("group", n=group["n"], value=value))
    said = words(answer["parsed"], months=months) if answer["parsed"] else words("none")
    agrees = "" if answer["agrees"] is None else words("agrees" if answer["agrees"] else "disagrees")
    return [*told, f"{words('answer', answer=said)} {agrees}".strip(), *survival["notes"]]


def percent(p: float) -> str:
    """Whole per cents; more digits only where whole ones would say 0 % or 100 % of something else."""
    if 0 < p < 0.005 or 0.995 < p < 1:
        return "< 1%" if p < 0.5 else "> 99%"
    return f"{100 * p:.0f}%"


# ---- text ------------------------------------------------------------------------------------------------------


def text_blocks(text: str, checked: Checked, words: Words) -> list[dict[str, Any]]:
    """Lines of the text as written: {"heading"}, or {"sentences": [{text, struck, why}], "times": in a row}."""
    gone, claims = Counter(checked.removed), dict(checked.sentences)
    blocks: list[dict[str, Any]] = []
    for line in text.split("\n"):
        if line.lstrip().startswith("#"):
            blocks.append({"heading": line.strip("# ")})
            continue
        sentences = []
        for sentence in map(str.strip, split_sentences(line)):
            if not sentence:
                continue
            struck = gone[sentence] > 0
            gone[sentence] -= struck
            bad = [f"{c.kind}: {c.said} – {c.verdict}" + (f" ({c.expected})" if c.expected else "")
                   for c in claims.get(sentence, ()) if c.verdict != SUPPORTED]  # fmt: skip
            sentences.append({"text": sentence, "struck": struck, "why": "; ".join(bad) or words("hangs")})
        if sentences and blocks and blocks[-1].get("sentences") == sentences:
            blocks[-1]["times"] += 1
        elif sentences:
            blocks.append({"sentences": sentences, "times": 1})
    return blocks


def _paragraphs(text: str) -> list[dict[str, str]]:
    return [{"heading": line.strip("# ")} if line.startswith("#") else {"text": line}
            for line in text.split("\n") if line.strip()]  # fmt: skip


# ---- tables ----------------------------------------------------------------------------------------------------


def _genes(facts: Mapping[str, Any], words: Words) -> list[list[str]]:
    rows = []
    for gene in facts["genes"]:
        z, q = gene["z"], gene["q"]
        effect = "unknown" if z is None else "average" if abs(z) < 0.5 else (
            "raises" if z * gene["coef"] > 0 else "lowers")  # fmt: skip
        q_text = "–" if q is None else english.number(q)
        rows.append([gene["name"], f"{gene['coef']:+.2f}", q_text, "–" if z is None else f"{z:+.1f}", words(effect)])
    return rows


def _tissue(document: Mapping[str, Any], language: str) -> list[list[str]]:
    say = SAY[language]
    return [[say.tissue(p["name"]), "–" if p["share"] is None else percent(p["share"])]
            for p in document["facts"]["patterns"]]  # fmt: skip


def _quality(document: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for name, found in document["model"]["quality"].items():
        value = "–" if found["value"] is None else f"{found['value']:.3f}"
        if found["value"] is not None and found["low"] is not None:
            value += f" [{found['low']:.3f}, {found['high']:.3f}]"
        rows.append([name, value, str(found["n"])])
    return rows


def _inputs(document: Mapping[str, Any], words: Words) -> list[tuple[str, str]]:
    own, clinical = document["inputs"], document["inputs"]["clinical"]
    sex = {"F": words("female"), "M": words("male")}.get(clinical["sex"], words("unknown"))
    age = words("unknown") if clinical["age"] is None else words("years", value=f"{clinical['age']:g}")
    return [
        (words("slides_given"), str(own["slides"])), (words("omics_given"), words("values", n=own["omics_values"])),
        (words("age"), age), (words("sex"), sex), (words("stage"), clinical["stage"] or words("unknown")),
        (words("cancer"), clinical["cancer"] or words("unknown")),
    ]  # fmt: skip


# ---- pictures --------------------------------------------------------------------------------------------------


def thumbnails(slide: Slide, canvas: Canvas, longest: int = LONGEST) -> tuple[str, str]:
    """(the slide, the slide with the map over it) as data: addresses of JPEG, the longer side at most `longest`."""
    downsample = max(1.0, max(slide.dimensions) / longest)
    width, height = (max(1, int(side / downsample)) for side in slide.dimensions)
    picture = region(slide, 0, 0, width, height, downsample)
    columns, rows = (((np.arange(n) + 0.5) * downsample / canvas.downsample - 0.5).astype(np.float32)
                     for n in (width, height))  # fmt: skip
    over = cv2.remap(canvas.strength(), *np.meshgrid(columns, rows), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    rgb, opacity = colours(over)
    heat = picture + (rgb.astype(np.float32) - picture) * opacity[..., None]
    return _jpeg(picture), _jpeg(heat.round().astype(np.uint8))


def _jpeg(rgb: np.ndarray) -> str:
    content = cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


@lru_cache
def _environment() -> Environment:
    return Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                       lstrip_blocks=True)  # fmt: skip
