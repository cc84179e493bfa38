"""PDF -> text: columns in reading order, running heads and page numbers removed, words joined across lines.

The text layer is read by MuPDF (PyMuPDF). Nothing in the file is run; a file of more than the limit's pages is refused.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clarion.llm.corpus.document import Document, Unreadable
from clarion.llm.corpus.readers.layout import Line, reading_order

MARGIN = 0.11  # running heads and feet lie in this share of the page's height
SCANNED_CHARACTERS = 25  # a page with less text than this and a picture on it has no text layer
_NUMBER = re.compile(r"\d+|\b[ivxlc]+\b", re.I)
_PAGE_NUMBER = re.compile(
    r"[-–—\s]*(?:page|p\.?|쪽)?\s*(?:\d{1,4}|[ivxlc]{1,6})(?:\s*(?:of|/)\s*\d{1,4})?[-–—\s]*", re.I
)
_REFERENCES = re.compile(
    r"(?:\d+\.?\s*|[IVX]+\.\s*)?(?:references?|bibliography|literature cited|works cited|참고\s?문헌|인용\s?문헌)\s*:?",
    re.I,
)
_AFTER_REFERENCES = re.compile(
    r"(?:\d+\.?\s*)?(?:appendix|appendices|supplement\w*|figure legends?|부록)\b.{0,60}", re.I
)
_CAPTION = re.compile(r"(?:fig(?:ure)?\.?|table|그림|표)\s*\d+\s*[.:|]", re.I)
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_SENTENCE_END = re.compile(r"""[.!?:;。]["'”’)\]]*$""")


def read_pdf(path: Path, options: Mapping[str, Any]) -> Document:
    """The document in a PDF; its id is left empty. options: the section `extract` of a conf.

    Raises Unreadable: encrypted, scanned (pages are pictures), too_large (pages), broken."""
    import pymupdf

    pymupdf.TOOLS.mupdf_display_errors(False)
    pymupdf.TOOLS.mupdf_display_warnings(False)
    try:
        pdf = pymupdf.open(path, filetype="pdf")
    except (pymupdf.FileDataError, pymupdf.EmptyFileError, RuntimeError, ValueError) as error:
        raise Unreadable(
            "broken", f"is no readable PDF ({' '.join(str(error).split())[:120]}); export it again."
        ) from None
    with pdf:
        if pdf.needs_pass:
            raise Unreadable(
                "encrypted",
                "is encrypted: save a copy without the password (qpdf --password=... --decrypt IN.pdf OUT.pdf).",
            )
        if pdf.page_count > options["max_pages"]:
            raise Unreadable(
                "too_large",
                f"has {pdf.page_count} pages; raise extract.max_pages ({options['max_pages']}) or split it.",
            )
        pages, scanned = [], 0
        for page in pdf:
            try:
                lines, tables = _page(page, options)
            except (RuntimeError, ValueError, IndexError):  # one damaged page; the others are read
                lines, tables = [], []
            characters = sum(len(line.text) for line in lines)
            scanned += characters < SCANNED_CHARACTERS and bool(page.get_images(full=False))
            pages.append((lines, tables, page.rect.width, page.rect.height))
        if pages and scanned >= 0.5 * len(pages):
            raise Unreadable(
                "scanned",
                f"has no text layer on {scanned} of {len(pages)} pages (scanned): "
                "run OCR first (ocrmypdf IN.pdf OUT.pdf).",
            )
        title = str((pdf.metadata or {}).get("title") or "").strip()
        count = pdf.page_count
    paragraphs = _paragraphs(pages)
    kept, cut = _without_references(paragraphs) if options["references"] == "drop" else (paragraphs, 0)
    if options["captions"] == "drop":
        kept = [p for p in kept if not _CAPTION.match(p)]
    meta = {"pages": count, "reference_paragraphs_cut": cut}
    return Document("", "\n\n".join(kept), title if len(title) > 8 else _largest(pages), meta=meta)


def _page(page: Any, options: Mapping[str, Any]) -> tuple[list[Line], list[Line]]:
    """(lines of text, tables as one multi-line Line each) of a page; text inside a table is in the table only."""
    import pymupdf

    flags = pymupdf.TEXTFLAGS_DICT & ~pymupdf.TEXT_PRESERVE_IMAGES & ~pymupdf.TEXT_PRESERVE_LIGATURES
    lines: list[Line] = []
    for number, block in enumerate(page.get_text("dict", flags=flags)["blocks"]):
        for line in block.get("lines", []):
            if abs(line["dir"][1]) > 0.5:  # vertical: stamps such as arXiv's
                continue
            spans = [s for s in line["spans"] if s["text"].strip()]
            if spans:
                text = "".join(s["text"] for s in line["spans"]).strip()
                lines.append(Line(*line["bbox"], text, max(s["size"] for s in spans), number, page.number))
    tables = []
    for box, text in _tables(page, len(lines)):
        inside = [l for l in lines if _within(l, box)]
        lines = [l for l in lines if not _within(l, box)]
        if options["tables"] == "text" and inside:
            tables.append(Line(*box, text, inside[0].size, -1 - len(tables), page.number))
    return lines, tables


def _tables(page: Any, lines: int) -> list[tuple[tuple[float, ...], str]]:
    """Ruled tables: (box, rows of cells joined by " | "). Finding them is slow, so it needs ruling lines to start."""
    if lines == 0 or len(page.get_cdrawings()) < 4:
        return []
    found = []
    for table in page.find_tables(strategy="lines_strict").tables:
        if table.row_count < 2 or table.col_count < 2:
            continue  # a frame
        cells = [[" ".join((cell or "").split()) for cell in row] for row in table.extract()]
        filled = [k for k in range(len(cells[0])) if any(row[k] for row in cells)]  # double lines make empty columns
        rows = [" | ".join(row[k] for k in filled) for row in cells]
        found.append((tuple(table.bbox), "\n".join(row for row in rows if row.strip(" |"))))
    return found


def _within(line: Line, box: tuple[float, ...]) -> bool:
    x, y = (line.x0 + line.x1) / 2, (line.y0 + line.y1) / 2
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]


def _paragraphs(pages: list[tuple]) -> list[str]:
    """All pages -> paragraphs: running heads gone, lines joined, paragraphs joined across columns and pages."""
    running = _running_heads(pages)
    body = Counter(round(l.size, 1) for lines, *_ in pages for l in lines for _ in range(0, len(l.text), 20))
    size = body.most_common(1)[0][0] if body else 10.0
    words = Counter(w.lower() for lines, *_ in pages for l in lines for w in _WORD.findall(l.text))
    result: list[str] = []
    broken = False  # the last paragraph ended without a full stop at the end of a region
    for lines, tables, width, height in pages:
        kept = [l for l in lines if _head_key(l, height) not in running and not _is_page_number(l, height)]
        for region in reading_order(kept + tables, width):
            for first, group in enumerate(_split(region, size)):
                if group[0].block < 0:
                    result.append(group[0].text)
                    continue
                text = _joined([l.text for l in group], words)
                if not text:
                    continue
                if first == 0 and broken and result and _continues(text):
                    result[-1] = _joined([result[-1], text], words)
                else:
                    result.append(text)
            ordinary = region and region[-1].block >= 0 and abs(region[-1].size - size) < 0.6
            broken = bool(result) and bool(ordinary) and not _SENTENCE_END.search(result[-1])
    return result


def _continues(text: str) -> bool:
    return text[:1].islower() or "\uac00" <= text[:1] <= "\ud7a3" or text[:1] in "(,;"


def _split(region: list[Line], size: float) -> list[list[Line]]:
    """Lines of one region -> paragraphs: at white, at a change of letter size, at an indent after a full stop."""
    groups: list[list[Line]] = []
    left = min((l.x0 for l in region), default=0.0)
    for line in region:
        before = groups[-1][-1] if groups else None
        new = before is None or line.block < 0 or before.block < 0
        if not new:
            height = max(before.y1 - before.y0, 1.0)
            same_row = line.y0 < before.y0 + 0.5 * height
            new = not same_row and (
                line.y0 - before.y1 > 0.6 * height
                or abs(line.size - before.size) > 0.15 * size + 0.3
                or (line.block != before.block and bool(_SENTENCE_END.search(before.text)))
                or (left + 6 < line.x0 < left + 40 and bool(_SENTENCE_END.search(before.text)))
            )
        if new:
            groups.append([line])
        else:
            groups[-1].append(line)
    return groups


def _joined(lines: list[str], words: Counter) -> str:
    """Lines of a paragraph as one; a word divided at a line's end is joined unless the document writes its hyphen."""
    text = ""
    for line in lines:
        line = line.strip()
        if text[-1:] in ("-", "\u00ad", "\u2010") and line[:1].islower() and text[-2:-1].isalpha():
            head = re.search(r"[^\W\d_]+$", text[:-1])
            tail = re.match(r"[^\W\d_]+", line)
            whole = (head[0] + tail[0]).lower()
            hyphened = f"{head[0]}-{tail[0]}".lower()
            keep = text[-1] != "\u00ad" and words[hyphened] > words[whole]
            text = (text[:-1] + "-" if keep else text[:-1]) + line
        else:
            text = f"{text} {line}" if text else line
    return " ".join(text.split())


def _head_key(line: Line, height: float) -> tuple | None:
    """What makes two lines the same running head: place and words, numbers aside. None outside the margins."""
    middle = (line.y0 + line.y1) / 2
    if MARGIN * height < middle < (1 - MARGIN) * height:
        return None
    return round(middle / 6), _NUMBER.sub("#", line.text.lower())


def _running_heads(pages: list[tuple]) -> set[tuple]:
    """Keys of lines in the margins that at least 3 pages and 30 % of them share (left and right pages may differ);
    both pages, where there are two."""
    seen: dict[tuple, set[int]] = defaultdict(set)
    for number, (lines, _, _, height) in enumerate(pages):
        for line in lines:
            if (key := _head_key(line, height)) is not None:
                seen[key].add(number)
    least = 2 if len(pages) == 2 else max(3, 0.3 * len(pages))
    return {key for key, on in seen.items() if len(on) >= least and len(pages) > 1}


def _is_page_number(line: Line, height: float) -> bool:
    middle = (line.y0 + line.y1) / 2
    inside = 0.08 * height < middle < 0.92 * height
    return not inside and bool(_PAGE_NUMBER.fullmatch(line.text))


def _without_references(paragraphs: list[str]) -> tuple[list[str], int]:
    """Cut from the last heading "References" (in the last 70 % of the text) to an appendix or the end."""
    starts = [k for k, p in enumerate(paragraphs) if _REFERENCES.fullmatch(p) and k >= 0.3 * len(paragraphs)]
    if not starts:
        return paragraphs, 0
    start = starts[-1]
    later = range(start + 1, len(paragraphs))
    end = next((k for k in later if _AFTER_REFERENCES.fullmatch(paragraphs[k])), len(paragraphs))
    return paragraphs[:start] + paragraphs[end:], end - start


def _largest(pages: list[tuple]) -> str:
    """The title as a reader sees it: the lines of largest letters on the first page, if they stand out."""
    lines = [l for l in pages[0][0] if len(l.text) > 3] if pages else []
    if not lines:
        return ""
    size = max(l.size for l in lines)
    title = " ".join(l.text for l in lines if l.size > size - 0.5)
    usual = sorted(l.size for l in lines)[len(lines) // 2]
    return title if size > usual * 1.15 and len(title) <= 300 else ""
