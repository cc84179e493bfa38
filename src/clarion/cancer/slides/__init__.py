"""Whole-slide images: reading (reader), tissue (tissue), tiles at a target scale (tiles), their places in HDF5 (store)."""
