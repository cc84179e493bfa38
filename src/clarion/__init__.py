"""Clarion: medical images and tables -> measured findings -> language models that reason over them."""

__version__ = "0.1.0"
