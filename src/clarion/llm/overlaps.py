"""What a run does about contamination: it keeps an index of its training texts, and scores without overlaps too."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from clarion.errors import ClarionError, DataError
from clarion.llm.contamination import TrainIndex

log = logging.getLogger("clarion")
FOLDER = "train_index"


def write_index(directory: Path, data: Any, starts: Iterable[Path] = ()) -> None:
    """<directory>/train_index of data.train_texts(), together with the indices of what it started from: checkpoints of
    runs, and merged models that carry an index. A start without one is recorded as unknown.

    Nothing is written where the data have no training texts (a corpus of images, a set for evaluation only)."""
    if not hasattr(data, "train_texts") or not data.splits.get("train"):
        return
    source = {"run": directory.name, "data": data.name, "kind": data.kind, "fingerprint": data.fingerprint()}
    index = TrainIndex.build(data.train_texts(), source)
    for start in dict.fromkeys(Path(s).expanduser().resolve() for s in starts):
        place = index_place(start) or start / FOLDER
        try:
            index = joined(index, TrainIndex.load(place))
        except DataError as error:  # the training is done and stands; what is not known of its start is recorded
            log.warning("%s", error)
            index.about["sources"].append({"run": place.parent.name, "unknown": True})
    index.save(directory / FOLDER)
    log.info("index of %d training texts in %s: %.1f MB", index.about["sources"][0]["texts"], directory / FOLDER,
             index.memory_bytes / 1e6)  # fmt: skip


def given_weights(model: Mapping[str, Any]) -> list[Path]:
    """The folders of a run, or with an index, among those that a model config names: its weights or adapter, and the
    adapter's base."""
    if model.get("engine") == "openai":  # its model.path holds a tokenizer alone
        return []
    named = [Path(str(model[key])).expanduser() for key in ("path", "base") if model.get(key)]
    return [path for path in named if index_place(path) is not None]


def home(checkpoint: Path) -> Path | None:
    """The run directory that a checkpoint lies in, or None for a bare one."""
    return next((p for p in Path(checkpoint).resolve().parents if (p / "manifest.json").is_file()), None)


def index_place(weights: Path) -> Path | None:
    """Where the index of the texts that these weights saw is or ought to be: beside them (a merged model), else in
    their run; None for weights from elsewhere."""
    beside = Path(weights) / FOLDER
    if beside.is_dir():
        return beside
    run = home(weights)
    return None if run is None else run / FOLDER


def copy_index(weights: Iterable[Path], folder: Path) -> None:
    """<folder>/train_index of everything that these weights (an adapter and its base) saw, where it is recorded."""
    found: TrainIndex | None = None
    for one in weights:
        place = index_place(one)
        if place is not None and place.is_dir():
            index = TrainIndex.load(place)
            found = index if found is None else joined(found, index)
    if found is not None:
        found.save(folder / FOLDER)


def joined(index: TrainIndex, other: TrainIndex) -> TrainIndex:
    """Both, each training counted once: an index already holds those of the runs that its own started from."""
    mine, theirs = index.about["sources"], other.about["sources"]
    if all(source in mine for source in theirs):
        return index
    return other if all(source in theirs for source in mine) else index.merge(other)


class Overlaps:
    """The items of one split against what a model was trained on; `apply` adds both to an evaluator's result.

    checkpoints: of the model and of what it was made from; the indices of all are searched. pretrained: its start
    weights came from elsewhere, so what they were trained on is unknown. For data with eval_texts alone; see `of`."""

    def __init__(self, data: Any, split: str, checkpoints: Iterable[Path], pretrained: bool):
        places = dict.fromkeys(place for checkpoint in checkpoints if (place := index_place(checkpoint)) is not None)
        self.index: TrainIndex | None = None
        self.table: pd.DataFrame | None = None
        self.unknown: list[str] = []
        for place in (p for p in places if p.is_dir()):
            try:
                found = TrainIndex.load(place)
            except DataError as error:  # the scores stand without it
                log.warning("%s", error)
                self.unknown.append(f"the index of training texts in run {place.parent.name} cannot be read")
                continue
            self.index = found if self.index is None else joined(self.index, found)
        if self.index is not None:
            self.table = self.index.overlap(data.eval_texts(split))
            self.table["any"] = self.table[["exact", "ngram13", "minhash"]].any(axis=1)
        elif not self.unknown:
            self.unknown.append("no training texts are recorded with this model")
        if self.index is not None and any(source.get("unknown") for source in self.index.about["sources"]):
            self.unknown.append("a run this one started from has no index of its training texts")
        self.phantom = data.kind == "phantom"
        if pretrained:
            self.unknown.append("pre-training data unknown: overlap with them cannot be searched")

    @classmethod
    def of(cls, data: Any, split: str, checkpoint: Path, model: Mapping[str, Any]) -> Overlaps | None:
        """None where the question does not arise: another task, or data that give no texts."""
        if data.task != "generation" or not hasattr(data, "eval_texts"):
            return None
        # model=hf_causal model.path=RUN/checkpoints/best: the weights are of another run
        return cls(data, split, [checkpoint, *given_weights(model)], pretrained=model.get("weights") != "random")

    def apply(
        self,
        result: dict[str, Any],
        evaluate: Callable[[pd.DataFrame, pd.DataFrame, Mapping[str, Any]], dict],
        predictions: pd.DataFrame,
        truth: pd.DataFrame,
        context: Mapping[str, Any],
    ) -> None:
        """Add "contamination" (counts and sources), "clean" (n and metrics of the items without overlap) and a note.

        evaluate: the evaluator that made `result`; it scores the clean items again, joined by id."""
        notes = result.setdefault("notes", [])
        if self.table is None:
            result["contamination"] = {"n": len(truth), "index": None, "unknown": self.unknown}
            notes.append(f"Contamination: {'; '.join(self.unknown)}.")
            return
        mine = self.table[self.table["sample_id"].isin(set(truth["sample_id"]))]
        counts = {
            name: int(mine[name].sum()) for name in ("exact", "ngram13", "minhash", "any", "boilerplate", "short")
        }
        result["contamination"] = (
            {"n": len(mine)}
            | counts
            | {"ngram_share": float(mine["ngram_share"].mean()) if len(mine) else None}
            | {"index": self.index.about["sources"], "unknown": self.unknown}
        )
        keep = set(mine.loc[~mine["any"], "sample_id"])
        notes.append(self._sentence(result["contamination"]))
        if not counts["any"]:
            result["clean"] = {"n": len(mine), "metrics": result["metrics"]}
            return
        if not keep:
            result["clean"] = {"n": 0, "metrics": {}}
            return
        chosen = predictions[predictions["sample_id"].isin(keep)], truth[truth["sample_id"].isin(keep)]
        try:
            part = (table.reset_index(drop=True) for table in chosen)
            again = evaluate(*part, {**context, "full_truth": truth})  # a method is chosen for the whole
            result["clean"] = {"n": len(keep), "metrics": again["metrics"]}
        except ClarionError as error:  # such as no item of this evaluator's kind left
            result["clean"] = {"n": len(keep), "metrics": {}}
            notes.append(f"The items without overlap could not be scored alone: {error}")

    def _sentence(self, found: Mapping[str, Any]) -> str:
        unknown = f" {'; '.join(self.unknown)}." if self.unknown else ""
        if not found["any"]:
            text = f"Contamination: none of {found['n']} items overlaps with the recorded training texts."
        else:
            text = (
                f"Contamination: {found['any']} of {found['n']} items overlap with the recorded training texts "
                f"({found['exact']} exact, {found['ngram13']} by a run of 13 words, {found['minhash']} near copies); "
                f"`clean` holds the scores of the other {found['n'] - found['any']}."
            )
        if found["boilerplate"]:
            text += (
                f" {found['boilerplate']} more share only 13 words that stand in more than {self.index.boilerplate} "
                "training documents (boilerplate)."
            )
        if found["short"]:
            text += f" {found['short']} are too short for 13 words and were compared whole."
        if self.index.rate > 1:
            text += f" The index holds one of {self.index.rate} runs of 13 words: a short shared run may be missed."
        if self.phantom and found["any"]:
            text += (
                " Phantom items are written from templates: shared runs of words are expected, exact copies are not."
            )
        return text + (unknown[:1] + unknown[1:2].upper() + unknown[2:] if unknown else "")
