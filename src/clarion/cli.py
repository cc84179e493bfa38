"""`clarion`: what can be chosen, tables of recorded runs, their pages, and trained models on new scans."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from clarion import __version__
from clarion.errors import ClarionError, UsageError

KINDS = {
    "models": "model",
    "data": "data",
    "evaluators": "evaluator",
    "experiments": "experiment",
    "trainers": "trainer",
    "trackers": "tracker",
    "tables": None,
}


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in (["train"], ["eval"]):  # the wheel's users have no train.py beside them
        from clarion import launch

        return (launch.train if argv[0] == "train" else launch.evaluate)(argv[1:])
    args = parser().parse_args(argv)
    try:
        return args.run(args)
    except ClarionError as error:
        print(f"clarion {args.command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `clarion list models | head`
        sys.stderr.close()
        return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="clarion", description=__doc__)
    top.add_argument("--version", action="version", version=f"clarion {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    p = commands.add_parser("list", help="models, data, evaluators, experiments, trainers, trackers or tables")
    p.add_argument("kind", choices=sorted(KINDS))
    p.add_argument("--params", action="store_true", help="models: parameter counts (slow: imports the libraries)")
    p.add_argument("--format", choices=["text", "json"], default="text")
    p.set_defaults(run=list_choices)

    p = commands.add_parser("table", help="a published table with the measured figures beside it")
    p.add_argument("name")
    p.add_argument("--format", choices=["md", "csv", "tex", "html", "json"], default="md")
    p.add_argument(
        "--runs", action="append", metavar="DIR", help="where run directories lie (default: runs; repeatable)"
    )
    p.add_argument(
        "--where", action="append", default=[], metavar="KEY=VALUE", help="only runs with this setting (epochs=12)"
    )
    p.add_argument("--out", metavar="DIR", help="where table.* are written (default: experiments/NAME/results)")
    p.set_defaults(run=table)

    p = commands.add_parser("report", help="(re)write the page of a run, or a page that compares several")
    p.add_argument("runs", nargs="+", metavar="RUN")
    p.add_argument("--out", metavar="FILE", help="where the comparison goes (default: comparison.html)")
    p.set_defaults(run=report)

    p = commands.add_parser("predict", help="run a trained model over new images or a HEYEX screen export")
    p.add_argument("path", metavar="PATH")
    p.add_argument("--model", required=True, metavar="RUN", help="a run directory (its best checkpoint is used)")
    p.add_argument("--out", required=True, metavar="DIR")
    p.add_argument(
        "--confidence", type=float, default=None, help="draw and count boxes from here (default: the run's best-F1)"
    )
    p.add_argument("--device", default="auto")
    p.set_defaults(run=predict)
    return top


def list_choices(args: argparse.Namespace) -> int:
    from clarion import config

    group = KINDS[args.kind]
    if group is None:
        from clarion import tables

        rows = [{"name": n} for n in tables.table_names()]
    else:
        rows = [
            {"name": n, "task": config.group_task(group, n), "description": config.describe(group, n)}
            for n in config.choices(group)
        ]
        if args.params and group == "model":
            from clarion.run import build

            for row in rows:
                cfg = config.compose_config([f"model={row['name']}"])
                row["params"] = build(cfg.trainer, model=cfg.model, seed=0).parameters()
    if args.format == "json":
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return 0
    width = max((len(r["name"]) for r in rows), default=0)
    for r in rows:
        count = "" if "params" not in r else f"{r['params']:>15,}  " if r["params"] is not None else f"{'—':>15}  "
        print(f"{r['name']:<{width}}  {r.get('task') or '':<15}{count}{r.get('description', '')}".rstrip())
    return 0


def table(args: argparse.Namespace) -> int:
    from clarion import tables

    where = {}
    for text in args.where:
        key, sign, value = text.partition("=")
        if not sign:
            raise UsageError(f"--where {text}: give KEY=VALUE, for example --where epochs=12.")
        where[key] = value
    given = [Path(r).expanduser() for r in args.runs or ["runs"]]
    for path in given:
        if args.runs and not path.is_dir():
            raise UsageError(f"--runs {path}: no such folder.")
    built = tables.build(args.name, given, where)
    out = Path(args.out) if args.out else tables.experiments_dir() / args.name / "results"
    paths = tables.write(built, out)
    print(f"written: {', '.join(str(p) for p in paths)}", file=sys.stderr)
    print(tables.render(built, args.format), end="")
    return 0


def report(args: argparse.Namespace) -> int:
    from clarion.report import write_comparison, write_run_report

    directories = [Path(r).expanduser() for r in args.runs]
    for d in directories:
        if not (d / "config.yaml").is_file():
            raise UsageError(f"{d} is not a run directory (no config.yaml).")
    if len(directories) == 1:
        if args.out:
            raise UsageError("--out is for a comparison: give two runs or more (one run's page lies in its directory).")
        print(write_run_report(directories[0]))
    else:
        print(write_comparison(directories, Path(args.out or "comparison.html")))
    return 0


def predict(args: argparse.Namespace) -> int:
    from clarion.predicting import predict_path

    summary = predict_path(
        Path(args.path).expanduser(),
        Path(args.model).expanduser(),
        Path(args.out).expanduser(),
        confidence=args.confidence,
        device=args.device,
    )
    print(json.dumps(summary, ensure_ascii=False, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
