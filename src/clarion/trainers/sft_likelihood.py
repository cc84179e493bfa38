"""How likely a language model finds whole documents: negative log-likelihoods for perplexity and bits per byte."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import torch

from clarion.trainers.base import Prediction, Sample
from clarion.trainers.sft_documents import DocumentFormat
from clarion.trainers.sft_predict import SftPredictor

MAX_WINDOW = 2048  # tokens of context at most: memory of a batch grows with it
CHUNK_BATCHES = 8  # batches whose windows are sorted by length together


class DocumentPredictor:
    """Samples {"text"} -> Prediction {"nll", "tokens", "bytes" [, "untouched_nll"]}, in the order of the samples.

    nll: sum of -log p in nats over the tokens of the text and its end-of-text token, each predicted from what stands
    before it, the first from BOS (from the end-of-text token where documents have no BOS: models saw it there). tokens:
    how many were predicted; bytes: of the text in UTF-8. untouched_nll: the same by the base model, where the network
    carries an adapter that can be switched off. Documents longer than `window` are read in windows that overlap by
    half, and each token is counted once, with at least half a window of context.
    """

    def __init__(
        self, network: Any, tokenizer: Any, form: DocumentFormat, batch_size: int = 8, window: int = MAX_WINDOW
    ):
        self.network, self.tokenizer, self.form, self.batch_size = network, tokenizer, form, batch_size
        self.window = min(window, int(network.config.max_position_embeddings))
        self.adapted = hasattr(network, "disable_adapter")

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Prediction]:
        iterator = iter(samples)
        while chunk := list(islice(iterator, self.batch_size * CHUNK_BATCHES)):
            texts = [sample.inputs["text"] for sample in chunk]
            windows = [(k, *w) for k, text in enumerate(texts) for w in self._windows(text)]
            own = self._sums(windows, len(chunk))
            base = None
            if self.adapted:
                with self.network.disable_adapter():
                    base = self._sums(windows, len(chunk))
            for k, sample in enumerate(chunk):
                tokens = sum(len(ids) - counted for row, ids, counted in windows if row == k)
                values = {"nll": own[k], "tokens": tokens, "bytes": len(texts[k].encode())}
                if base is not None:
                    values["untouched_nll"] = base[k]
                yield Prediction(sample.sample_id, sample.patient_id, values)

    def _windows(self, text: str) -> Iterator[tuple[list[int], int]]:
        """(ids, first position that counts): together every token after the first is counted once."""
        head = self.form.eos_id if self.form.bos_id is None else self.form.bos_id
        ids = [head, *self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], self.form.eos_id]
        start, done = 0, 1
        while done < len(ids):
            stop = min(len(ids), start + self.window)
            yield ids[start:stop], done - start
            start, done = start + self.window // 2, stop

    def _sums(self, windows: Sequence[tuple[int, list[int], int]], n: int) -> list[float]:
        sums = [0.0] * n
        order = sorted(range(len(windows)), key=lambda k: len(windows[k][1]))
        for at in range(0, len(order), self.batch_size):
            part = [windows[k] for k in order[at : at + self.batch_size]]
            for (row, _, _), value in zip(part, self._nll(part), strict=True):
                sums[row] += value
        return sums

    @torch.inference_mode()
    def _nll(self, part: Sequence[tuple[int, list[int], int]]) -> list[float]:
        width, device = max(len(ids) for _, ids, _ in part), self.network.device
        # Right padding: a causal model never looks at it, so that it changes nothing that is counted.
        ids = torch.tensor([row + [self.form.eos_id] * (width - len(row)) for _, row, _ in part], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for _, row, _ in part], device=device)
        logits = self.network(input_ids=ids, attention_mask=mask, use_cache=False).logits
        values = []
        for row, (_, own, counted) in enumerate(part):  # one at a time: [width, vocabulary] in float32 at most
            target = ids[row, counted : len(own)]
            loss = torch.nn.functional.cross_entropy(
                logits[row, counted - 1 : len(own) - 1].float(), target, reduction="sum"
            )
            values.append(float(loss))
        return values


class ChatOrDocuments(SftPredictor):
    """A tuned chat model that is also asked how likely whole documents are: samples {"text"} go to `documents`."""

    documents: DocumentPredictor

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Prediction]:
        iterator = iter(samples)
        first = next(iterator, None)
        if first is not None:
            answer = self.documents if "text" in first.inputs else super().__call__
            yield from answer(chain([first], iterator))
