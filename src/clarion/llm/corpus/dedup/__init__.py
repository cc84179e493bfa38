"""Exact and near duplicates: hashed word shingles, MinHash bands to find candidates, their Jaccard index to decide."""
