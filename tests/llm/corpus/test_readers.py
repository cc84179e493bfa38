"""Readers on real files: layout of PDFs, PubMed and JATS XML, JSON, text, Markdown, HTML; and what they refuse."""

from __future__ import annotations

import gzip
import io
import json

import pymupdf
import pytest
from corpus_files import paragraph, pubmed_xml, scanned, two_columns

from clarion.errors import DataError
from clarion.llm.corpus.document import Problem, Unreadable
from clarion.llm.corpus.readers.markup import decoded, read_html, read_markdown, read_text
from clarion.llm.corpus.readers.pdf import read_pdf
from clarion.llm.corpus.readers.records import document_of, read_json_records
from clarion.llm.corpus.readers.xml import read_xml
from clarion.llm.corpus.sources import list_files, tasks

FIELDS = {"text_field": None, "title_field": None, "id_field": None, "patient_field": None}


def words(text: str) -> list[str]:
    return text.split()


def test_columns_are_read_one_after_the_other_without_running_heads(tmp_path, extract):
    expected = two_columns(tmp_path / "paper.pdf")
    found = read_pdf(tmp_path / "paper.pdf", extract)
    assert words(found.text.replace(found.title, "", 1)) == words(" ".join(expected))
    assert found.title == "Membranes of the macula: a long-term study" and found.meta["pages"] == 3


def test_bands_across_the_page_divide_columns_and_three_columns_are_found(tmp_path, extract):
    pdf = pymupdf.open()
    page = pdf.new_page(width=595, height=842)
    boxes = [
        ((50, 50, 545, 90), "A title of a paper on the macula.", 18),
        ((50, 95, 545, 200), "Abstract " + paragraph(90, 5), 9),
        ((50, 210, 288, 430), "L1 " + paragraph(1, 6), 10),
        ((307, 210, 545, 430), "R1 " + paragraph(2, 6), 10),
        ((50, 440, 545, 470), "Figure 1. A caption over the whole page. " + paragraph(5, 1), 9),
        ((50, 490, 288, 780), "L2 " + paragraph(3, 7), 10),
        ((307, 490, 545, 780), "R2 " + paragraph(4, 7), 10),
    ]
    for box, text, size in boxes:
        assert page.insert_textbox(box, text, fontsize=size) > 0
    page = pdf.new_page(width=595, height=842)
    columns = [f"C{k} " + paragraph(10 + k, 8) for k in range(3)]
    for k, text in enumerate(columns):
        assert page.insert_textbox((40 + k * 180, 60, 205 + k * 180, 700), text, fontsize=9) > 0
    pdf.save(tmp_path / "a.pdf")
    text = read_pdf(tmp_path / "a.pdf", extract).text
    assert words(text) == words(" ".join([t for _, t, _ in boxes] + columns))
    assert "Figure 1" not in read_pdf(tmp_path / "a.pdf", {**extract, "captions": "drop"}).text


def write_lines(path, pages):
    """pages: lists of (x, y, text[, size])."""
    pdf = pymupdf.open()
    for lines in pages:
        page = pdf.new_page(width=595, height=842)
        for x, y, text, *size in lines:
            page.insert_text((x, y), text, fontsize=size[0] if size else 10)
    pdf.save(path)


def test_words_divided_at_line_ends_are_joined_unless_the_document_writes_the_hyphen(tmp_path, extract):
    lines = ["The photocoagu-", "lation was long-", "term and the long-term result of photocoagulation", "was good."]
    write_lines(tmp_path / "a.pdf", [[(50, 100 + 13 * k, line) for k, line in enumerate(lines)]])
    text = read_pdf(tmp_path / "a.pdf", extract).text
    assert text == "The photocoagulation was long-term and the long-term result of photocoagulation was good."


def test_a_paragraph_goes_on_over_the_page_and_references_are_cut(tmp_path, extract):
    first = [(50, 200 + 14 * k, f"Line {k} of the first paragraph goes on") for k in range(20)]
    second = [(50, 200, "to the next page and ends here."), (50, 260, "References"), (50, 290, "1. Smith J. 2001.")]
    write_lines(tmp_path / "a.pdf", [first, second])
    text = read_pdf(tmp_path / "a.pdf", extract).text
    assert "goes on to the next page and ends here." in text and "Smith" not in text
    assert "Smith" in read_pdf(tmp_path / "a.pdf", {**extract, "references": "keep"}).text


def test_ruled_tables_become_rows_or_go(tmp_path, extract):
    pdf = pymupdf.open()
    page = pdf.new_page()
    page.insert_text((72, 100), "The table shows thickness.")
    for row in range(4):
        page.draw_line((72, 200 + 20 * row), (372, 200 + 20 * row))
    for column in range(4):
        page.draw_line((72 + 100 * column, 200), (72 + 100 * column, 260))
    cells = [["Eye", "Before", "After"], ["OD", "412", "287"], ["OS", "305", "300"]]
    for r, row in enumerate(cells):
        for c, cell in enumerate(row):
            page.insert_text((76 + 100 * c, 214 + 20 * r), cell)
    pdf.save(tmp_path / "t.pdf")
    text = read_pdf(tmp_path / "t.pdf", extract).text
    assert "OD | 412 | 287" in text and text.count("412") == 1
    dropped = read_pdf(tmp_path / "t.pdf", {**extract, "tables": "drop"}).text
    assert "412" not in dropped and "shows thickness" in dropped


def test_encrypted_scanned_long_and_broken_pdfs_are_named(tmp_path, extract):
    two_columns(tmp_path / "locked.pdf", encrypt=True)
    scanned(tmp_path / "scan.pdf")
    two_columns(tmp_path / "long.pdf")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7 nothing of a PDF")
    (tmp_path / "empty.pdf").write_bytes(b"")
    for name, reason, fix in (
        ("locked", "encrypted", "qpdf"), ("scan", "scanned", "ocrmypdf"), ("broken", "broken", "export it again"),
        ("empty", "broken", "export it again"), ("long", "too_large", "extract.max_pages"),
    ):  # fmt: skip
        with pytest.raises(Unreadable, match=fix) as caught:
            read_pdf(tmp_path / f"{name}.pdf", {**extract, "max_pages": 2})
        assert caught.value.reason == reason


def test_pubmed_articles_with_labels_and_mesh(extract):
    found = list(read_xml(io.BytesIO(pubmed_xml(range(3)).encode()), extract))
    assert [d.id for d in found] == ["PMID10000", "PMID10001", "PMID10002"]
    assert found[1].title == "Study 10001 of the retina."
    assert found[1].text == f"Purpose: {paragraph(1)}\n\nResults: {paragraph(101)}"
    assert found[1].meta["mesh"] == ["Retinal Diseases"] and found[1].meta["journal"] == "Eye Journal"


JATS = """<article xmlns:xlink="http://www.w3.org/1999/xlink" xml:lang="en"><front><journal-meta><journal-title-group>
<journal-title>Open Eye</journal-title></journal-title-group></journal-meta><article-meta>
<article-id pub-id-type="pmid">77</article-id><article-id pub-id-type="pmc">123</article-id>
<title-group><article-title>Membranes<xref>*</xref> of the macula</article-title></title-group>
<permissions><license><license-p>CC BY 4.0</license-p></license></permissions>
<abstract><sec><title>Aim</title><p>The abstract.</p></sec></abstract><kwd-group><kwd>macula</kwd></kwd-group>
</article-meta></front><body><sec><label>1</label><title>Introduction</title>
<p>It is known [<xref ref-type="bibr">1</xref>] that eyes see.</p>
<table-wrap><label>Table 1</label><caption><p>Eyes.</p></caption><table><tr><th>a</th><th>b</th></tr>
<tr><td>1</td><td>2</td></tr>
</table></table-wrap></sec></body><back><ref-list><ref>Smith 2001</ref></ref-list></back></article>"""


def test_jats_body_tables_licence_and_no_references(extract):
    (found,) = read_xml(io.BytesIO(JATS.encode()), extract)
    assert found.id == "PMC123" and found.title == "Membranes of the macula" and found.meta["licence"] == "CC BY 4.0"
    assert found.text.split("\n\n") == [
        "Aim", "The abstract.", "Introduction", "It is known [1] that eyes see.", "Table 1 Eyes.", "a | b\n1 | 2",
    ]  # fmt: skip
    (dropped,) = read_xml(io.BytesIO(JATS.encode()), {**extract, "tables": "drop", "captions": "drop"})
    assert "1 | 2" not in dropped.text and "Eyes." not in dropped.text
    (kept,) = read_xml(io.BytesIO(JATS.encode()), {**extract, "references": "keep"})
    assert kept.text.endswith("Smith 2001")


def test_xml_entities_are_not_resolved(tmp_path, extract):
    secret = tmp_path / "secret.txt"
    secret.write_text("TOP SECRET", encoding="utf-8")
    laughs = "".join(f'<!ENTITY l{k} "{f"&l{k - 1};" * 10}">' for k in range(1, 12))
    doc = f'<!DOCTYPE article [<!ENTITY x SYSTEM "file://{secret}"><!ENTITY l0 "ha">{laughs}]>'
    doc += "<article><body><p>Seen: &x; &l11; end</p></body></article>"
    try:
        texts = [d.text for d in read_xml(io.BytesIO(doc.encode()), extract)]
    except Unreadable as error:
        texts = [str(error)]
    assert all("SECRET" not in text and len(text) < 1000 for text in texts)


def test_xml_that_breaks_off_gives_what_was_whole(extract):
    content = pubmed_xml(range(5)).encode()
    found = []
    with pytest.raises(Unreadable, match="well-formed"):
        for document in read_xml(io.BytesIO(content[: len(content) * 3 // 5]), extract):
            found.append(document)
    assert 2 <= len(found) < 5
    with pytest.raises(Unreadable, match="no PubmedArticle"):
        list(read_xml(io.BytesIO(b"<a><b/></a>"), extract))


class Trickle(io.BytesIO):
    """Reads of a few bytes: a record always spans many of them."""

    def read(self, size=-1):
        return super().read(min(size, 7))


@pytest.mark.parametrize("content", [
    [{"id": 1, "text": "가나다 \"quoted\" \\ 1.5"}, {"id": 2, "text": "b"}],
    {"11": {"text": "가나다 \"quoted\" \\ 1.5"}, "12": {"text": "b"}},
    {"documents": [{"id": 1, "text": "가나다 \"quoted\" \\ 1.5"}, {"id": 2, "text": "b"}], "n": 2},
])  # fmt: skip
def test_json_of_records_is_streamed_whatever_its_shape(content):
    raw = json.dumps(content, ensure_ascii=False, indent=1).encode()
    found = list(read_json_records(Trickle(raw), 10_000))
    assert [record["text"] for _, record in found] == ['가나다 "quoted" \\ 1.5', "b"]
    if isinstance(content, dict) and "11" in content:
        assert [key for key, _ in found] == ["11", "12"]


@pytest.mark.parametrize("raw", ['[{"text": "a"}', '[{"text": "a"} {"text": "b"}]', "[nonsense]", "3", '{"a" 1}', "["])
def test_json_that_is_none_is_refused(raw):
    with pytest.raises(Unreadable):
        list(read_json_records(io.BytesIO(raw.encode()), 1000))


def test_json_record_limit():
    with pytest.raises(Unreadable, match="too long"):
        list(read_json_records(io.BytesIO(b'[{"text": "' + b"a" * 3_000_000 + b'"}]'), 1000))


def test_records_of_usual_and_chosen_fields():
    found = document_of({"CONTEXTS": ["a", "b"], "QUESTION": "Why?", "MESHES": ["Eye"], "pmid": 5}, FIELDS)
    assert (found.text, found.title, found.id, found.meta) == ("a\n\nb", "Why?", "5", {"mesh": ["Eye"]})
    assert document_of({"answer": "x"}, {**FIELDS, "text_field": "answer"}).text == "x"
    with pytest.raises(Unreadable, match="it has: answer"):
        document_of({"answer": "x"}, FIELDS)
    with pytest.raises(Unreadable, match="no field txt"):
        document_of({"text": "x"}, {**FIELDS, "text_field": "txt"})


def test_text_and_markdown():
    assert decoded("안저 검사".encode("cp949")) == "안저 검사" == decoded("안저 검사".encode("utf-16"))
    with pytest.raises(Unreadable, match="null bytes"):
        decoded(b"\x00\x01\x02")
    assert read_text(b"Title line\n\nBody").title == "Title line"
    markdown = (
        "---\na: 1\n---\n# The *eye*\n\nSee [the retina](http://x.org/a_(b)) and **cones**.\n\n"
        "```\ncode\n```\n\n- one\n- two\n![p](q.png)"
    )
    found = read_markdown(markdown.encode())
    assert found.title == "The eye"
    assert "See the retina and cones." in found.text and "code" not in found.text and "http" not in found.text
    assert "one\ntwo" in found.text


def test_the_main_text_of_a_page(extract):
    pytest.importorskip("lxml_html_clean", reason="trafilatura's own dependency is not installed")
    body = "".join(f"<p>{paragraph(k)}</p>" for k in range(4))
    page = (
        "<html><head><title>Eye page</title></head><body><nav><a href='/'>Home</a> menu</nav>"
        f"<article><h1>Eyes</h1>{body}</article><footer>Imprint</footer></body></html>"
    )
    html = read_html(page.encode(), extract)
    assert paragraph(2) in html.text and "Imprint" not in html.text and "\n\n" in html.text
    with pytest.raises(Unreadable, match="no main text"):
        read_html(b"<html><body></body></html>", extract)


def source(path, **more):
    formats = ["pdf", "xml", "json", "jsonl", "txt", "md", "html"]
    return {"name": "s", "path": path, "formats": formats, "licence": "x", **FIELDS, **more}


def test_files_are_listed_in_order_and_links_out_are_refused(tmp_path):
    folder = tmp_path / "in"
    (folder / "b").mkdir(parents=True)
    for name in ("b/2.txt", "1.txt", "b/.hidden.txt", "c.docx"):
        (folder / name).write_text("x", encoding="utf-8")
    with gzip.open(folder / "a.xml.gz", "wb") as file:
        file.write(pubmed_xml(range(1)).encode())
    assert [f.name for f in list_files([source(folder)])] == ["1.txt", "a.xml.gz", "b/2.txt"]
    with pytest.raises(DataError, match="empty corpus"):
        list_files([source(folder, formats=["pdf"])])
    (tmp_path / "outside.txt").write_text("x", encoding="utf-8")
    (folder / "link.txt").symlink_to(tmp_path / "outside.txt")
    with pytest.raises(DataError, match="link out of"):
        list_files([source(folder)])


def test_streams_are_batched_and_a_cut_archive_is_a_problem(tmp_path, extract):
    lines = [json.dumps({"text": paragraph(k)}) for k in range(600)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines))
    whole = (tmp_path / "b.jsonl.gz").read_bytes()
    (tmp_path / "b.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    sources = [source(tmp_path)]
    made = list(tasks(list_files(sources), sources, extract))
    of_a = [t for t in made if t.files[0].name == "a.jsonl"]
    assert [t.first for t in of_a] == [0, 256, 512] and sum(len(t.lines) for t in of_a) == 600
    problems: list[Problem] = [p for t in made for p in t.problems]
    assert len(problems) == 1 and problems[0].reason == "broken" and problems[0].name == "b.jsonl.gz"
