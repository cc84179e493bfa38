"""Fusion of slide and omics into a language model: soft tokens, prompts, the data of a run, modality ablations."""
