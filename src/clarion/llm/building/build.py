"""Documents -> train.jsonl, val.jsonl, test.jsonl of validated questions, and a card that counts what was dropped."""

from __future__ import annotations

import json
import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from clarion.data.splits import patient_order
from clarion.errors import DataError, UsageError
from clarion.llm.building.asking import PROMPTS_VERSION, Passage, document_files, read_passages, request, request_key
from clarion.llm.building.replies import Replies, fields, read_reply
from clarion.llm.building.settings import BuildSettings
from clarion.llm.building.validation import REASONS, Dropped, validate
from clarion.llm.jsonl import Item
from clarion.llm.near_texts import distinct
from clarion.llm.prompts import LETTERS, Message
from clarion.llm.sources.common import split_documents
from clarion.llm.text_hashes import shingles, word_hashes
from clarion.record import to_json, write_atomic

log = logging.getLogger(__name__)
_PLACES = re.compile(
    r"\b(?:of the above|both|neither|options? \(?[A-E]\b|[A-E] (?:and|or|is|are) )|\([A-E]\)|^[A-E]\b|위의", re.M
)
SHINGLE = 3  # words by which questions are compared
Generate = Callable[[list[list[Message]]], list[str]]


def build_instructions(settings: BuildSettings, generate: Generate, out: Path) -> dict[str, Any]:
    """Ask, validate, drop near copies, split by document, write; returns the card (also out/card.json).

    generate: conversations -> replies in order; its attribute `identity` (a dict) goes into the card and the cache,
    `truncated` (a list of bool, of its last call) into the card.
    Replies are kept in out/replies.jsonl, so that the same command goes on after a stop and repeats no question.
    Raises UsageError for settings that cannot work, DataError where no question is left or too few documents have any
    to fill the splits (card.json is written all the same)."""
    files = document_files(str(settings.documents))
    asked = list(read_passages(files, settings))
    documents, patients = {p.document for p in asked}, {p.patient for p in asked}
    wanted = [name for name, share in settings.splits.items() if share > 0]
    if not asked:
        raise DataError(f"{settings.documents} holds no passage of {settings.least_words} words; lower least_words.")
    if len(patients) < len(wanted):
        units = f"{len(patients)} patients" if len(patients) < len(documents) else f"{len(documents)} document(s)"
        raise UsageError(f"{units} cannot fill {', '.join(wanted)}: give more, or other splits.")
    out.mkdir(parents=True, exist_ok=True)
    identity = dict(getattr(generate, "identity", {}))
    replies, counts = _ask(asked, settings, generate, identity, out)
    drops: dict[str, Counter] = {kind: Counter() for kind in settings.kinds}
    items = list(_valid(replies, settings, drops))
    made = Counter(item["kind"] for item in items)
    items = _without_copies(items, settings, drops)
    card: dict[str, Any] = {
        "documents": len(documents),
        "patients": len(patients),
        "passages": len(asked),
        "requests": len(replies),
        **counts,
        "valid": {kind: made[kind] for kind in settings.kinds},
        "kept": {kind: sum(i["kind"] == kind for i in items) for kind in settings.kinds},
        "dropped": {kind: {r: drops[kind][r] for r in REASONS if drops[kind][r]} for kind in settings.kinds},
        "reasons": {r: REASONS[r] for r in REASONS if any(d[r] for d in drops.values())},
        "answer_letters": dict(sorted(Counter(LETTERS[i["answer_index"]] for i in items if i.get("options")).items())),
        "generator": identity,
        "prompts": PROMPTS_VERSION,
        "settings": {
            k: list(v) if isinstance(v, tuple) else v
            for k, v in vars(settings).items()
            if k not in ("generator", "documents")
        },
        "kind": settings.data_kind,
    }
    for stale in ("train", "val", "test"):
        (out / f"{stale}.jsonl").unlink(missing_ok=True)
    write_atomic(out / "card.json", to_json(card))
    groups = len({i["patient_id"] for i in items})
    if groups < len(wanted):
        why = "; ".join(f"{n} {REASONS[r]}" for r, n in sum(drops.values(), Counter()).most_common(3))
        raise DataError(
            f"valid questions are left of {groups} document(s) or patients, too few for {', '.join(wanted)} ({why}); "
            "see card.json; take a better generator or more documents."
        )
    splits = split_documents(items, settings.splits, settings.seed)
    for split, rows in splits.items():
        if rows:
            text = "".join(json.dumps(_row(item), ensure_ascii=False) + "\n" for item in rows)
            write_atomic(out / f"{split}.jsonl", text)
    card["splits"] = {
        split: {
            "items": len(rows),
            "documents": len({i["document"] for i in rows}),
            "patients": len({i["patient_id"] for i in rows}),
        }
        for split, rows in splits.items()
    }
    write_atomic(out / "card.json", to_json(card))
    return card


def _ask(
    asked: list[Passage], settings: BuildSettings, generate: Generate, identity: dict[str, Any], out: Path
) -> tuple[list[tuple[Passage, str, str]], dict[str, int]]:
    """(passage, kind, reply) of every request, in their order; how many replies were there already, and how many were
    cut off at the token limit."""
    from tqdm import tqdm

    store = Replies(out)
    requests = [(p, kind, request(p, kind, settings)) for p in asked for kind in settings.kinds]
    keys = [request_key(messages, identity) for _, _, messages in requests]
    missing = {key: messages for key, (_, _, messages) in zip(keys, requests, strict=True) if key not in store.known}
    reused = len(keys) - len(missing)
    with tqdm(total=len(missing), desc="ask", unit="request") as bar:
        pending = iter(missing.items())
        while batch := dict(islice(pending, settings.batch)):
            answers = generate(list(batch.values()))
            if len(answers) != len(batch):
                raise DataError(f"the generator gave {len(answers)} answers to {len(batch)} requests.")
            cut = getattr(generate, "truncated", None) or [False] * len(batch)
            store.add(dict(zip(batch, answers, strict=True)), [key for key, c in zip(batch, cut, strict=True) if c])
            bar.update(len(batch))
    return [(p, kind, store.known[key]) for (p, kind, _), key in zip(requests, keys, strict=True)], {
        "replies_reused": reused,
        "replies_truncated": len(store.truncated & set(keys)),
    }


def _valid(
    replies: Iterable[tuple[Passage, str, str]], settings: BuildSettings, drops: dict[str, Counter]
) -> Iterable[Item]:
    for passage, kind, text in replies:
        records = read_reply(text)
        if records is None:
            drops[kind]["no_json"] += 1
            continue
        for number, record in enumerate(records):
            try:
                item = validate(fields(record), kind, passage.text, settings.grounded)
            except Dropped as drop:
                drops[kind][drop.reason] += 1
                continue
            identifier = f"{passage.document}-{passage.number}-{kind}-{number}"
            item |= {"id": identifier, "document": passage.document, "patient_id": passage.patient}
            item["source"] = passage.title
            yield _shuffled(item, settings.seed) if kind == "mcqa" else item


def _shuffled(item: Item, seed: int) -> Item:
    """Options in an order drawn from seed and id, because generators favour the first letters as the right one; left
    as they are where an option or the explanation speaks of letters or of "the above"."""
    if any(_PLACES.search(text) for text in (*item["options"], item.get("explanation", ""))):
        return item
    options = list(item["options"])
    random.Random(f"{seed} {item['id']}").shuffle(options)
    return item | {"options": options, "answer_index": options.index(item["answer"])}


def _without_copies(items: list[Item], settings: BuildSettings, drops: dict[str, Counter]) -> list[Item]:
    """Questions of a kind that resemble none kept before them. The order is drawn from the seed by document, so that
    what is kept does not lean to the file's first documents."""
    place = {d: k for k, d in enumerate(patient_order({i["patient_id"] for i in items}, settings.seed))}
    kept: list[Item] = []
    for kind in settings.kinds:
        mine = sorted((i for i in items if i["kind"] == kind), key=lambda i: place[i["patient_id"]])
        keep = distinct((shingles(word_hashes(i["question"]), SHINGLE) for i in mine), settings.near)
        kept += [item for item, good in zip(mine, keep, strict=True) if good]
        drops[kind]["near_duplicate"] += int((~keep).sum())
    return kept


def _row(item: Item) -> dict[str, Any]:
    """An item in the published columns, as data=instruct_jsonl reads it."""
    row = {k: item[k] for k in ("id", "patient_id", "kind", "source", "question") if item.get(k)}
    for letter, option in zip(LETTERS, item.get("options") or [], strict=False):
        row[f"option_{letter.lower()}"] = option
    row["answer"] = LETTERS[item["answer_index"]] if item.get("options") else item["answer"]
    return row | ({"explanation": item["explanation"]} if item.get("explanation") else {})
