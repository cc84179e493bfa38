"""Several question sets as one: their train parts mixed for training, their test parts kept apart by `source`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clarion.errors import UsageError
from clarion.llm.jsonl import Item
from clarion.llm.qa import SPLITS, QaData
from clarion.llm.qa_checks import normal


class MixtureData(QaData):
    """parts: name -> question set (a config names each with its class, root and seed); root: where they lie.

    Ids become "<part>/<id>"; the parts' own splits hold. A training or validation question that any part's test asks is
    dropped and counted, so that no test item of one part is trained on through another.
    """

    def __init__(
        self,
        name: str,
        parts: Mapping[str, QaData],
        root: str | None = None,
        seed: int = 0,
        kind: str = "public",
        blind: bool = True,
        explanations: bool = True,
        fold: int | None = None,
    ):
        super().__init__(name, kind, seed, None, blind, explanations, fold)
        if not parts:
            raise UsageError(f"data={name}: data.parts is empty; name at least one question set.")
        if root is None:
            raise UsageError(f"data={name} has no embedded default: add data.root=/folder with {', '.join(parts)}.")
        self.parts = dict(parts)

    def source(self) -> str:
        return "; ".join(part.source() for part in self.parts.values())

    def load(self) -> dict[str, list[Item]]:
        splits = {s: [_named(i, name) for name, p in self.parts.items() for i in p.items[s]] for s in SPLITS}
        self.counts = {name: part.counts for name, part in self.parts.items()}
        held = {normal(item["question"]) for item in splits["test"]}
        for split in ("train", "val"):
            kept = _without(splits[split], held)
            self.counts[f"{split}_asked_by_a_test_dropped"] = len(splits[split]) - len(kept)
            splits[split] = kept
            held |= {normal(item["question"]) for item in kept}
        return splits


def _without(items: Sequence[Item], questions: set[str]) -> list[Item]:
    return [item for item in items if normal(item["question"]) not in questions]


def _named(item: Item, part: str) -> Item:
    return {**item, "id": f"{part}/{item['id']}", "patient_id": f"{part}/{item['patient_id']}"}
