"""Code systems of medicine: which codes exist, how they nest, and how far two sets of them agree."""
