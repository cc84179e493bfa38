"""`clarion`: what can be chosen, tables of recorded runs, their pages, and trained models on new scans."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from functools import partial
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
    "corpora": "corpus",
    "tables": None,
    "runs": None,
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


class Parser(argparse.ArgumentParser):
    """argparse whose refusals are one sentence with the nearest name."""

    def error(self, message: str) -> None:
        from clarion.config import nearest

        if found := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            choices = [c.strip(" '") for c in found[2].split(",")]
            hint = nearest(found[1], choices)
            message = f"{found[1]}: no such choice.{hint} (choices: {', '.join(choices)})"
        elif found := re.search(r"unrecognized arguments: (-\S+)", message):
            options = [o for o in self.all_options() if o.startswith("--")]
            name = found[1].split("=")[0]
            message = f"{name}: no such option.{nearest(name, options)} (see {self.prog} --help)"
        print(f"{self.prog}: {message}", file=sys.stderr)
        raise SystemExit(2)

    def all_options(self) -> list[str]:
        """Of this command, or of all its commands."""
        found = list(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                chosen = action.choices.get(sys.argv[1] if len(sys.argv) > 1 else "")
                for command in [chosen] if chosen else action.choices.values():
                    found += command._option_string_actions
        return found


def parser() -> argparse.ArgumentParser:
    top = Parser(prog="clarion", description=__doc__)
    top.add_argument("--version", action="version", version=f"clarion {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    p = commands.add_parser("list", help="models, data, evaluators, experiments, trainers, trackers, tables or runs")
    p.add_argument("kind", choices=sorted(KINDS))
    p.add_argument("--params", action="store_true", help="models: parameter counts (slow: imports the libraries)")
    p.add_argument("--format", choices=["text", "json"], default="text")
    p.add_argument("--runs", action="append", metavar="DIR", help="runs: where they lie (default: runs; repeatable)")
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

    p = commands.add_parser("quantify", help="an eye's OCT file -> findings in mm, um and a stage, with a page")
    p.add_argument("path", metavar="PATH", help="HEYEX export, .vol .e2e .xml .fda, DICOM, NIfTI, folder; or phantom")
    p.add_argument("--out", default=None, metavar="DIR", help="default: findings-STUDY here")
    _oct_options(p)
    p.add_argument("--export", default=None, metavar="LIST", help="dicom (OPT, SEG, SR) and/or fhir, comma-separated")
    p.add_argument("--no-report", action="store_true", help="findings.json and maps only")
    p.set_defaults(run=quantify)

    p = commands.add_parser("compare", help="two visits of one eye: registered, change against repeatability")
    p.add_argument("first", metavar="VISIT1")
    p.add_argument("second", metavar="VISIT2")
    p.add_argument("--out", required=True, metavar="DIR")
    p.add_argument("--years", type=float, default=None, help="between the visits (default: by the files' dates)")
    _oct_options(p)
    p.set_defaults(run=compare)

    p = commands.add_parser("measure", help="fill a table of measurements on data with known truth")
    p.add_argument("table", metavar="TABLE", help="erm_quantification, ...")
    p.add_argument("parts", nargs="*", metavar="PART", help="which parts (default: all)")
    p.add_argument("--eyes", type=int, default=None, help="how many phantom eyes (default: as table.yaml says)")
    p.add_argument("--seed", type=int, default=None)
    p.add_argument("--out", metavar="DIR", help="where PART.json are written (default: experiments/TABLE/results)")
    p.set_defaults(run=measure)

    p = commands.add_parser("report", help="(re)write the page of a run, or a page that compares several")
    p.add_argument("runs", nargs="+", metavar="RUN")
    p.add_argument("--out", metavar="FILE", help="where the comparison goes (default: comparison.html)")
    p.set_defaults(run=report)

    p = commands.add_parser("ask", help="a question to a trained language model, alone or over measured findings")
    p.add_argument("question", metavar="QUESTION")
    p.add_argument("--model", required=True, metavar="RUN", help="a run directory or checkpoint of a language model")
    p.add_argument("--findings", default=None, metavar="FILE", help="findings.json of `clarion quantify`")
    p.add_argument("--system", default=None, metavar="TEXT", help="system prompt (default: the one of the training)")
    p.add_argument("--max-new-tokens", type=int, default=None, metavar="N", help="default: as the model was trained")
    p.add_argument("--format", choices=["text", "json"], default="text")
    p.add_argument("--device", default="auto")
    p.set_defaults(run=ask)

    p = commands.add_parser("code", help="a clinical text -> ICD-10-CM codes with places, confidence and level chain")
    p.add_argument("text", metavar="TEXT", help="the text, a text file, or - for standard input")
    p.add_argument("--scope", default="eye", help="eye, a chapter (7), block or code, or all (default: eye)")
    p.add_argument("--eye", default=None, metavar="OD|OS|OU", help="the eye of the case: another eye's findings drop")
    p.add_argument("--no-embedding", action="store_true", help="rules alone")
    p.add_argument("--threshold", type=float, default=None, metavar="COSINE", help="default: as calibrated")
    p.add_argument("--format", choices=["text", "json"], default="text")
    p.set_defaults(run=code)

    p = commands.add_parser("score", help="a file of predictions against a file of the truth, by an evaluator")
    p.add_argument("predictions", metavar="PREDICTIONS", help=".jsonl, .csv (lists with ;) or .parquet, with sample_id")
    p.add_argument("--truth", required=True, metavar="FILE")
    p.add_argument("--train", default=None, metavar="FILE", help="the training's truth, for the majority baseline")
    p.add_argument("--evaluator", default="coding", metavar="NAME", help="of `list evaluators` (default: coding)")
    p.add_argument("--protocol", default=None, metavar="NAME", help="of the evaluator coding: clarion or clibench")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the evaluator")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--format", choices=["md", "json"], default="md")
    p.set_defaults(run=score)

    p = commands.add_parser("corpus", help="PDFs, PubMed XML/JSON, text and HTML -> clean, de-identified documents")
    p.add_argument("action", choices=["build"])
    p.add_argument("conf", metavar="CONF.yaml", help="a file, or a name of conf/corpus (ophthalmology, demo)")
    p.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as sources.0.path=/articles tokens=words")
    p.add_argument("--out", default=None, metavar="DIR", help="default: corpus-NAME here")
    p.add_argument("--resume", action="store_true", help="go on with an interrupted build")
    p.add_argument("--format", choices=["text", "json"], default="text")
    p.set_defaults(run=corpus)

    p = commands.add_parser("instruct", help="questions and answers made from documents, for fine-tuning")
    p.add_argument("action", choices=["build"])
    p.add_argument("conf", metavar="CONF.yaml", help="a file, or a name of conf/instruct (documents)")
    p.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as documents=CORPUS generator=URL#MODEL")
    p.add_argument("--out", required=True, metavar="DIR", help="train.jsonl, val.jsonl, test.jsonl, card.json")
    p.set_defaults(run=instruct)

    p = commands.add_parser("merge", help="an adapter and its base as one model, proven equivalent, with a model card")
    p.add_argument("trained", metavar="RUN", help="a run directory or checkpoint of the sft trainer with an adapter")
    p.add_argument("--out", required=True, metavar="FOLDER")
    p.add_argument("--base", default=None, metavar="FOLDER", help="the base weights, where they lie elsewhere now")
    p.add_argument("--dtype", default="auto", metavar="NAME", help="auto (as the base), float32, bfloat16 or float16")
    p.set_defaults(run=merge)

    p = commands.add_parser("predict", help="run a trained model over new images or a HEYEX screen export")
    p.add_argument("path", metavar="PATH")
    p.add_argument("--model", required=True, metavar="RUN", help="a run directory (its best checkpoint is used)")
    p.add_argument("--out", required=True, metavar="DIR")
    p.add_argument(
        "--confidence", type=float, default=None, help="draw and count boxes from here (default: the run's best-F1)"
    )
    p.add_argument("--device", default="auto")
    p.set_defaults(run=predict)

    p = commands.add_parser("explain", help="which genes survival models look at; several runs: do they agree?")
    p.add_argument("runs", nargs="+", metavar="RUN", help="run directories of tabular networks or linear baselines")
    p.add_argument("--split", default="test", help="whose patients: train, val or test (default: test)")
    p.add_argument("--top", type=int, default=20, metavar="K", help="genes shown and compared (default: 20)")
    p.add_argument("--patients", type=int, default=None, metavar="N", help="at most so many (default: all)")
    p.add_argument("--out", default=None, metavar="DIR", help="default: explanation-RUN here (several: explanation)")
    p.add_argument("--format", choices=["md", "json"], default="md")
    p.add_argument("--device", default="auto")
    p.set_defaults(run=explain)

    p = commands.add_parser("cox", help="the Cox model of every gene in every cancer of a cohort, as a table")
    p.add_argument("data", metavar="DATA", help="survival data of conf/data (omics_demo, gse7390, ...) or a folder")
    p.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as horizon=36 data.cohort=luad")
    p.add_argument("--out", required=True, metavar="DIR", help="table.parquet, table.csv, summary.json")
    p.add_argument("--format", choices=["md", "json"], default="md")
    p.set_defaults(run=cox)

    p = commands.add_parser("embed", help="each sample's embedding before the last layer of a network, as parquet")
    p.add_argument("model", metavar="RUN", help="a run directory (its best checkpoint is used)")
    p.add_argument("--split", default="all", help="train, val, test or all (default: all)")
    p.add_argument("--out", required=True, metavar="FILE.parquet")
    p.add_argument("--device", default="auto")
    p.set_defaults(run=embed)

    p = commands.add_parser("slides", help="whole-slide images -> tissue and places of tiles at a scale, in HDF5")
    p.add_argument("action", choices=["tile"])
    p.add_argument("path", metavar="PATH", help="a slide (.svs .tif .ndpi .mrxs .dcm ...) or a folder of slides")
    p.add_argument("--out", required=True, metavar="DIR", help="S-....h5, S-....jpg and tiles.json; run again to go on")
    p.add_argument("--mpp", type=float, default=0.5, metavar="UM", help="um a pixel of the tiles (default: 0.5)")
    p.add_argument("--patch", type=int, default=256, metavar="PX", help="side of a tile (default: 256)")
    p.add_argument("--overlap", type=int, default=0, metavar="PX", help="shared by neighbours (default: 0)")
    p.add_argument("--min-tissue", type=float, default=0.5, metavar="SHARE", help="of a tile (default: 0.5)")
    p.add_argument("--slide-mpp", type=float, default=None, metavar="UM", help="of level 0, where no file says it")
    p.add_argument("--stain", choices=["macenko"], default=None, help="keep each slide's stains for normalising")
    p.add_argument("--no-inks", action="store_true", help="immunostains: brown and blue are no pens there")
    p.add_argument("--jobs", type=int, default=1, metavar="N", help="slides at once, a process each (default: 1)")
    p.set_defaults(run=slides)

    p = commands.add_parser("review", help="texts of runs as a blind sheet for experts; their ratings read back")
    p.add_argument("action", choices=["sheet", "read", "draft"])
    p.add_argument("paths", nargs="+", metavar="PATH", help="sheet: runs; read: filled csv files; draft: a run")
    p.add_argument("--out", default=None, metavar="FILE", help="sheet: FILE.csv or FILE.html; read, draft: FILE.json")
    p.add_argument("--split", default=None, help="sheet, draft: whose texts (default: test)")
    p.add_argument("--n", type=int, default=None, metavar="N", help="sheet, draft: at most so many patients")
    p.add_argument("--generator", default=None, metavar="MODEL",
                   help="draft: a model of `clarion list models`, a folder or URL#MODEL writes them")  # fmt: skip
    p.add_argument("--language", choices=["en", "ko"], default="en", help="draft: of the rationales (default: en)")
    p.add_argument("--key", default=None, metavar="FILE", help="read: NAME.key.json (default: beside the files)")
    p.add_argument("--seed", type=int, default=0, help="of the blind order and of the intervals (default: 0)")
    p.add_argument("--format", choices=["text", "json"], default="text")
    p.set_defaults(run=review)

    p = commands.add_parser("look", help="where a slide model looked: maps on the slides, and whether they are true")
    p.add_argument("model", metavar="RUN", help="a run of a swin_mil or a fusion model (its best checkpoint)")
    p.add_argument("--sample", action="append", default=[], metavar="ID", help="this patient alone (repeatable)")
    p.add_argument("--split", default="test", help="whose patients: train, val or test (default: test)")
    p.add_argument("--patients", type=int, default=None, metavar="N", help="at most so many (default: all)")
    p.add_argument("--pages", type=int, default=4, metavar="N", help="patients with maps and a page (default: 4)")
    p.add_argument("--operator", default="rollout", help="merges the stages: rollout, mean or last (default: rollout)")
    p.add_argument("--out", required=True, metavar="DIR", help="looking.json and a folder a patient")
    p.add_argument("--format", choices=["md", "json"], default="md")
    p.add_argument("--device", default="auto")
    p.set_defaults(run=look)

    p = commands.add_parser("prognose", help="a new patient's slide and omics -> survival, reasons, heatmap, a page")
    p.add_argument("--slide", action="append", default=[], metavar="FILE", help="a slide of the patient (repeatable)")
    p.add_argument("--omics", default=None, metavar="FILE", help="a row of GENE_rnaseq columns, or gene,value rows")
    p.add_argument("--clinical", nargs="+", default=[], metavar="KEY=VALUE", help="age=61 sex=female stage=II; or csv")
    p.add_argument("--run", dest="run_directory", required=True, metavar="RUN", help="a run of a fusion_* model")
    p.add_argument("--out", required=True, metavar="DIR", help="prognosis.json, prognosis.html, heatmap-N.tif, slide-N")
    p.add_argument("--mpp", type=float, default=None, metavar="UM", help="um a pixel of level 0, where no file says it")
    p.add_argument("--language", default=None, help="en or ko (default: as the run was trained)")
    p.add_argument("--format", choices=["text", "json"], default="text")
    p.add_argument("--device", default="auto")
    p.set_defaults(run=prognose)

    p = commands.add_parser("export", help="a trained model for other programs, checked against its checkpoint")
    p.add_argument("run_directory", metavar="RUN", help="a run directory (its best checkpoint is used)")
    p.add_argument("--format", required=True, metavar="FORMAT", help="onnx, torchscript, safetensors or hf")
    p.add_argument("--out", default=None, metavar="DIR", help="default: RUN/exports/FORMAT")
    p.add_argument("--tolerance", type=float, default=1e-4, help="largest difference that is kept (default: 1e-4)")
    p.set_defaults(run=export)
    return top


def _oct_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--detector", default=None, metavar="RUN", help="a run or checkpoint; its boxes give presence")
    p.add_argument("--presence", choices=["head", "boxes"], default=None, help="per-A-scan network or detector's boxes")
    p.add_argument("--layers", default=None, metavar="RUN", help="a layer network (default: the shipped one)")
    p.add_argument("--presence-model", default=None, metavar="RUN", help="a per-A-scan network (default: shipped)")
    p.add_argument("--laterality", choices=["OD", "OS"], default=None, help="which eye, where the file does not say")
    p.add_argument("--spacing", default=None, metavar="UM", help="AXIAL,LATERAL[,LINE] um, where no file says")
    p.add_argument("--kind", choices=["private", "public"], default="private", help="of the data (default: private)")
    p.add_argument("--device", default="auto")


def list_choices(args: argparse.Namespace) -> int:
    from clarion import config

    group = KINDS[args.kind]
    if args.kind == "runs":
        from clarion.table_records import overview

        rows = overview([Path(r).expanduser() for r in args.runs or ["runs"]])
    elif group is None:
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
    from clarion import measurements, tables

    where = {}
    for text in args.where:
        key, sign, value = text.partition("=")
        if not sign:
            raise UsageError(f"--where {text}: give KEY=VALUE, for example --where epochs=12.")
        where[key] = value
    folder = tables.find(args.name)
    out = Path(args.out) if args.out else folder / "results"
    if measurements.is_measured(folder):
        built, kind = measurements.build(folder), measurements
        return _written(kind.write(built, out), kind.render(built, args.format))
    given = [Path(r).expanduser() for r in args.runs or ["runs"]]
    for path in given:
        if args.runs and not path.is_dir():
            raise UsageError(f"--runs {path}: no such folder.")
    built = tables.build(args.name, given, where)
    return _written(tables.write(built, out), tables.render(built, args.format))


def _written(paths: list[Path], text: str) -> int:
    print(f"written: {', '.join(str(p) for p in paths)}", file=sys.stderr)
    print(text, end="")
    return 0


def measure(args: argparse.Namespace) -> int:
    from clarion import measurements, tables

    _log_to_stderr()
    folder = tables.find(args.table)
    out = Path(args.out) if args.out else folder / "results"
    options = {"eyes": args.eyes, "seed": args.seed}
    print("\n".join(str(p) for p in measurements.measure(folder, args.parts, out, **options)))
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


def _oct_setup(args: argparse.Namespace) -> tuple[Callable[[], dict], dict]:
    """(what opens the models, reader options) of quantify and compare."""
    from clarion import quantifying as q

    source = args.presence or ("boxes" if args.detector else "head")
    layers, presence = args.layers or q.LAYERS, args.presence_model or q.PRESENCE
    models = partial(q.open_models, args.detector, layers, presence, source, args.device)
    return models, {"spacing": args.spacing, "laterality": args.laterality, "data_kind": args.kind}


def quantify(args: argparse.Namespace) -> int:
    from clarion import quantifying as q

    _log_to_stderr()
    exports = q.parse_exports(args.export)
    models, reader = _oct_setup(args)
    out = Path(args.out).expanduser() if args.out else None
    summary = q.quantify_path(args.path, out, models, reader, exports, page=not args.no_report)
    print(json.dumps(summary, ensure_ascii=False, indent=2))
    return 0


def compare(args: argparse.Namespace) -> int:
    from clarion import quantifying as q

    _log_to_stderr()
    models, reader = _oct_setup(args)
    result = q.compare_paths(args.first, args.second, Path(args.out).expanduser(), models, reader, args.years)
    print(json.dumps(result, ensure_ascii=False, indent=2))
    return 0


def corpus(args: argparse.Namespace) -> int:
    from clarion import generating
    from clarion.llm.corpus.command import build_from_conf

    _log_to_stderr()
    models = (generating.open_generator, generating.tokenizer_file)
    manifest, folder = build_from_conf(args.conf, args.out, args.resume, args.overrides, *models)
    if args.format == "json":
        print(json.dumps(manifest | {"folder": str(folder)}, ensure_ascii=False, indent=2))
    else:
        counts = f"{manifest['documents']} documents, {manifest['tokens']} tokens"
        print(f"{counts}: {folder} (card.md says what was left out)")
    return 0


def _log_to_stderr() -> None:
    import logging

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s", force=True)
    for name in ("highdicom", "pydicom", "eyepy", "httpx"):  # they narrate every attribute, every request
        logging.getLogger(name).setLevel(logging.WARNING)


def ask(args: argparse.Namespace) -> int:
    from clarion import asking

    findings = Path(args.findings).expanduser() if args.findings else None
    out = sys.stdout if args.format == "text" else None
    answer = asking.ask(args.question, args.model, findings, args.max_new_tokens, args.device, out, args.system)
    if args.format == "json":
        print(json.dumps(answer, ensure_ascii=False, indent=2))
    return 0


def code(args: argparse.Namespace) -> int:
    from clarion import coding
    from clarion.record import to_json

    _log_to_stderr()
    result = coding.code_text(args.text, args.scope, args.eye, not args.no_embedding, args.threshold)
    print(to_json(result) if args.format == "json" else coding.rendered(result), end="")
    return 0


def score(args: argparse.Namespace) -> int:
    from clarion import scoring
    from clarion.record import to_json

    _log_to_stderr()
    settings = {"protocol": args.protocol} if args.protocol else {}
    for text in args.set:
        key, sign, value = text.partition("=")
        if not sign:
            raise UsageError(f"--set {text}: give KEY=VALUE, for example --set n_resamples=2000.")
        settings[key] = value
    train = Path(args.train) if args.train else None
    result = scoring.score_files(Path(args.predictions), Path(args.truth), args.evaluator, settings, train, args.seed)
    print(to_json(result) if args.format == "json" else scoring.markdown(result), end="")
    return 0


def instruct(args: argparse.Namespace) -> int:
    from clarion.llm.building.settings import read_settings

    _log_to_stderr()
    settings = read_settings(args.conf, args.overrides)
    from clarion.generating import open_generator
    from clarion.llm.building.build import build_instructions
    from clarion.record import to_json

    generate = open_generator(settings.generator, data_kind=settings.data_kind)
    if generate is None:
        raise UsageError("generator=none cannot write questions: name a model, a run, or URL#MODEL of a server.")
    print(to_json(build_instructions(settings, generate, Path(args.out).expanduser())), end="")
    return 0


def review(args: argparse.Namespace) -> int:
    from clarion import reviewing

    return reviewing.review(args.action, args.paths, args)


def merge(args: argparse.Namespace) -> int:
    from clarion.merging import merge_run

    _log_to_stderr()
    base = Path(args.base).expanduser() if args.base else None
    merged = merge_run(Path(args.trained), Path(args.out).expanduser(), base, args.dtype)
    print(json.dumps(merged.summary(), ensure_ascii=False, indent=2))
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


def explain(args: argparse.Namespace) -> int:
    from clarion import explaining
    from clarion.record import to_json

    _log_to_stderr()
    out = Path(args.out).expanduser() if args.out else None
    runs = [Path(r) for r in args.runs]
    result = explaining.explain_runs(runs, args.split, args.top, out, args.patients, args.device)
    print(f"written: {result['out']}/explanation.json, .csv, .html", file=sys.stderr)
    print(to_json(result) if args.format == "json" else explaining.markdown(result), end="")
    return 0


def cox(args: argparse.Namespace) -> int:
    from clarion import genomewide
    from clarion.record import to_json

    _log_to_stderr()
    summary = genomewide.fit_genes(args.data, args.overrides, Path(args.out).expanduser())
    print(f"written: {summary['out']}/table.parquet, table.csv, summary.json", file=sys.stderr)
    print(to_json(summary) if args.format == "json" else genomewide.markdown(summary), end="")
    return 0


def embed(args: argparse.Namespace) -> int:
    from clarion.embedding import embed_run

    _log_to_stderr()
    summary = embed_run(Path(args.model), Path(args.out).expanduser(), args.split, args.device)
    print(json.dumps(summary, ensure_ascii=False, indent=2))
    return 0


def slides(args: argparse.Namespace) -> int:
    from clarion.cancer.slides.command import Settings, tile_folder

    _log_to_stderr()
    chosen = {k: getattr(args, k) for k in ("mpp", "patch", "overlap", "min_tissue", "slide_mpp", "stain")}
    settings = Settings(**chosen, inks=not args.no_inks)
    summary = tile_folder(Path(args.path).expanduser(), Path(args.out).expanduser(), settings, args.jobs)
    print(json.dumps(summary, ensure_ascii=False, indent=2))
    return 0


def look(args: argparse.Namespace) -> int:
    from clarion import looking
    from clarion.record import to_json

    _log_to_stderr()
    result = looking.look_run(Path(args.model), Path(args.out).expanduser(), args.sample, args.split, args.pages,
                              args.operator, args.patients, args.device)  # fmt: skip
    pages = sum(f.endswith(".html") for row in result["patients"] for f in row["files"])
    print(f"written: {result['out']}/looking.json and {pages} pages", file=sys.stderr)
    print(to_json(result) if args.format == "json" else looking.markdown(result), end="")
    return 0


def prognose(args: argparse.Namespace) -> int:
    from clarion import prognosing
    from clarion.record import to_json

    _log_to_stderr()
    slides, omics = [Path(s) for s in args.slide], Path(args.omics) if args.omics else None
    result = prognosing.prognose(Path(args.run_directory), Path(args.out).expanduser(), slides, omics, args.clinical,
                                 args.mpp, args.language, args.device)  # fmt: skip
    print(to_json(result) if args.format == "json" else prognosing.told(result), end="")
    return 0


def export(args: argparse.Namespace) -> int:
    from clarion.exporting import export_run

    _log_to_stderr()
    out = Path(args.out) if args.out else None
    said = export_run(Path(args.run_directory), args.format, out, args.tolerance)
    print(f"max difference {said['max_difference']:.3g} on {said['compared_samples']} samples", file=sys.stderr)
    print(json.dumps(said, ensure_ascii=False, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
