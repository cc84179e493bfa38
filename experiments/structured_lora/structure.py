"""What the adapters of recorded runs look like: share of ||dW||^2 inside the declared structure, effective rank.

    python experiments/structured_lora/structure.py runs/smollm2_135m_structured-* runs/smollm2_135m_plain_matched-*

Prints a markdown table from the runs' checkpoints/best/clarion.json; runs no model.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def row(run: Path) -> str | None:
    file = run / "checkpoints" / "best" / "clarion.json"
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    found = record.get("structure")
    if not found:
        return None
    share, rank = found["share_inside"], found["effective_rank"]
    ranks = sorted({layer["rank"] for layer in found["by_layer"]})
    loss = record.get("loss", {}).get("val", {})
    return (
        f"| {found['variant']} | {found['parameters']:,} | {found['layers']} | "
        f"{ranks[0]}-{ranks[-1]} | {share:.6f} | {rank:.2f} | {loss.get('first', float('nan')):.3f} -> "
        f"{loss.get('last', float('nan')):.3f} | {run.name} |"
    )


def main(runs: list[str]) -> int:
    rows = [line for run in runs if (line := row(Path(run)))]
    if not rows:
        print("no finished run with a declared structure among these: give run directories.", file=sys.stderr)
        return 2
    print("| variant | free parameters | layers | rank | share inside | mean effective rank | val loss | run |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
