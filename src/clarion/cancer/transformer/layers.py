"""The networks: a transformer over gene tokens, and a plain MLP on the same input to compare it with."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import nn
from torch.nn import functional

from clarion.errors import UsageError

from .tokens import SEXES

FULL_UP_TO = 512  # genes: beyond, attention of every gene to every gene costs more than it is worth
EXTRA = 4  # tokens that are no genes: readout, cancer, age, sex
Batch = dict[str, torch.Tensor]


class Pairs(nn.Module):
    """The coefficient of every gene in every cancer: buffers that come with the facts, not with the weights."""

    def __init__(self, coef: torch.Tensor, source: torch.Tensor):
        super().__init__()
        self.register_buffer("coef", coef, persistent=False)  # [cancers + 1, p]
        self.register_buffer("source", source, persistent=False)  # NONE, OWN, PAN
        spread = (coef.square().sum() / (source > 0).sum().clamp(min=1)).sqrt()  # unknown ones are 0
        self.register_buffer("unit", spread.clamp(min=1e-3), persistent=False)

    def forward(self, cancer: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cancer int64 [B] -> (coefficients in their own spread, source) [B, p]."""
        return (self.coef[cancer] / self.unit).clamp(-8, 8), self.source[cancer]


class Attention(nn.Module):
    """Multi-head attention of `queries` to `keys` by torch's memory-lean kernel."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        if width % heads:
            raise UsageError(f"model.width={width} must be a multiple of model.heads={heads}.")
        self.heads, self.dropout = heads, dropout
        self.query, self.pair = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: torch.Tensor, keys: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """queries [B, q, d], keys [B, k, d], seen bool [B, k] -> [B, q, d]."""
        q = self._split(self.query(queries))
        k, v = (self._split(part) for part in self.pair(keys).chunk(2, -1))
        mixed = functional.scaled_dot_product_attention(
            q, k, v, seen[:, None, None, :], self.dropout if self.training else 0.0
        )
        return self.out(mixed.transpose(1, 2).flatten(2))

    def weights(self, queries: torch.Tensor, keys: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """The attention itself, mean over heads [B, q, k]: for explanations."""
        q, k = self._split(self.query(queries)), self._split(self.pair(keys).chunk(2, -1)[0])
        score = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        return score.masked_fill(~seen[:, None, None, :], float("-inf")).softmax(-1).mean(1)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Pre-norm attention and feed-forward. first: gene tokens are not normalised (their size is the signal)."""

    def __init__(self, width: int, heads: int, dropout: float, first: bool = False):
        super().__init__()
        self.norm_queries = nn.LayerNorm(width)
        self.norm_keys = nn.Identity() if first else nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.feed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(2 * width, width), nn.Dropout(dropout),
        )  # fmt: skip

    def forward(self, x: torch.Tensor, keys: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm_queries(x), self.norm_keys(keys), seen)
        return x + self.feed(x)


class Tabular(nn.Module, ABC):
    """Base: the pairs of a batch, with genes and the cancer left out at random while training."""

    def __init__(self, coef: torch.Tensor, source: torch.Tensor, width: int, outputs: int, dropout: float,
                 gene_dropout: float, cancer_dropout: float):  # fmt: skip
        super().__init__()
        self.pairs = Pairs(coef, source)
        self.gene_dropout, self.cancer_dropout = gene_dropout, cancer_dropout
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, outputs)

    def disturbed(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(known [B, p], cancer [B]): in training some genes are unseen, and some cancers unknown, which teaches the
        network what to do on a cancer without a fit."""
        known, cancer = batch["known"], batch["cancer"]
        if self.training and self.gene_dropout:
            known = known & (torch.rand(known.shape, device=known.device) >= self.gene_dropout)
        if self.training and self.cancer_dropout:
            cancer = cancer * (torch.rand(cancer.shape, device=cancer.device) >= self.cancer_dropout)
        return known, cancer

    def forward(self, batch: Batch) -> torch.Tensor:
        """value float, known bool [B, p]; cancer, sex int64, age, age_known float [B]; optional genes int64 [p], the
        gene of each column (default: in the facts' order) -> logits float32 [B, outputs]."""
        return self.head(self.dropout(self.embed(batch))).float()

    @abstractmethod
    def embed(self, batch: Batch) -> torch.Tensor:
        """[B, width]: the layer before the last."""


class TabularTransformer(Tabular):
    """FT-Transformer (Gorishniy et al. 2021) whose gene token is made of value, coefficient, their product and source.

    attention: "full" (every token to every token, quadratic in genes) | "latent": `latents` learned queries read the
    genes, and attend among themselves (Jaegle et al. 2021): linear in genes | "auto": full up to 512 genes."""

    def __init__(
        self, coef: torch.Tensor, source: torch.Tensor, outputs: int, width: int = 32, heads: int = 4, layers: int = 2,
        dropout: float = 0.2, gene_dropout: float = 0.2, cancer_dropout: float = 0.1, attention: str = "auto",
        latents: int = 16,
    ):  # fmt: skip
        super().__init__(coef, source, width, outputs, dropout, gene_dropout, cancer_dropout)
        if attention not in ("auto", "full", "latent"):
            raise UsageError(f"model.attention={attention} is unknown: use auto, full or latent.")
        genes = coef.shape[1]
        self.latent = attention == "latent" or (attention == "auto" and genes > FULL_UP_TO)
        self.gene = nn.Embedding(genes, width)
        self.pair = nn.Linear(3, width, bias=False)  # value, coefficient, value x coefficient
        self.origin = nn.Embedding(3, width)
        self.cancer, self.sex = nn.Embedding(coef.shape[0], width), nn.Embedding(len(SEXES), width)
        self.age = nn.Linear(2, width)
        self.readout = nn.Parameter(torch.randn(1, latents if self.latent else 1, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, dropout, first=k == 0) for k in range(layers))
        self.among = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers if self.latent else 0))
        self.last = nn.LayerNorm(width)
        for table in (self.gene, self.origin, self.cancer, self.sex):
            nn.init.normal_(table.weight, std=0.02)

    def tokens(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(gene tokens [B, p, d], seen bool [B, p], other tokens [B, 3 + readouts, d], the readouts first)."""
        known, cancer = self.disturbed(batch)
        coef, source = self.pairs(cancer)
        genes = batch.get("genes")
        if genes is not None:
            coef, source = coef[:, genes], source[:, genes]
        value = batch["value"] * known
        pair = self.pair(torch.stack([value, coef, value * coef], -1))
        tokens = pair + self.origin(source) + (self.gene.weight if genes is None else self.gene(genes))
        kind = self.cancer(cancer)
        age = self.age(torch.stack([batch["age"] * batch["age_known"], batch["age_known"]], -1))
        others = [self.readout + kind[:, None], kind[:, None], age[:, None], self.sex(batch["sex"])[:, None]]
        return tokens, known, torch.cat(others, 1)

    def embed(self, batch: Batch) -> torch.Tensor:
        """[B, width] before the last layer."""
        tokens, seen, others = self.tokens(batch)
        always = torch.ones(others.shape[:2], dtype=torch.bool, device=seen.device)
        if not self.latent:
            x, seen = torch.cat([others, tokens], 1), torch.cat([always, seen], 1)
            for block in self.blocks[:-1]:
                x = block(x, x, seen)
            return self.last(self.blocks[-1](x[:, :1], x, seen)[:, 0])  # the last block is read at one token only
        # a patient without any known gene must have a key: the latents themselves are keys too
        x = others
        for read, among in zip(self.blocks, self.among):
            x = read(x, torch.cat([x, tokens], 1), torch.cat([always, seen], 1))
            x = among(x, x, always)
        return self.last(x[:, : self.readout.shape[1]].mean(1))

    def attention_to_genes(self, batch: Batch) -> torch.Tensor:
        """[B, p]: the attention of the readout to each gene in the last block that reads genes, heads averaged."""
        tokens, seen, others = self.tokens(batch)
        always = torch.ones(others.shape[:2], dtype=torch.bool, device=seen.device)
        every = torch.cat([always, seen], 1)
        x = others if self.latent else torch.cat([others, tokens], 1)
        for k, block in enumerate(self.blocks[:-1]):
            x = block(x, torch.cat([x, tokens], 1) if self.latent else x, every)
            x = self.among[k](x, x, always) if self.latent else x
        block = self.blocks[-1]
        keys = torch.cat([x, tokens], 1) if self.latent else x
        queries = block.norm_queries(x[:, : self.readout.shape[1]])
        return block.attention.weights(queries, block.norm_keys(keys), every).mean(1)[:, others.shape[1] :]


class TabularMLP(Tabular):
    """Values, their products with the coefficients, cancer, age and sex through a plain MLP: what attention must beat.

    A missing value is 0, the mean. Its weights belong to columns: genes cannot be given in another order."""

    def __init__(
        self, coef: torch.Tensor, source: torch.Tensor, outputs: int, width: int = 64, layers: int = 2,
        dropout: float = 0.3, gene_dropout: float = 0.2, cancer_dropout: float = 0.1,
    ):  # fmt: skip
        super().__init__(coef, source, width, outputs, dropout, gene_dropout, cancer_dropout)
        self.cancers = coef.shape[0]
        into = 2 * coef.shape[1] + coef.shape[0] + 2 + len(SEXES)
        parts: list[nn.Module] = []
        for k in range(layers):
            parts += [nn.Linear(into if k == 0 else width, width), nn.GELU()]
            parts += [nn.Dropout(dropout)] if k < layers - 1 else []
        self.body = nn.Sequential(*parts)

    def embed(self, batch: Batch) -> torch.Tensor:
        """[B, width] before the last layer."""
        if batch.get("genes") is not None:
            raise UsageError("The MLP knows genes by their column: give them in the order of its facts.")
        known, cancer = self.disturbed(batch)
        coef, _ = self.pairs(cancer)
        value = batch["value"] * known
        clinical = [functional.one_hot(cancer, self.cancers), functional.one_hot(batch["sex"], len(SEXES)),
                    torch.stack([batch["age"] * batch["age_known"], batch["age_known"]], -1)]  # fmt: skip
        return self.body(torch.cat([value, value * coef, *(c.to(value.dtype) for c in clinical)], -1))


NETWORKS = {"transformer": TabularTransformer, "mlp": TabularMLP}
