"""Public question sets as data objects: MedMCQA, PubMedQA, MedQuAD, Medical Meadow, and mixtures of them."""
