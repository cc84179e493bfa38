"""Text generators by what the user calls them: a local model, an OpenAI-compatible server, or none.

Rooms that need generated text (summaries of long documents, questions made from documents) are handed the callable
that `open_generator` returns; they know neither trainers nor servers. A spec is a mapping

    {kind: none}
    {kind: local, model: smollm2_135m, path: null, device: auto, batch_size: 4, max_new_tokens: 256, ...}
    {kind: openai, base_url: "http://localhost:8000/v1", model: NAME, api_key_env: OPENAI_API_KEY, ...}

or one string for the same: `none`, a model of `clarion list models`, a run directory or model folder, `URL#MODEL`.
Nothing is sent anywhere unless base_url says where.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from clarion import config
from clarion.errors import UsageError

log = logging.getLogger(__name__)

Message = dict[str, str]
Generate = Callable[[list[list[Message]]], list[str]]
LOCAL = {
    "model": None,
    "path": None,
    "device": "auto",
    "batch_size": 4,
    "max_new_tokens": 256,
    "seed": 0,
    "send_private": False,
}
OPENAI = {
    "base_url": None,
    "model": None,
    "api_key_env": "OPENAI_API_KEY",
    "max_tokens": 512,
    "temperature": 0.0,
    "seed": 0,
    "workers": 4,
    "timeout_s": 300.0,
    "retries": 2,
    "send_private": False,
}
TOKENIZER_CACHE_VERSION = "1"
SETTINGS = {"none": {}, "local": LOCAL, "openai": OPENAI}


def open_generator(
    spec: str | Mapping[str, Any] | None, where: str = "generator", data_kind: str | None = None
) -> Generate | None:
    """spec -> callable: conversations (lists of {"role", "content"}) in, one stripped answer each out, in their order.

    Returns None for `none` (or no spec). The callable has `identity`, a dict that says what generated, for cards and
    manifests; no key is in it. where: how errors name the setting; data_kind: public | phantom | private of the texts
    that it will be given, None where nobody knows: then they count as private, which a server elsewhere gets only with
    send_private. Raises UsageError for a spec that is none, for
    weights that are not on this machine (before torch is loaded) and for a run that generates no text.
    """
    spec = parse_spec(spec, where)
    if problems := spec_problems(spec, where):
        raise UsageError(config.numbered(problems))
    kind = spec.get("kind", "none")
    if kind == "none":
        return None
    settings = {**SETTINGS[kind], **{k: v for k, v in spec.items() if k != "kind"}}
    made = OpenAIGenerator if kind == "openai" else LocalGenerator
    return made(settings, where, data_kind)


def parse_spec(spec: str | Mapping[str, Any] | None, where: str = "generator") -> dict[str, Any]:
    """The mapping that a string stands for; a mapping is returned as a plain dict."""
    if spec is None:
        return {"kind": "none"}
    if not isinstance(spec, str):
        if not hasattr(spec, "items"):
            raise UsageError(f"{where}: write none, a model, a folder, URL#MODEL or a mapping with `kind`.")
        return dict(spec)
    if spec == "none":
        return {"kind": "none"}
    if spec.startswith(("http://", "https://")):
        url, _, model = spec.partition("#")
        return {"kind": "openai", "base_url": url, "model": model or None}
    if spec in config.choices("model"):
        return {"kind": "local", "model": spec}
    return {"kind": "local", "path": spec}


def spec_problems(spec: Mapping[str, Any], where: str = "generator") -> list[str]:
    """Everything wrong with a spec, as sentences; imports nothing heavy and looks at no weights."""
    kind = spec.get("kind", "none")
    if kind not in SETTINGS:
        hint = config.nearest(str(kind), SETTINGS)
        return [f"{where}.kind={kind}: no such kind.{hint} (kinds: {', '.join(SETTINGS)})"]
    known, problems = SETTINGS[kind], []
    for key in spec:
        if key != "kind" and key not in known:
            problems.append(f"{where}.{key}: a {kind} generator has no such setting.{config.nearest(str(key), known)}")
    if kind == "openai":
        parts = urlsplit(str(spec.get("base_url") or ""))
        if parts.scheme not in ("http", "https") or not parts.netloc:
            problems.append(f"{where}.base_url: give the server's address, for example http://localhost:8000/v1.")
        if not spec.get("model"):
            problems.append(f"{where}.model: name the model that the server offers (URL#MODEL as one string).")
    if kind == "local":
        model, path = spec.get("model"), spec.get("path")
        if not model and not path:
            problems.append(f"{where}: a local generator needs `model` (see clarion list models) or `path`.")
        if model:
            names = [n for n in config.choices("model") if config.group_task("model", n) == "generation"]
            if model not in names:
                problems.append(f"{where}.model={model}: no such language model.{config.nearest(str(model), names)}")
        if path and not Path(str(path)).expanduser().exists():
            names = [n for n in config.choices("model") if config.group_task("model", n) == "generation"]
            hint = config.nearest(str(path), [*names, "none"])
            problems.append(f"{where}.path={path}: no such run directory, model folder or model.{hint}")
    numbers = ("batch_size", "max_new_tokens", "max_tokens", "workers", "timeout_s")
    for key in numbers:
        value = spec.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value <= 0):
            problems.append(f"{where}.{key}={value}: write a number above 0.")
    return problems


def tokenizer_file(name: str | Mapping[str, Any], where: str = "tokens") -> Path:
    """The tokenizer.json of a language model (a name of conf/model, or a folder): what counts tokens without torch.

    The tokenizer of a GGUF file is converted once into the cache. Raises UsageError where it is not on this machine."""
    from clarion.data.cache import build_once
    from clarion.trainers.sft_weights import find_weights, stay_offline

    folder = Path(str(name)).expanduser()
    if folder.is_dir():
        if not (folder / "tokenizer.json").is_file():
            raise UsageError(f"{where}={name}: the folder has no tokenizer.json.")
        return folder / "tokenizer.json"
    if problems := spec_problems({"kind": "local", "model": name}, where):
        raise UsageError(config.numbered(problems))
    weights = find_weights(config.compose_config([f"model={name}"]).model)
    if weights.kind == "random":
        raise UsageError(f"{where}={name}: this model's tokenizer is trained with it; choose smollm2_135m or words.")
    if weights.kind == "folder":
        return tokenizer_file(str(weights.path), where)

    def convert(target: Path) -> None:
        stay_offline()
        from transformers import AutoTokenizer

        source = {"gguf_file": weights.path.name, "local_files_only": True}
        AutoTokenizer.from_pretrained(weights.path.parent, **source).save_pretrained(target)

    stat = weights.path.stat()
    digest = hashlib.sha256(f"{weights.path.name} {stat.st_size} {TOKENIZER_CACHE_VERSION}".encode()).hexdigest()
    return build_once(f"tokenizer-{name}-{digest[:12]}", convert) / "tokenizer.json"


class LocalGenerator:
    """A model of conf/model with its own weights, a model folder, or the best checkpoint of a run; greedy.

    The network is loaded at the first call, so that a build which needs no generation costs none."""

    def __init__(self, settings: Mapping[str, Any], where: str = "generator", data_kind: str | None = None):
        self.settings, self.where, self.data_kind = dict(settings), where, data_kind
        self._predictor: Any = None
        path = settings.get("path")
        self.path = Path(str(path)).expanduser() if path else None
        self.is_run = bool(self.path and any((self.path / n).is_file() for n in ("config.yaml", "clarion.json")))
        name = str(settings["model"] or (self.path.name if self.path else ""))
        self.identity: dict[str, Any] = {
            "kind": "local",
            "model": name,
            **{k: settings[k] for k in ("max_new_tokens", "batch_size", "seed")},  # padding changes a last digit
        }
        self.truncated: list[bool] = []  # of the last call's answers: which were cut off at max_new_tokens
        if self.path is not None:  # now, not at the first call: replies are kept under it
            self.identity["hash"] = _content_hash(self.path)
        if not self.is_run:
            from clarion.trainers.sft_weights import check_architecture, find_weights

            self.model = self._model_config()
            self.weights = find_weights(self.model)
            if self.weights.kind == "random":
                raise UsageError(f"{where}.model={name} has no weights yet: choose smollm2_135m, or give a path.")
            check_architecture(self.model.get("architecture"), self.weights)
            self.identity["weights"] = self.weights.name

    def __call__(self, conversations: list[list[Message]]) -> list[str]:
        from clarion.samples import Sample

        if not conversations:
            return []
        if self._predictor is None:
            self._predictor = self._load()
        samples = [Sample(f"{k}", f"{k}", {"messages": list(turns)}) for k, turns in enumerate(conversations)]
        answers = [p.values for p in self._predictor(samples)]
        self.truncated = [not values.get("stopped", True) for values in answers]
        return [str(values["text"]) for values in answers]

    def _model_config(self) -> dict[str, Any]:
        from omegaconf import OmegaConf

        name = self.settings["model"] or "smollm2_135m"
        model = OmegaConf.to_container(config.compose_config([f"model={name}"]).model, resolve=True)
        if self.path is not None:  # a folder states its own sizes; only a named model declares what it must be
            model |= {"path": str(self.path), "weights": self.path.name}
            if not self.settings["model"]:
                model |= {"name": self.path.name, "architecture": None}
        return model | {"lora": None, "quantization": None, "generation": self._generation()}

    def _generation(self) -> dict[str, Any]:
        return {k: self.settings[k] for k in ("batch_size", "max_new_tokens")}

    def _load(self) -> Any:
        from clarion.trainers.sft_weights import stay_offline

        stay_offline()
        if self.is_run:
            return self._load_run()
        from clarion.trainers import sft_models
        from clarion.trainers.sft import chosen_precision, torch_device
        from clarion.trainers.sft_chat import chat_format
        from clarion.trainers.sft_predict import SftPredictor

        device = torch_device(self.settings["device"])
        precision = chosen_precision("auto", device)
        dtype = sft_models.weight_dtype(self.model | {"lora": {}}, precision)  # frozen: as narrow as the device allows
        seed = int(self.settings["seed"])
        network, tokenizer = sft_models.build(self.model, self.weights, [], dtype, device, seed)
        network = network.to(device).eval()
        args = dict(self.model.get("template_args") or {})
        chat, stops = chat_format(tokenizer, args), sft_models.generation_eos(network)
        return SftPredictor(network, tokenizer, chat, stops, self._generation(), args, seed)

    def _load_run(self) -> Any:
        from clarion.building import build
        from clarion.trained import open_model

        option = f"{self.where}.path"
        if (self.path / "config.yaml").is_file():
            trained = open_model(str(self.path), "generation", "smollm2_135m", self.settings["device"], option)
            self.identity |= {"model": trained.name, "trained_on": trained.trained_on}
            if (server := getattr(trained.predictor, "server", None)) is not None:  # the run of a model elsewhere
                send = bool(self.settings["send_private"]) or trained.predictor.send_private
                server.where = self.where
                server.admit(self.data_kind, send)
                trained.predictor.admitted = True
            return self._limited(trained.predictor)
        cfg = config.compose_config(["model=smollm2_135m", f"trainer.device={self.settings['device']}"])
        model = {"path": None, "generation": self._generation()}
        return self._limited(build(cfg.trainer, model=model, seed=int(self.settings["seed"])).load(self.path))

    def _limited(self, predictor: Any) -> Any:
        """A run's predictor with this generator's max_new_tokens and batch_size in place of those it was scored with.

        Raises UsageError for a kind of predictor that does not take them."""
        from clarion.trainers.api import ApiPredictor
        from clarion.trainers.sft_predict import SftPredictor

        if isinstance(predictor, ApiPredictor):  # of a server, which decides itself what it computes together
            predictor.max_tokens = int(self.settings["max_new_tokens"])
            return predictor
        if not isinstance(predictor, SftPredictor):
            raise UsageError(
                f"{self.where}.path={self.path}: answers of this run's model cannot be limited to max_new_tokens; name "
                "its server (URL#MODEL) or its merged folder instead."
            )
        predictor.batch_size = int(self.settings["batch_size"])
        predictor.config.max_new_tokens = int(self.settings["max_new_tokens"])
        predictor.generates, predictor.limit = True, predictor.context - predictor.config.max_new_tokens
        return predictor


def _content_hash(path: Path) -> str:
    """Hash of what answers: the checkpoint of a run, or all of a model folder."""
    from clarion.data.filecache import digest_files
    from clarion.data.fingerprint import fingerprint_items
    from clarion.record import read_json

    manifest = read_json(path / "manifest.json") if (path / "config.yaml").is_file() else None
    checkpoint = path / str((manifest or {}).get("checkpoint") or ".")
    files = sorted(p for p in checkpoint.rglob("*") if p.is_file()) if checkpoint.is_dir() else [checkpoint]
    digests = digest_files([p for p in files if p.is_file()])
    return fingerprint_items(
        {p.name if p == checkpoint else p.relative_to(checkpoint).as_posix(): digests[p] for p in digests}
    )


class OpenAIGenerator:
    """Any server that answers POST BASE_URL/chat/completions (vLLM, llama.cpp, Ollama, OpenAI, ...).

    The key is read from the environment variable `api_key_env`; local servers mostly want none. Raises UsageError for
    private data (data_kind None: unknown, so private) and a server elsewhere, unless `send_private`."""

    def __init__(self, settings: Mapping[str, Any], where: str = "generator", data_kind: str | None = None):
        from clarion.openai_client import Server

        self.settings, self.where = dict(settings), where
        self.server = Server(
            str(settings["base_url"]), str(settings["model"]), str(settings["api_key_env"] or ""),
            float(settings["timeout_s"]), int(settings["retries"]), where, "model",
        )  # fmt: skip
        self.server.admit(data_kind, bool(settings["send_private"]))
        sampling = {k: settings[k] for k in ("max_tokens", "temperature", "seed")}  # other fields are the server's own
        self.identity = {"kind": "openai", "model": settings["model"], "server": self.server.host, **sampling}
        self.truncated: list[bool] = []  # of the last call's answers: which were cut off at max_tokens

    def __call__(self, conversations: list[list[Message]]) -> list[str]:
        if not conversations:
            return []
        if not self.server.local:
            log.warning("%s: texts are sent to %s", self.where, self.server.host)
        _ = self.server.client  # made once, before the threads
        with ThreadPoolExecutor(max_workers=int(self.settings["workers"])) as pool:
            answers = list(pool.map(self._ask, conversations))
        self.truncated = [cut for _, cut in answers]
        return [text for text, _ in answers]

    def _ask(self, messages: Sequence[Message]) -> tuple[str, bool]:
        """(answer, whether it was cut off at max_tokens)."""
        about = f"a request of {self.where}"
        answer = self.server.call(
            lambda: self.server.client.chat.completions.create(
                model=self.settings["model"],
                messages=list(messages),
                max_tokens=int(self.settings["max_tokens"]),
                temperature=float(self.settings["temperature"]),
                seed=int(self.settings["seed"]),
            ),
            about,
        )
        choice = self.server.choice(answer, about)
        return (choice.message.content or "").strip(), choice.finish_reason == "length"
