"""Config nodes as plain Python, for trainers that store them or hand them to a library."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf


def plain(node: Any) -> Any:
    """A DictConfig / ListConfig with its interpolations resolved -> dict / list; anything else unchanged."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
