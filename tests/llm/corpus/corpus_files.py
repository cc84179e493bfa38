"""Real files of every format, small, written by the libraries that users' files come from."""

from __future__ import annotations

from pathlib import Path

import pymupdf

SENTENCES = (
    "Glaucoma damages the optic nerve and leads to loss of the visual field when it is not treated.",
    "Intraocular pressure is the only risk factor that treatment can change at present.",
    "The retina was examined by optical coherence tomography in both eyes of every participant.",
    "An epiretinal membrane distorts the macula and lowers visual acuity in many older people.",
    "Cataract surgery improved vision in most eyes, although macular oedema occurred in a few.",
    "Corneal thickness was measured three times and the mean of the readings was taken.",
    "The anterior chamber was quiet and the lens showed nuclear sclerosis of moderate degree.",
    "Patients with diabetes were screened for retinopathy once a year by a trained reader.",
)


def paragraph(number: int, sentences: int = 5) -> str:
    """A paragraph about the eye, different for every number."""
    chosen = [SENTENCES[(number * 3 + k * 5) % len(SENTENCES)] for k in range(sentences)]
    return " ".join(f"{s[:-1]} in group {number} of series {k + number}." for k, s in enumerate(chosen))


def two_columns(path: Path, pages: int = 3, encrypt: bool = False) -> list[str]:
    """A journal-like PDF: title over two columns, running head and page number. Returns the paragraphs in order."""
    pdf = pymupdf.open()
    texts = []
    for number in range(pages):
        page = pdf.new_page(width=595, height=842)
        page.insert_text((50, 40), "Journal of Ophthalmic Examples", fontsize=9)
        page.insert_text((290, 815), str(number + 101), fontsize=9)
        top = 70
        if number == 0:
            page.insert_text((60, 90), "Membranes of the macula: a long-term study", fontsize=18)
            top = 130
        for column in range(2):
            left = 50 + column * 260
            text = paragraph(2 * number + column, 7)
            texts.append(text)
            box = pymupdf.Rect(left, top, left + 235, 780)
            assert page.insert_textbox(box, text, fontsize=10) > 0
    options = {"encryption": pymupdf.PDF_ENCRYPT_AES_256, "user_pw": "secret", "owner_pw": "owner"} if encrypt else {}
    pdf.save(path, **options)
    return texts


def scanned(path: Path) -> None:
    """Pages that are pictures."""
    pdf = pymupdf.open()
    for _ in range(2):
        page = pdf.new_page()
        source = pymupdf.open()
        source.new_page().insert_text((72, 72), "Only a picture of text")
        page.insert_image(page.rect, pixmap=source[0].get_pixmap(dpi=40))
    pdf.save(path)


PUBMED = """<?xml version="1.0"?>
<!DOCTYPE PubmedArticleSet PUBLIC "-//NLM//DTD PubMedArticle//EN" "http://dtd.nlm.nih.gov/x.dtd">
<PubmedArticleSet>
{articles}
</PubmedArticleSet>
"""
ARTICLE = """<PubmedArticle><MedlineCitation><PMID Version="1">{pmid}</PMID><Article>
<Journal><JournalIssue><PubDate><Year>2020</Year></PubDate></JournalIssue><Title>Eye Journal</Title></Journal>
<ArticleTitle>Study <i>{pmid}</i> of the retina.</ArticleTitle>
<Abstract><AbstractText Label="PURPOSE">{first}</AbstractText>
<AbstractText Label="RESULTS">{second}</AbstractText></Abstract>
<Language>eng</Language></Article>
<MeshHeadingList><MeshHeading><DescriptorName UI="D1">{mesh}</DescriptorName></MeshHeading></MeshHeadingList>
</MedlineCitation></PubmedArticle>"""


def pubmed_xml(numbers: range, mesh: str = "Retinal Diseases") -> str:
    return PUBMED.format(
        articles="\n".join(
            ARTICLE.format(pmid=10_000 + k, first=paragraph(k), second=paragraph(k + 100), mesh=mesh) for k in numbers
        )
    )
