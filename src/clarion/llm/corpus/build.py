"""The build of a corpus: tasks through the workers, duplicates out, long documents summarised, shards and card written.

OUT/documents-00000.jsonl ...   one document a line: id, text, title, source, patient_id, format, licence, ...
OUT/duplicates.jsonl            which document repeats which row of the corpus, and how much
OUT/card.json card.md           what it is made of, what was left out and why
OUT/manifest.json               written last: its presence means complete
OUT/work                        state of an unfinished build, from which --resume goes on
"""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
import sys
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clarion.data.filecache import digest_files
from clarion.data.fingerprint import fingerprint_items
from clarion.data.pseudonym import pseudonyms, write_mapping
from clarion.errors import DataError, UsageError
from clarion.llm.corpus import card
from clarion.llm.corpus.dedup import Deduplicator
from clarion.llm.corpus.pool import Pool
from clarion.llm.corpus.shards import Appended, Shards
from clarion.llm.corpus.sources import InputFile, list_files, tasks
from clarion.llm.corpus.summaries import Generate, summarise
from clarion.llm.corpus.tally import Tally
from clarion.llm.corpus.tokens import counter
from clarion.llm.corpus.worker import Finished, Result, peak_mb
from clarion.record import environment, now, read_json, to_json, write_atomic

log = logging.getLogger(__name__)
VERSION = "2"  # raise when the same settings give other documents: an older unfinished build is not continued
EXAMPLES = 50  # problems that the card of a public corpus names


def build(
    spec: Mapping[str, Any],
    out: Path,
    resume: bool = False,
    tokenizer: Path | None = None,
    generate: Generate | None = None,
) -> dict[str, Any]:
    """Build a corpus from a checked conf (spec.load). Returns its manifest.

    tokenizer: a tokenizer.json that counts tokens, None to count words; generate: writes the summaries of documents
    above summaries.above_tokens (conversations -> answers), None to keep them whole.
    Raises UsageError for a folder that holds another or an unfinished build, DataError when no document is left.
    """
    if spec["pii"]["mode"] != "off" and spec["pii"]["ner"]:
        from clarion.llm.corpus.pii.ner import check

        check(spec["pii"]["ner"])
    out = Path(out).expanduser().resolve()
    out.mkdir(parents=True, exist_ok=True)
    files = list_files(spec["sources"])
    generator = getattr(generate, "identity", None) if generate else None
    identity = _identity(spec, files, tokenizer, generator)
    with open(out / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"{out} is being written by another build: wait for it, or use --out OTHER.") from None
        if manifest := read_json(out / "manifest.json"):
            if manifest["identity"] == identity:
                shutil.rmtree(out / "work", ignore_errors=True)  # left by a kill in the last moment
                log.info("%s is complete: skipped (delete it or use --out OTHER to build again).", out)
                return manifest | {"skipped": True}
            raise UsageError(f"{out} holds another corpus ({manifest['name']}): use --out OTHER, or delete it.")
        state = read_json(out / "work" / "state.json")
        if state and not resume:
            raise UsageError(
                f"{out} holds an unfinished build ({state['tally']['tasks']} tasks done): add --resume to go on, "
                "--out OTHER for another, or delete the folder."
            )
        if state and state["identity"] != identity:
            raise UsageError(
                f"{out}: the settings, the input files or Clarion changed since the unfinished build: restore them to "
                "go on with --resume, or use --out OTHER."
            )
        return _Build(spec, out, files, identity, tokenizer, generate).run(state)


def _identity(spec: Mapping[str, Any], files: list[InputFile], tokenizer: Path | None, generator: Any) -> str:
    """Settings (not the number of workers, which changes nothing), inputs by content, tokenizer and generator."""
    settings = {k: v for k, v in spec.items() if k not in ("workers", "sources")}
    settings["output"] = {"shard_mb": spec["output"]["shard_mb"]}
    sources = [{k: v for k, v in source.items() if k != "path"} for source in spec["sources"]]
    digests = digest_files([file.path for file in files])
    items = {f"{file.source}/{file.name}": digests[file.path] for file in files}
    texts = {"settings": settings, "sources": sources, "generator": generator, "version": VERSION}
    counted = tokenizer.read_text(encoding="utf-8") if tokenizer else "words"
    return fingerprint_items(
        items | {"\0tokenizer": counted, "\0conf": json.dumps(texts, sort_keys=True, ensure_ascii=False, default=str)}
    )


class _Build:
    def __init__(self, spec, out: Path, files: list[InputFile], identity: str, tokenizer: Path | None, generate):
        self.spec, self.out, self.files, self.identity = spec, out, files, identity
        self.work = out / "work"
        self.tokenizer, self.generate = str(tokenizer) if tokenizer else None, generate
        self.count = counter(self.tokenizer)
        self.dedup = Deduplicator(spec["dedup"], self.work)
        self.shards = Shards(out, self.work, spec["output"]["shard_mb"] * 1e6)
        self.duplicates = Appended(self.work / "duplicates.jsonl")
        self.tally = Tally()
        self.ids: set[int] = set()
        self.worker_mb = 0.0
        self.hidden: dict[str, str] | None = None  # file -> pseudonym, once a private one must be named
        self.began = self.committed = time.monotonic()

    def run(self, state: dict[str, Any]) -> dict[str, Any]:
        self.tally = Tally.of(state["tally"]) if state else Tally()
        self.dedup.start(self.tally.documents)
        self.dedup.capped = self.tally.near_candidates_capped
        self.shards.start(*(state["shard"] if state else (0, 0)))
        if (finished := self.out / "duplicates.jsonl").exists():  # a build that was killed while it finished
            finished.replace(self.duplicates.path)
        self.duplicates.start(state["duplicates"] if state else 0)
        self.ids = {hash(name) for name in self.shards.ids()}
        if state:
            log.info("resumed: %d tasks are done, %d documents written", self.tally.tasks, self.tally.documents)
        before = sum(self.tally.read.values()), self.tally.characters_read
        self._commit()
        secret = _secret(self.spec)
        todo = islice(tasks(self.files, self.spec["sources"], self.spec["extract"]), self.tally.tasks, None)
        try:
            with (
                Pool(self.spec, self.tokenizer, secret) as pool,
                tqdm(unit=" documents", desc="corpus", file=sys.stderr) as bar,
            ):
                for result in pool(todo):
                    self._take(result)
                    bar.update(sum(result.read.values()))
                    if time.monotonic() - self.committed >= self.spec["output"]["commit_s"]:
                        self._commit()
        except KeyboardInterrupt:
            log.info("interrupted: the same command with --resume goes on")
            raise
        return self._finish(*before)

    # -- one task's result

    def _take(self, result: Result) -> None:
        tally = self.tally
        tally.tasks += 1
        self.worker_mb = max(self.worker_mb, result.peak_mb)
        tally.characters_read += result.characters
        for name in ("read", "dropped", "languages_dropped"):
            getattr(tally, name).update(getattr(result, name))
        for problem in result.problems:
            tally.problems[problem.reason] += 1
            log.warning("%s %s", self._shown(problem.name), problem.text)
            if self.spec["kind"] == "public" and len(tally.problem_examples) < EXAMPLES:
                tally.problem_examples.append(f"{problem.name} {problem.text}")
        for finished in result.finished:
            self._place(finished)

    def _shown(self, name: str) -> str:
        """How a message names a file: a private one by its number and pseudonym, because names of files may be a
        patient's and messages end up in logs. The way back is in the cache (clarion.data.pseudonym)."""
        if self.spec["kind"] == "public":
            return name
        if self.hidden is None:
            self.hidden = pseudonyms({file.name for file in self.files}, "F")
            scope = "corpus-files-" + self.identity[:12]
            log.warning("private files are named by number and pseudonym; %s says which they are",
                        write_mapping(scope, {"file": self.hidden}).name)  # fmt: skip
        number = next((k for k, file in enumerate(self.files, 1) if file.name == name), 0)
        return f"file {number} of {len(self.files)} ({self.hidden[name]})"

    def _place(self, finished: Finished) -> None:
        """Drop a duplicate, else summarise what is too long and write the row."""
        row, tally = finished.row, self.tally
        if finished.row["tokens"] > self.spec["summaries"]["above_tokens"] and self.generate is None:
            tally.summaries["above_limit_kept_whole"] += 1
        kind, number, similarity = self.dedup.check(finished.fingerprint)
        tally.near_candidates_capped = self.dedup.capped
        if kind:
            tally.dropped[f"{kind}_duplicate"] += 1
            self.duplicates.write({"id": row["id"], "row": number, "kind": kind, "jaccard": round(similarity, 4)})
            return
        if self.generate is not None and row["tokens"] > self.spec["summaries"]["above_tokens"]:
            self._summarise(row)
        row["id"] = self._unique(row["id"])
        self.shards.write(row)
        tally.written[row["source"]] += 1
        tally.characters_written += len(row["text"])
        tally.tokens += row["tokens"]
        tally.words += len(row["text"].split())
        tally.formats[row["format"]] += 1
        tally.licences[row["licence"]] += 1
        tally.languages[row.get("language", "not determined")] += 1
        tally.pii.update(row.get("pii_removed", {}))
        tally.documents_with_pii += "pii_removed" in row

    def _summarise(self, row: dict[str, Any]) -> None:
        log.info("summarising a document of %d tokens", row["tokens"])
        text, report = summarise(row["text"], self.generate, self.count, self.spec["summaries"])
        if not text:
            self.tally.summaries["failed_kept_whole"] += 1
            return
        row |= {"text": text, "summarised": True, "tokens_before": row["tokens"], "tokens": self.count(text)}
        if report["truncated"]:
            row["summary_truncated"] = True
            self.tally.summaries.update({"documents_truncated": 1, "truncated_answers": report["truncated"]})
        self.tally.summaries.update({"documents": 1, "chunks": report["chunks"], "empty_answers": report["empty"],
                                     "tokens_in": row["tokens_before"], "tokens_out": row["tokens"]})  # fmt: skip

    def _unique(self, name: str) -> str:
        """Two records may carry one identifier (versions of an article): the later ones get -2, -3, ..."""
        unique, number = name, 1
        while hash(unique) in self.ids:
            number += 1
            unique = f"{name}-{number}"
        self.ids.add(hash(unique))
        return unique

    # -- state

    def _commit(self) -> None:
        """What was done so far survives a kill: data first, then the state that speaks of it."""
        self.dedup.flush()
        self.shards.current.flush()
        self.duplicates.flush()
        state = {
            "identity": self.identity,
            "tally": self.tally.plain(),
            "shard": [self.shards.number, self.shards.current.size],
            "duplicates": self.duplicates.size,
        }
        write_atomic(self.work / "state.json", to_json(state))
        self.committed = time.monotonic()

    def _peak_mb(self) -> dict[str, float]:
        """Peaks of the processes, MB resident; together: as if all had theirs at one moment, the upper bound.

        workers=0 works in the main process, whose peak is then all there is."""
        main, workers = peak_mb(), self.spec["workers"]
        found = {"main": main, "largest_worker": self.worker_mb, "together": main + workers * self.worker_mb}
        return {name: round(value, 1) for name, value in found.items()}

    def _finish(self, read_before: int, characters_before: int) -> dict[str, Any]:
        tally = self.tally
        if not tally.documents:
            for part in (self.dedup, self.duplicates, self.shards.current):
                part.close()
            shutil.rmtree(self.work)
            raise DataError(_empty(len(self.files), tally))
        self._commit()
        self.shards.finish()
        self.dedup.close()
        self.duplicates.close()
        self.duplicates.path.replace(self.out / "duplicates.jsonl")
        shards = sorted(self.out.glob("documents-*.jsonl"))
        seconds = time.monotonic() - self.began
        identity = getattr(self.generate, "identity", None) if self.generate else None
        made = card.card(self.spec, tally, shards, self.identity, len(self.files), self.tokenizer, identity)
        write_atomic(self.out / "card.json", to_json(made))
        write_atomic(self.out / "card.md", card.markdown(made))
        read = sum(tally.read.values()) - read_before
        megabytes = (tally.characters_read - characters_before) / 1e6
        manifest = {
            "name": self.spec["name"],
            "identity": self.identity,
            "fingerprint": made["fingerprint"],
            "documents": tally.documents,
            "documents_read": sum(tally.read.values()),
            "tokens": tally.tokens,
            "shards": [shard.name for shard in shards],
            "finished": now(),
            "seconds": round(seconds, 2),
            "documents_per_s": round(read / seconds, 1),
            "megacharacters_per_s": round(megabytes / seconds, 3),
            "peak_mb": self._peak_mb(),
            "workers": self.spec["workers"],
            **environment(),
        }
        write_atomic(self.out / "manifest.json", to_json(manifest))
        shutil.rmtree(self.work)
        log.info(
            "%d documents read, %d written (%d tokens) in %.1f s: %.0f documents/s, %.2f million characters/s, "
            "peak memory %.0f MB (main) + %.0f MB (largest worker), at most %.0f MB together",
            sum(tally.read.values()), tally.documents, tally.tokens, seconds, manifest["documents_per_s"],
            manifest["megacharacters_per_s"], *manifest["peak_mb"].values(),
        )  # fmt: skip
        return manifest


def _secret(spec: Mapping[str, Any]) -> str:
    """What pseudonyms, surrogates and date shifts of a build derive from: of a public corpus the seed, so that anybody
    builds the same one; of a private one the machine's pseudonym key (clarion.data.pseudonym), which nobody has."""
    if spec["kind"] == "public":
        return f"public-{spec['seed']}"
    return "".join(pseudonyms([f"corpus key {k} {spec['seed']}" for k in range(4)], "C").values())


def _empty(files: int, tally: Tally) -> str:
    reasons = [f"{n} {reason}" for reason, n in (tally.problems + tally.dropped).most_common()]
    why = ", ".join(reasons) or "they hold no documents"
    return f"empty corpus: {files} files gave no document ({why}): see the messages above and the filters of the conf."
