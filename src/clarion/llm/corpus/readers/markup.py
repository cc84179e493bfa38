"""Plain text, Markdown and HTML files."""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Mapping
from typing import Any

from clarion.errors import DataError
from clarion.llm.corpus.document import Document, Unreadable

_FRONT = re.compile(r"\A---\s*\n.*?\n(?:---|\.\.\.)\s*\n", re.S)
_FENCE = re.compile(r"^(?:```|~~~)[^\n]*\n.*?^(?:```|~~~)\s*$", re.S | re.M)
_COMMENT = re.compile(r"<!--.*?-->", re.S)
_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_LINK = re.compile(r"\[([^\]]+)\]\((?:[^()\s]|\([^()]*\))*(?:\s+\"[^\"]*\")?\)|\[([^\]]+)\]\[[^\]]*\]")
_DEFINITION = re.compile(r"^\s{0,3}\[[^\]]+\]:\s+\S+.*$", re.M)
_HEADING = re.compile(r"^\s{0,3}(#{1,6})\s+(.+?)\s*#*\s*$", re.M)
_EMPHASIS = re.compile(r"(?<![\w*])(\*{1,3}|_{1,3})(?=\S)(.+?)(?<=\S)\1(?![\w*])")
_CODE = re.compile(r"`([^`\n]+)`")
_LEADER = re.compile(r"^\s{0,3}(?:>\s?|[-*+]\s+|\d+[.)]\s+)", re.M)
_RULE = re.compile(r"^\s{0,3}(?:[-*_]\s*){3,}$", re.M)
_TAG = re.compile(r"</?[A-Za-z][^>\n]*>")


def decoded(content: bytes) -> str:
    """UTF-8 (with or without BOM), UTF-16 with BOM, else CP949 (Korean files of older Windows programs).

    Raises Unreadable for bytes that are none of these, or no text at all."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encodings = ("utf-16",)
    else:
        encodings = ("utf-8-sig", "cp949")
        if b"\0" in content[:4096]:
            raise Unreadable("broken", "is no text (it holds null bytes); is its suffix right?")
    for encoding in encodings:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise Unreadable("broken", "is neither UTF-8, UTF-16 nor CP949 text; save it as UTF-8.")


def read_text(content: bytes) -> Document:
    """A plain text; a short first line that a blank line follows is its title as well."""
    text = decoded(content)
    first, _, rest = text.lstrip().partition("\n")
    title = first.strip() if len(first) <= 200 and rest.startswith(("\n", "\r\n")) else ""
    return Document("", text, title)


def read_markdown(content: bytes) -> Document:
    """Markdown without its marks: front matter, code blocks, pictures and link targets go, their words stay."""
    text = _FRONT.sub("", decoded(content))
    heading = _HEADING.search(text)
    for pattern in (_COMMENT, _FENCE, _IMAGE, _DEFINITION, _RULE):
        text = pattern.sub("", text)
    text = _LINK.sub(lambda m: m[1] or m[2], text)
    text = _HEADING.sub(r"\n\2\n", text)
    text = _LEADER.sub("", text)
    text = _CODE.sub(r"\1", _EMPHASIS.sub(r"\2", _EMPHASIS.sub(r"\2", text)))
    text = html.unescape(_TAG.sub("", text))
    return Document("", text, _EMPHASIS.sub(r"\2", heading[2]) if heading else "")


def read_html(content: bytes, options: Mapping[str, Any]) -> Document:
    """The main text of a web page (trafilatura); menus, footers and comments are left out. Nothing is fetched.

    Raises Unreadable (no_text) where no main text is found."""
    try:
        import trafilatura
    except ImportError as error:
        raise DataError(
            f"HTML is read by trafilatura, which cannot be imported ({str(error).splitlines()[0]}): "
            "pip install trafilatura lxml-html-clean, or leave html out of the formats."
        ) from error

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    try:
        found = trafilatura.bare_extraction(
            content, include_comments=False, include_tables=options["tables"] == "text", with_metadata=True
        )
    except (ValueError, RecursionError, AttributeError, TypeError) as error:
        raise Unreadable("broken", f"is no readable HTML ({type(error).__name__}).") from None
    if found is None or not (found.text or "").strip():
        raise Unreadable("no_text", "holds no main text (a page of links, or drawn by scripts): save the page's text.")
    # trafilatura writes one line a paragraph
    text = "\n\n".join(line for line in found.text.split("\n") if line.strip())
    return Document("", text, found.title or "")
