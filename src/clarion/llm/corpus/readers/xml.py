"""PubMed (PubmedArticleSet) and PMC (JATS) XML, streamed: one article in memory at a time.

Read safely: entities are not resolved, no DTD is loaded, nothing is fetched, and libxml2's limits on depth and size of
a node stay on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import IO, Any

from lxml import etree

from clarion.llm.corpus.document import Document, Unreadable

_NO_TEXT = {"table", "table-wrap-foot", "graphic", "inline-graphic", "object-id", "tex-math", "math", "fn", "xref-ref"}


def read_xml(file: IO[bytes], options: Mapping[str, Any]) -> Iterator[Document]:
    """Articles of a PubmedArticleSet or of JATS articles (alone or in a set). options: `extract` of a conf.

    Raises Unreadable when the file is no such XML, or breaks off (the articles before were yielded)."""
    events = etree.iterparse(
        file, events=("end",), tag=("{*}PubmedArticle", "{*}PubmedBookArticle", "{*}article"),
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True, remove_pis=True,
    )  # fmt: skip
    found = 0
    try:
        for _, node in events:
            if not isinstance(node.tag, str):
                continue
            name = etree.QName(node).localname
            if name == "article":
                if any(etree.QName(a).localname == "article" for a in node.iterancestors()):
                    continue
                document = _jats(node, options)
            else:
                document = _pubmed(node)
            found += 1
            yield document
            node.clear()
            while node.getprevious() is not None:  # finished siblings hang on their parent
                del node.getparent()[0]
    except etree.XMLSyntaxError as error:
        raise Unreadable(
            "broken", f"is not well-formed XML ({str(error)[:120]}); {found} articles were read."
        ) from None
    if not found:
        raise Unreadable("broken", "holds no PubmedArticle and no JATS article.")


def _text(node: Any, skip: frozenset[str] = frozenset()) -> str:
    """All text below a node, in order, without the elements named in `skip`."""
    if node is None:
        return ""
    parts: list[str] = []

    def walk(element: Any) -> None:
        parts.append(element.text or "")
        for child in element:
            if isinstance(child.tag, str) and etree.QName(child).localname not in skip:
                walk(child)
            parts.append(child.tail or "")

    walk(node)
    return " ".join("".join(parts).split())


def _all(node: Any, path: str) -> list[Any]:
    """Elements by a path of local names, whatever their namespace."""
    return node.findall("/".join(part if part in (".", "") else f"{{*}}{part}" for part in path.split("/")))


def _one(node: Any, path: str) -> Any:
    found = _all(node, path)
    return found[0] if found else None


def _pubmed(node: Any) -> Document:
    """Title and abstract; sections keep their labels. MeSH headings, journal, year and language are metadata."""
    root = _one(node, "MedlineCitation")
    root = root if root is not None else _one(node, "BookDocument")
    root = root if root is not None else node
    article = _one(root, "Article")
    article = article if article is not None else root
    title = _text(_one(article, "ArticleTitle"))
    paragraphs = []
    for part in _all(article, "Abstract/AbstractText"):
        label, text = (part.get("Label") or "").strip(), _text(part)
        if text:
            paragraphs.append(f"{label.capitalize()}: {text}" if label and label != "UNLABELLED" else text)
    meta = {
        "mesh": [_text(m) for m in _all(root, "MeshHeadingList/MeshHeading/DescriptorName")],
        "keywords": [_text(k) for k in _all(root, "KeywordList/Keyword")],
        "journal": _text(_one(article, "Journal/Title")),
        "year": _text(_one(article, "Journal/JournalIssue/PubDate/Year")),
        "languages": [_text(part) for part in _all(article, "Language")],
    }
    pmid = _text(_one(root, "PMID"))
    return Document(f"PMID{pmid}" if pmid else "", "\n\n".join(paragraphs), title, meta=_given(meta))


def _jats(node: Any, options: Mapping[str, Any]) -> Document:
    """Abstract and body; the reference list is in `back`, which is left out unless extract.references=keep."""
    front = _one(node, "front")
    article = _one(front, "article-meta") if front is not None else None
    paragraphs: list[str] = []
    title = ids = ""
    meta: dict[str, Any] = {}
    if article is not None:
        title = _text(_one(article, "title-group/article-title"), frozenset({"xref", "fn"}))
        for abstract in _all(article, "abstract"):
            if abstract.get("abstract-type") not in ("graphical", "teaser", "toc"):
                paragraphs += _body(abstract, options)
        for number in _all(article, "article-id"):
            kind, value = number.get("pub-id-type"), _text(number)
            if value and (kind in ("pmc", "pmcid") or (kind == "pmid" and not ids)):
                ids = value if value.startswith("PMC") else ("PMC" if kind != "pmid" else "PMID") + value
        meta = {
            "keywords": [_text(k) for k in article.iter("{*}kwd")],
            "journal": _text(_one(front, "journal-meta/journal-title-group/journal-title")),
            "year": _text(_one(article, "pub-date/year")),
            "licence": _text(_one(article, "permissions/license"))[:300],
        }
    body = _one(node, "body")
    if body is not None:
        paragraphs += _body(body, options)
    if options["references"] == "keep":
        paragraphs += [_text(r) for r in node.iterfind("{*}back/{*}ref-list/{*}ref")]
    language = node.get("{http://www.w3.org/XML/1998/namespace}lang")
    meta |= {"languages": [language] if language else []}
    return Document(ids, "\n\n".join(p for p in paragraphs if p), title, meta=_given(meta))


def _body(node: Any, options: Mapping[str, Any]) -> list[str]:
    """Paragraphs, headings, lists, captions and (by extract.tables) tables below a section, in their order."""
    paragraphs: list[str] = []
    for child in node:
        if not isinstance(child.tag, str):
            continue
        name = etree.QName(child).localname
        if name in ("sec", "boxed-text", "list", "list-item", "disp-quote", "statement", "app", "fig-group"):
            paragraphs += _body(child, options)
        elif name in ("fig", "table-wrap"):
            caption = " ".join(filter(None, (_text(_one(child, "label")), _text(_one(child, "caption"), _skip))))
            if caption and options["captions"] == "keep":
                paragraphs.append(caption)
            if name == "table-wrap" and options["tables"] == "text":
                paragraphs.append(_table(child))
        elif name in ("title", "p", "label") and not (name == "label" and etree.QName(node).localname == "sec"):
            paragraphs.append(_without_citations(_text(child, _skip)))
            for inner in child:  # tables and figures inside a paragraph
                if isinstance(inner.tag, str) and etree.QName(inner).localname in ("table-wrap", "fig"):
                    paragraphs += _body(child, options)
                    break
    return [p for p in paragraphs if p]


_skip = frozenset(_NO_TEXT | {"table-wrap", "fig"})
_EMPTY_BRACKETS = re.compile(r"\s*[\[(][\s,;–-]*[\])]")


def _without_citations(text: str) -> str:
    return _EMPTY_BRACKETS.sub("", text)


def _table(node: Any) -> str:
    rows = [" | ".join(_text(cell) for cell in row if isinstance(cell.tag, str)) for row in node.iter("{*}tr")]
    return "\n".join(row for row in rows if row.strip(" |"))


def _given(meta: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in meta.items() if value}
