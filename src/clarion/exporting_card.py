"""The model card of an exported model, from what its run recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clarion.record import RunRecord

USE = {
    "detection": "find structures on retinal B-scans",
    "classification": "sort retinal B-scans into classes",
    "layers": "delineate retinal surfaces",
    "presence": "mark where along a B-scan an epiretinal membrane lies",
    "survival": "rank patients by risk",
    "generation": "answer questions on findings",
}
KINDS = {"phantom": "simulated images or tables with known truth, no patient", "public": "a published data set",
         "private": "data of the user, not described further"}  # fmt: skip


def model_card(record: RunRecord, info: Mapping[str, Any]) -> str:
    """Markdown with the hub's front matter."""
    metrics, manifest, cfg = record.metrics(), record.manifest(), record.config()
    card = metrics.get("data_card") or {}
    agpl = cfg.trainer.name == "ultralytics"
    lines = [
        "---",
        f"license: {'agpl-3.0' if agpl else 'other'}",
        f"tags: [clarion, {info['task']}, {info['format']}]",
        "---",
        "",
        f"# {info['model']}, exported as {info['format']}",
        "",
        f"From Clarion's run `{info['run']}`, checkpoint `{info['checkpoint_hash'][:16]}`. Read again by "
        f"{info['checked_by']}, it differs from the checkpoint by at most {info['max_difference']:.2g} on "
        f"{info['compared_samples']} samples of {info['compared_split']} (tolerance {info['tolerance']:g}"
        + (f"; {info['difference_of']}" if info.get("difference_of") else "")
        + ").",
        "",
        "## Inputs and outputs",
        "",
        *(f"- `{n}`: {x['dtype']} {x['shape']}{_meaning(info, n)}" for n, x in (info.get("inputs") or {}).items()),
        *(f"- gives `{n}`{_meaning(info, n)}" for n in info.get("outputs") or []),
        *([f"- opset {info['opset']}; named axes are free"] if info.get("opset") else []),
        *([f"- {info['formula']}"] if info.get("formula") else []),
        "- names, scales and settings: `facts` in export.json",
        "",
        "## Data",
        "",
        f"- {metrics['data']}: **{metrics['data_kind']}** ({KINDS.get(metrics['data_kind'], 'of unknown kind')})",
        *([f"- {card['source']}"] if card.get("source") else []),
        f"- samples: {', '.join(f'{n} {s}' for s, n in (manifest.get('data') or {}).get('counts', {}).items())}",
        f"- fingerprint `{str((manifest.get('data') or {}).get('fingerprint'))[:16]}`",
        "",
        f"## Results on {metrics['split']}",
        "",
        "| evaluator | metric | value | 95 % interval | n | patients | baseline |",
        "|---|---|---|---|---|---|---|",
        *_rows(metrics),
        "",
        f"Intervals are bootstraps over patients, as recorded; seed {metrics['seed']}, {metrics.get('device')}.",
        "",
        "## Intended use",
        "",
        f"Research: to {USE.get(str(info['task']), 'compute what it was trained for')}, on data like those above.",
        "",
        "## Limits",
        "",
        *_limits(metrics),
        "",
        "## Licence",
        "",
        *_licence(cfg, agpl),
        "",
    ]
    return "\n".join(lines)


def _meaning(info: Mapping[str, Any], name: str) -> str:
    said = (info.get("meaning") or {}).get(name)
    return f": {said}" if said else ""


def _rows(metrics: Mapping[str, Any]) -> list[str]:
    rows = []
    for evaluator, result in metrics["evaluators"].items():
        for name, entry in result.get("metrics", {}).items():
            if entry.get("value") is None:
                continue
            base = (result.get("baseline") or {}).get(name) or {}
            beside = f"{base['value']:.3g} ({base.get('name')})" if base.get("value") is not None else ""
            interval = f"{entry['low']:.3g} to {entry['high']:.3g}" if entry.get("low") is not None else ""
            rows.append(f"| {evaluator} | {name} | {entry['value']:.3g} | {interval} | {entry.get('n') or ''} | "
                        f"{entry.get('n_patients') or ''} | {beside} |")  # fmt: skip
    return rows


def _limits(metrics: Mapping[str, Any]) -> list[str]:
    lines = ["- Not a medical device: no figure of it may guide the care of a patient."]
    if metrics["data_kind"] == "phantom":
        lines.append("- Trained and measured on simulated data alone: nobody has measured it on patients.")
    else:
        lines.append("- Measured on one data set: other devices, sites and populations may differ.")
    notes = [n for r in metrics["evaluators"].values() for n in r.get("notes") or []]
    return lines + [f"- {note}" for note in dict.fromkeys(notes)]


def _licence(cfg: Any, agpl: bool) -> list[str]:
    if agpl:
        return ["**AGPL-3.0**: network and exporter are ultralytics'. A product or service that includes this file "
                "falls under the AGPL's terms, or needs an Ultralytics licence."]  # fmt: skip
    weights = cfg.model.get("weights")
    base = f" They start from {weights}, whose licence applies." if weights and cfg.trainer.name == "sft" else ""
    return [f"The weights belong to whoever trained them, within the terms of the training data.{base} Clarion's code "
            "is MIT."]  # fmt: skip
