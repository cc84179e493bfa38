"""A sheet for experts: rationales in blind order, to be rated 1 to 5, as csv or as one page that works offline.

Items carry codes, never a sample's or a patient's id; the key (which item is which sample of which run) is a file of
its own that stays with whoever asked for the review.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from random import Random
from typing import Any

from clarion.errors import DataError
from clarion.record import to_json, write_atomic

CRITERIA = {
    "validity": "Are the statements right for this patient and known biology? 1 wrong, 5 right throughout",
    "logic": "Do the statements lead to the prognosis? 1 contradict it, 5 follow fully",
    "fluency": "Is it written as a colleague would write? 1 unreadable, 5 fluent",
}
COLUMNS = ("sheet", "item", "reviewer", *CRITERIA, "comment", "inputs", "text")
KEY_SCHEMA = "clarion-review-key/1"


@dataclass(frozen=True)
class Item:
    """One rationale to be rated; run: who wrote it (a name), inputs: the facts as lines, or ""."""

    run: str
    sample_id: str
    patient_id: str
    text: str
    inputs: str = ""


@dataclass(frozen=True)
class Sheet:
    """id: of this sheet; rows: (item code, item) in the blind order."""

    id: str
    rows: tuple[tuple[str, Item], ...]

    @classmethod
    def of(cls, items: Sequence[Item], seed: int = 0) -> Sheet:
        """Shuffle and give codes. Same items and seed, same sheet. DataError where there is nothing to rate."""
        items = [i for i in items if i.text.strip()]
        if not items:
            raise DataError("There is no text to review: the predictions' column text is empty.")
        content = json.dumps([[i.run, i.sample_id, i.text] for i in items], ensure_ascii=False)
        name = hashlib.sha256(f"{seed}\0{content}".encode()).hexdigest()[:8]
        Random(f"{name} {seed}").shuffle(items)
        return cls(name, tuple((f"R{k + 1:03d}", _without_ids(item, items)) for k, item in enumerate(items)))

    def key(self) -> dict[str, Any]:
        rows = {code: {"run": i.run, "sample_id": i.sample_id, "patient_id": i.patient_id} for code, i in self.rows}
        return {"schema": KEY_SCHEMA, "sheet": self.id, "items": rows}

    def write(self, path: Path) -> Path:
        """The sheet (.csv or .html), and beside it NAME.key.json, the path of which is returned."""
        text = self.to_html() if path.suffix.lower() == ".html" else self.to_csv()
        key = path.with_suffix(".key.json")
        write_atomic(key, to_json(self.key()))
        key.chmod(0o600)
        write_atomic(path, text)
        return key

    def to_csv(self) -> str:
        """With a byte order mark: spreadsheets then read Korean as what it is."""
        out = io.StringIO(newline="")
        writer = csv.writer(out)
        writer.writerow(COLUMNS)
        for code, item in self.rows:
            writer.writerow([self.id, code, "", *("" for _ in CRITERIA), "", _cell(item.inputs), _cell(item.text)])
        return "\ufeff" + out.getvalue()

    def to_html(self) -> str:
        """One file: texts, ratings kept in this browser, and a button that saves them as csv. Nothing is sent: the
        page's policy forbids every connection."""
        body = "\n".join(_article(code, item, k, len(self.rows)) for k, (code, item) in enumerate(self.rows, 1))
        page = (Path(__file__).parent / "sheet.html").read_text(encoding="utf-8")
        settings = {"sheet": self.id, "criteria": list(CRITERIA), "columns": list(COLUMNS[:-2])}
        filled = {"SHEET": self.id, "ITEMS": body, "COUNT": str(len(self.rows)), "SETTINGS": json.dumps(settings)}
        return re.sub(f"@({'|'.join(filled)})@", lambda mark: filled[mark[1]], page)  # once: a text may hold a mark


def read_key(path: Path) -> dict[str, Any]:
    """What `write` kept. DataError for another file."""
    try:
        key = json.loads(path.read_text(encoding="utf-8"))
        if key["schema"] != KEY_SCHEMA or not isinstance(key["items"], dict):
            raise ValueError("another schema")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is no key of a review sheet ({error}): it lies beside the sheet as NAME.key.json."
        ) from None
    return key


def _without_ids(item: Item, items: Sequence[Item]) -> Item:
    """Ids that a model copied into its text go; those of every patient, since texts may mix them up."""
    ids = {i for one in items for i in (one.sample_id, one.patient_id) if len(i) > 3}
    pattern = "|".join(re.escape(i) for i in sorted(ids, key=len, reverse=True))
    if not pattern:
        return item
    whole = re.compile(rf"(?<![A-Za-z0-9])(?:{pattern})(?![A-Za-z0-9])")
    return replace(item, text=whole.sub("[id]", item.text), inputs=whole.sub("[id]", item.inputs))


def _cell(text: str) -> str:
    """A text that begins like a formula must not become one in a spreadsheet."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _article(code: str, item: Item, number: int, total: int) -> str:
    paragraphs = "".join(
        f"<h3>{escape(line.lstrip('# '))}</h3>" if line.startswith("#") else f"<p>{escape(line)}</p>"
        for line in item.text.splitlines()
        if line.strip()
    )
    inputs = f"<details><summary>Inputs of the model / 모델 입력</summary><pre>{escape(item.inputs)}</pre></details>"
    scales = "".join(
        f'<fieldset><legend title="{escape(why)}">{name}<small> {escape(why)}</small></legend>'
        + "".join(f'<label><input type="radio" name="{code}.{name}" value="{v}">{v}</label>' for v in range(1, 6))
        + "</fieldset>"
        for name, why in CRITERIA.items()
    )
    return (
        f'<article data-item="{code}"><h2>{code} <small>{number} / {total}</small></h2>{paragraphs}'
        f"{inputs if item.inputs else ''}{scales}"
        f'<input class="comment" name="{code}.comment" placeholder="comment / 의견"></article>'
    )
