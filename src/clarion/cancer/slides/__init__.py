"""Whole-slide images: reading, tissue, tiles at a target scale, their places in HDF5, stains."""
