"""Corpora: PDFs, PubMed XML and JSON, text, Markdown and HTML -> cleaned, de-identified, de-duplicated documents."""
