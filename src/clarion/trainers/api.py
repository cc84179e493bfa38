"""Answers from a server that speaks OpenAI's protocol (vLLM, llama.cpp, Ollama, a hosted one).

Nothing is sent before model.base_url says where. The key comes from the environment variable that model.api_key_env
names and is written nowhere. Retries with exponential backoff are the openai library's own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from clarion.errors import DataError, UsageError
from clarion.openai_client import Rejected, Server
from clarion.trainers.answers import AnswerCache, NoCache, digest, wanted
from clarion.trainers.base import Prediction, Sample

log = logging.getLogger(__name__)

SCORING = ("auto", "echo", "top_logprobs", "none")
TOP = 20  # the most alternatives that servers list for a token
CHUNK = 64  # samples whose answers are awaited together
SETTINGS = ("temperature", "top_p", "seed", "stop", "extra_body")


def connect(model: Mapping[str, Any]) -> Server:
    """The server of a model config. Raises UsageError where base_url or served is missing or wrong; sends nothing."""
    if not model.get("base_url"):
        raise UsageError(
            "model=openai_api sends nothing before you say where: add model.base_url=http://host:8000/v1 "
            "model.served=NAME."
        )
    parts = urlsplit(str(model["base_url"]))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"model.base_url={model['base_url']} is no address: write http://host:port/v1.")
    if parts.username or parts.password or parts.query:
        raise UsageError(
            "model.base_url must hold no key or password: put it into the environment (model.api_key_env)."
        )
    if not model.get("served"):
        raise UsageError("model.served is missing: write the model's name on that server.")
    return Server(
        str(model["base_url"]),
        str(model["served"]),
        str(model.get("api_key_env") or "OPENAI_API_KEY"),
        float(model.get("timeout_s") or 120),
        int(model.get("retries", 5)),
    )


class ApiPredictor:
    """Samples -> predictions with the same values as SftPredictor's, and `option_source`: how options were scored.

    echo: the server returns the log-probability of every token of prompt + option (needs model.path, a folder with
    the model's tokenizer and chat template, to write the prompt exactly); top_logprobs: the first token behind the
    lead, among the TOP that the server lists, so one letter instead of the whole option; none, or a server that
    offers neither: option_logprobs is None and only the parsed text is scored.
    """

    def __init__(self, server: Server, model: Mapping[str, Any]):
        generation = dict(model.get("generation") or {})
        generation.pop("batch_size", None)
        self.max_tokens = int(generation.pop("max_new_tokens", 128))
        unknown = sorted(set(generation) - set(SETTINGS))
        if unknown:
            raise UsageError(f"model.generation.{unknown[0]} is nothing a server takes: {', '.join(SETTINGS)}.")
        self.settings = {"temperature": 0.0} | generation
        self.server, self.concurrency = server, max(1, int(model.get("concurrency") or 4))
        self.send_private = bool(model.get("send_private"))
        self.scoring = str(model.get("option_scoring") or "auto")
        if self.scoring not in SCORING:
            raise UsageError(f"model.option_scoring={self.scoring} is unknown: write {', '.join(SCORING)}.")
        self.auto, self.notes = self.scoring == "auto", []
        self.template_args = dict(model.get("template_args") or {})
        self.tokenizer = _tokenizer(model.get("path"), model.get("template"))
        if self.scoring == "auto":
            self.scoring = "echo" if self.tokenizer is not None else "top_logprobs"
        if self.scoring == "echo" and self.tokenizer is None:
            raise UsageError("model.option_scoring=echo needs model.path, a folder with the model's tokenizer.")
        self.admitted = False  # whether somebody said what kind the data are
        self.refused: set[str] = set()  # extras that this server rejected: they are sent no more
        self.cache: AnswerCache | NoCache = NoCache()

    def use_cache(self, setting: Any, data_kind: str | None) -> None:
        """model.cache and the kind of the data. A server may serve other weights under the same name tomorrow: then
        model.cache=false. Raises UsageError for private data that would leave this machine."""
        self.server.admit(data_kind, self.send_private)
        self.admitted = True
        keep = wanted(setting, data_kind) and float(self.settings["temperature"]) == 0.0
        self.cache = AnswerCache(f"openai {self.server.url} {self.server.served}") if keep else NoCache()

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Prediction]:
        if not self.admitted:  # a caller that named no kind: what it sends may be private
            self.server.admit(None, self.send_private)
        _ = self.server.client  # made once, before the threads
        iterator = iter(samples)
        with ThreadPoolExecutor(self.concurrency) as pool:
            while chunk := list(islice(iterator, CHUNK)):
                yield from self._chunk(chunk, pool)

    def _chunk(self, chunk: Sequence[Sample], pool: ThreadPoolExecutor) -> Iterator[Prediction]:
        jobs: dict[str, Callable[[], Any]] = {}
        parts: list[dict[str, str]] = []  # a sample's requests by column
        for sample in chunk:
            inputs, mine = sample.inputs, {}
            if inputs.get("options") is not None and self.scoring != "none":
                for column, name in (("option_logprobs", "messages"), ("blind_logprobs", "blind_messages")):
                    if inputs.get(name) is not None:
                        key = digest(self.scoring, inputs[name], inputs.get("lead", ""), list(inputs["options"]))
                        jobs[key] = lambda s=sample, n=name: self._score(s, n)
                        mine[column] = key
            if self.max_tokens > 0:
                key = digest("text", inputs["messages"], self.max_tokens, self.settings)
                jobs[key] = lambda s=sample: self._text(s)
                mine["text"] = key
            parts.append(mine)
        known = self.cache.find(list(jobs))
        waiting = {pool.submit(job): key for key, job in jobs.items() if key not in known}
        try:
            for done in as_completed(waiting):
                known[waiting[done]] = done.result()
                self.cache.keep({waiting[done]: done.result()})
        finally:
            for one in waiting:
                one.cancel()
        for sample, mine in zip(chunk, parts, strict=True):
            values: dict[str, Any] = {}
            if sample.inputs.get("options") is not None:
                scored = known.get(mine.get("option_logprobs")) or {}
                blind = known.get(mine.get("blind_logprobs")) or {}
                values = {
                    "option_logprobs": scored.get("logprobs"),
                    "option_tokens": scored.get("tokens"),
                    "blind_logprobs": blind.get("logprobs"),
                    "option_source": scored.get("source"),
                }
            yield Prediction(sample.sample_id, sample.patient_id, values | (known.get(mine.get("text")) or {}))

    # ----------------------------------------------------------------------------------------------- requests

    def _text(self, sample: Sample) -> dict[str, Any]:
        about = f"sample {sample.sample_id}"
        answer = self.server.call(
            lambda: self.server.client.chat.completions.create(
                model=self.server.served, messages=sample.inputs["messages"], max_tokens=self.max_tokens,
                **self.settings,
            ),
            about,
        )  # fmt: skip
        choice = self.server.choice(answer, about)
        text = getattr(getattr(choice, "message", None), "content", None)
        if not isinstance(text, str):
            raise DataError(f"{self.server.url} sent a malformed answer about {about}: it holds no text.")
        tokens = getattr(getattr(answer, "usage", None), "completion_tokens", None)
        return {"text": text.strip(), "stopped": choice.finish_reason == "stop", "tokens": tokens}

    def _score(self, sample: Sample, name: str) -> dict[str, Any]:
        if self.scoring == "echo" and "echo" not in self.refused:
            try:
                return self._echo(sample, name)
            except Rejected as error:
                if not self.auto:
                    raise
                self.refused.add("echo")
                self.note(f"echoes no prompt, so the first letter is scored ({error})")
        return self._first_letter(sample, name)

    def _echo(self, sample: Sample, name: str) -> dict[str, Any]:
        """Prompt and option as token ids; the server returns the log-probability of each of them."""
        from clarion.trainers.sft_options import question

        inputs, about = sample.inputs, f"the options of sample {sample.sample_id}"
        one = question(
            self.tokenizer, inputs[name], inputs.get("lead", ""), inputs["options"], self.template_args,
            sample.sample_id,
        )  # fmt: skip
        sums = []
        for option in one.options:
            ids = [*one.prefix, *option]
            answer = self.server.call(
                lambda ids=ids: self.server.client.completions.create(
                    model=self.server.served, prompt=ids, max_tokens=1, echo=True, logprobs=1, temperature=0.0
                ),
                about,
            )
            listed = getattr(getattr(self.server.choice(answer, about), "logprobs", None), "token_logprobs", None) or []
            scored = listed[len(one.prefix) : len(ids)]
            if len(scored) < len(option) or not all(isinstance(v, int | float) for v in scored):
                raise DataError(
                    f"{self.server.url} returns no log-probabilities of a prompt (echo): use "
                    "model.option_scoring=top_logprobs or none."
                )
            sums.append(float(sum(scored)))
        return {"logprobs": sums, "tokens": [len(o) for o in one.options], "source": "echo"}

    def _tolerated(self, ask: Callable[[], Any], extras: bool) -> Any:
        """ask(); where the server rejects it and model.option_scoring is auto: again without vLLM's extras, then None
        (no log-probabilities). What was rejected once is not sent again."""
        if "logprobs" in self.refused:
            return None
        try:
            return ask()
        except Rejected as error:
            if not self.auto:
                raise
            reason = error
        if extras and "extras" not in self.refused:
            try:
                self.refused.add("extras")
                answer = ask()
                self.note(f"takes no fields of vLLM, so the lead stands in a turn of its own ({reason})")
                return answer
            except Rejected as error:
                reason = error
        if "logprobs" not in self.refused:
            self.refused.add("logprobs")
            self.note(f"gives no log-probabilities, so answers are scored by their text alone ({reason})")
        return None

    def note(self, text: str) -> None:
        self.notes.append(f"{self.server.url} {text}")
        log.warning("%s", self.notes[-1])

    def _first_letter(self, sample: Sample, name: str) -> dict[str, Any]:
        """The first token behind the lead. The lead is sent as the beginning of the assistant's turn."""
        inputs, about = sample.inputs, f"the options of sample {sample.sample_id}"
        lead = str(inputs.get("lead", ""))
        messages = [*inputs[name], *([{"role": "assistant", "content": lead}] if lead else [])]
        # vLLM's names for "go on with this turn"; llama.cpp does so by itself, others ignore them
        goes_on = {"add_generation_prompt": False, "continue_final_message": True} if lead else {}

        def ask() -> Any:
            extras = {} if "extras" in self.refused else goes_on
            return self.server.call(
                lambda: self.server.client.chat.completions.create(
                    model=self.server.served, messages=messages, max_tokens=1, temperature=0.0, logprobs=True,
                    top_logprobs=TOP, extra_body=extras,
                ),
                about,
            )  # fmt: skip

        answer = self._tolerated(ask, bool(goes_on))
        if answer is None:
            return {"logprobs": None, "tokens": None, "source": None}
        content = getattr(getattr(self.server.choice(answer, about), "logprobs", None), "content", None)
        listed = {t.token: t.logprob for t in content[0].top_logprobs} if content else {}
        found = letters(listed, inputs["options"])
        return {"logprobs": found, "tokens": None if found is None else [1] * len(found), "source": "top_logprobs"}


def letters(listed: Mapping[str, float], options: Sequence[str]) -> list[float] | None:
    """Log-probability of each option from the alternatives of one token: those that begin this option and no other.

    None where no option is among them. An option that is not listed gets the least listed value, an upper bound."""
    scores: list[list[float]] = [[] for _ in options]
    for token, logprob in listed.items():
        begins = [k for k, option in enumerate(options) if token.strip() and option.startswith(token.strip())]
        if len(begins) == 1 and math.isfinite(logprob):
            scores[begins[0]].append(logprob)
    if not any(scores):
        return None
    least = min(v for v in listed.values() if math.isfinite(v))
    return [_logsumexp(values) if values else float(least) for values in scores]


def _logsumexp(values: Sequence[float]) -> float:
    top = max(values)
    return float(top + math.log(sum(math.exp(v - top) for v in values)))


def _tokenizer(path: Any, template: Any) -> Any:
    if not path:
        return None
    from clarion.trainers.sft_weights import stay_offline

    stay_offline()
    from transformers import AutoTokenizer

    from clarion.trainers.sft_chat import use_template

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), local_files_only=True)
    except (OSError, ValueError) as error:
        raise UsageError(f"model.path={path} holds no tokenizer ({' '.join(str(error).split())[:150]}).") from None
    use_template(tokenizer, template)
    return tokenizer
