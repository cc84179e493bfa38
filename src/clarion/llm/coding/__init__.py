"""Text to ICD-10-CM codes: rules (codes, titles, synonyms, negation, laterality) first, sentence embeddings after."""
