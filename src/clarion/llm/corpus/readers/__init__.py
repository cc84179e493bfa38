"""Readers of the input formats: PDF, JATS and PubMed XML, JSON records, text, Markdown and HTML -> Document."""
