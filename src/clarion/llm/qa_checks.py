"""Checks of question sets before the first step: leaks between splits, blanks, options and answers that are wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clarion.data.integrity import IntegrityReport, check_patients
from clarion.llm.jsonl import Item
from clarion.llm.options import MOST, plain, repeated
from clarion.llm.text_words import words

MIN_LEAK_WORDS = 4  # shorter answers ("no", "Stage 3") occur in a question by chance


def normal(text: str) -> str:
    """The words of a text with single blanks: how two texts are compared for being the same."""
    return " ".join(words(text))


def question_key(item: Item) -> str:
    """What makes two items the same question: system prompt, question, context and the set of options."""
    options = "\0".join(sorted(plain(option) for option in item.get("options") or []))
    return "\0".join(
        [normal(item.get("system", "")), normal(item["question"]), normal(item.get("context", "")), options]
    )


def check_items(splits: Mapping[str, Sequence[Item]]) -> IntegrityReport:
    """Patients (documents) and questions in two splits, repeated ids, empty texts and wrong options stop the run;
    duplicates inside a split, options that repeat and answers that stand in their question are warnings."""
    report = IntegrityReport()
    rows = [(split, item) for split, items in splits.items() for item in items]
    ids = {split: [item["id"] for item in items] for split, items in splits.items()}
    check_patients(report, ids, {item["id"]: item["patient_id"] for _, item in rows})

    def listed(items: list[str]) -> list[tuple[str, str]]:
        return [(i, i) for i in items]

    for field in ("question", "answer"):
        empty = [item["id"] for _, item in rows if not item[field].strip()]
        report.error(f"empty_{field}", f"items have an empty {field}; fill or remove them", listed(empty))
    _check_duplicates(report, rows)
    choices = [item for _, item in rows if item.get("options")]
    wrong = [i["id"] for i in choices if not _answers(i)]
    report.error(
        "options_wrong", f"items need 2 to {MOST} options, one of which (answer_index) is the answer", listed(wrong)
    )
    same = [i["id"] for i in choices if repeated(i["options"])]
    report.warning("options_repeated", "two options of an item say the same, so no model can tell them", listed(same))
    leaked = [
        item["id"]
        for _, item in rows
        if len(normal(item["answer"]).split()) >= MIN_LEAK_WORDS
        and f" {normal(item['answer'])} " in f" {normal(item['question'])} "
    ]
    report.warning("answer_in_question", "the answer stands word for word in the question", listed(leaked))
    return report


def _answers(item: Item) -> bool:
    index, options = item.get("answer_index", -1), item["options"]
    return 2 <= len(options) <= MOST and 0 <= index < len(options) and options[index] == item["answer"]


def _check_duplicates(report: IntegrityReport, rows: list[tuple[str, Item]]) -> None:
    first: dict[str, tuple[str, str]] = {}
    across, within = [], []
    for split, item in rows:
        key = question_key(item)
        if key not in first:
            first[key] = (split, item["id"])
        elif first[key][0] != split:
            across.append(f"{first[key][1]} ({first[key][0]}) = {item['id']} ({split})")
        else:
            within.append(f"{first[key][1]} = {item['id']} ({split})")
    message = "the same question is in two splits; keep it in one, or the score measures memory"
    report.error("duplicate_across_splits", message, [(text, text) for text in across])
    message = "the same question occurs twice in one split; it counts double"
    report.warning("duplicate", message, [(text, text) for text in within])
