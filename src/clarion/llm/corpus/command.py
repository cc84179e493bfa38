"""`clarion corpus build CONF`: from the conf's name to the manifest. What opens models is handed in."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clarion.llm.corpus import spec as specs
from clarion.llm.corpus.summaries import Generate


def build_from_conf(
    conf: str,
    out: str | None,
    resume: bool,
    overrides: list[str],
    open_generator: Callable[[Any, str, str], Generate | None],
    tokenizer_file: Callable[[str, str], Path],
) -> tuple[dict[str, Any], Path]:
    """(manifest, folder). open_generator(spec, where, data_kind) and tokenizer_file(name, where): clarion.generating.

    Every mistake in the conf comes before anything is opened."""
    spec = specs.load(specs.find(conf), overrides)
    generate = open_generator(spec["summaries"]["generator"], "summaries.generator", spec["kind"])
    tokenizer = None if spec["tokens"] == "words" else tokenizer_file(spec["tokens"], "tokens")
    name = re.sub(r"[^\w.-]+", "_", spec["name"])
    folder = Path(out).expanduser() if out else Path(f"corpus-{name}")
    from clarion.llm.corpus.build import build

    return build(spec, folder, resume, tokenizer, generate), folder
