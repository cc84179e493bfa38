"""Packed documents do not see each other: logits, gradients, the trainer's own proof, and what would leak."""

from __future__ import annotations

import pytest
from sft_small import SMALL, Log, Rows, model_config, run_in, trainer_for

from clarion.errors import DataError, UsageError
from clarion.trainers.sft_packing import prove_isolation

TOLERANCE = 1e-5
ROWS = [
    {
        "prompt": [{"role": "user", "content": f"Which stage is eye {k}?"}],
        "completion": [{"role": "assistant", "content": f"Stage {k % 5}."}],
    }
    for k in range(12)
]


@pytest.fixture(scope="module")
def packing():
    """The SFTTrainer that our trainer builds with packing=true, caught before its first step."""
    import contextlib
    import tempfile
    from pathlib import Path

    from clarion.trainers import sft
    from clarion.trainers.sft_settings import undo_global_state

    caught = {}

    class Stop(Exception):
        pass

    class Looking(Log):
        def log(self, metrics, step):
            raise AssertionError("a step was made")

    trainer = trainer_for(model_config("llama_tiny", architecture=SMALL), packing=True, max_length=128)
    build = trainer._trainer

    def keep(*args):
        caught["trainer"] = build(*args)
        raise Stop

    trainer._trainer = keep
    # The accelerator's state must outlive fit here, and nothing longer.
    with undo_global_state(), pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(sft, "undo_global_state", contextlib.nullcontext)
        with pytest.raises(Stop):
            trainer.fit(run_in(Path(folder), Rows(ROWS), Looking()))
        caught["trainer"].model.eval()
        yield caught["trainer"]


def pack(trainer, first: list[int], second: list[int]) -> dict:
    """One pack of two documents through the trainer's own collator; loss on the second alone."""
    row = {
        "input_ids": first + second,
        "labels": [-100] * len(first) + second,
        "seq_lengths": [len(first), len(second)],
    }
    return trainer._prepare_inputs(trainer.data_collator([row]))


BODY, NEIGHBOURS = [40, 60, 80, 90, 100, 110, 120, 50], ([7, 8, 9, 10, 11, 12], [201, 202, 203, 204, 205, 206])


def test_logits_do_not_depend_on_the_neighbour(packing):
    import torch

    with torch.no_grad():
        a, b = (packing.model(**pack(packing, n, BODY), use_cache=False).logits[0, 6:] for n in NEIGHBOURS)
        alone = packing.model(torch.tensor([BODY]), use_cache=False).logits[0]
    assert (a - b).abs().max() <= TOLERANCE
    assert (a - alone).abs().max() <= TOLERANCE


def test_gradients_do_not_depend_on_the_neighbour(packing):
    import torch

    grads = []
    for neighbour in NEIGHBOURS:
        packing.model.zero_grad()
        packing.compute_loss(packing.model, pack(packing, neighbour, BODY)).backward()
        grads.append({n: p.grad.clone() for n, p in packing.model.named_parameters() if p.grad is not None})
    packing.model.zero_grad()
    assert grads[0] and max((grads[0][n] - grads[1][n]).abs().max() for n in grads[0]) <= TOLERANCE
    assert torch.stack([g.abs().max() for g in grads[0].values()]).max() > 1e-3, "nothing was learnt at all"


@pytest.fixture
def dense(packing):
    """The same network on transformers' own SDPA, which reads the documents' borders from the position_ids."""
    name = packing.model.config._attn_implementation
    packing.model.set_attn_implementation("sdpa")
    yield packing
    packing.model.set_attn_implementation(name)


def test_one_document_at_a_time_is_the_dense_attention(packing):
    import torch

    assert packing.model.config._attn_implementation == "clarion_packed_sdpa"
    batch = pack(packing, NEIGHBOURS[0], BODY)
    with torch.no_grad():
        ours = packing.model(**batch, use_cache=False).logits
        packing.model.set_attn_implementation("sdpa")
        theirs = packing.model(**batch, use_cache=False).logits
    packing.model.set_attn_implementation("clarion_packed_sdpa")
    assert (ours - theirs).abs().max() <= TOLERANCE
    padded = {"input_ids": torch.tensor([BODY, BODY]), "attention_mask": torch.tensor([[1] * 8, [1] * 5 + [0] * 3])}
    with torch.no_grad():  # batches without borders, such as generation's, run as ever
        logits = packing.model(**padded, use_cache=False).logits
    assert (logits[0, :5] - logits[1, :5]).abs().max() <= TOLERANCE


def test_an_attention_mask_leaks(dense):
    """The trap: the same batch with a mask of ones mixes the documents, which a custom loop or collator would pass."""
    import torch

    packing = dense
    with torch.no_grad():
        found = []
        for neighbour in NEIGHBOURS:
            batch = pack(packing, neighbour, BODY)
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])
            found.append(packing.model(**batch, use_cache=False).logits[0, 6:])
    assert (found[0] - found[1]).abs().max() > 0.01


def test_the_proof_passes_and_leaves_no_trace(packing):
    before = {mode: {k: list(v) for k, v in metrics.items()} for mode, metrics in packing._metrics.items()}
    assert prove_isolation(packing) <= TOLERANCE
    assert {mode: {k: list(v) for k, v in m.items()} for mode, m in packing._metrics.items()} == before
    assert not packing.model.training


def test_the_proof_catches_a_collator_that_adds_a_mask(dense, monkeypatch):
    import torch

    packing, collate = dense, dense.data_collator

    def masked(rows):
        batch = collate(rows)
        return batch | {"attention_mask": torch.ones_like(batch["input_ids"])}

    monkeypatch.setattr(packing, "data_collator", masked)
    with pytest.raises(DataError, match="packed documents see each other .*packing=false"):
        prove_isolation(packing)


def test_the_proof_catches_a_collator_without_positions(packing, monkeypatch):
    collate = packing.data_collator

    def bare(rows):
        return {k: v for k, v in collate(rows).items() if k in ("input_ids", "labels")}

    monkeypatch.setattr(packing, "data_collator", bare)
    with pytest.raises(DataError, match="packed documents see each other"):
        prove_isolation(packing)


def test_training_says_that_it_was_proven(tmp_path, capsys):
    trainer = trainer_for(model_config("llama_tiny", architecture=SMALL), packing=True, max_length=128, max_steps=1)
    trainer.fit(run_in(tmp_path, Rows(ROWS)))
    assert "packing: documents are isolated" in capsys.readouterr().err


@pytest.mark.parametrize("args", [{"packing": True}, {"eval_packing": True}])
def test_wrapped_packs_of_conversations_are_refused(tmp_path, args):
    trainer = trainer_for(model_config("llama_tiny", architecture=SMALL), packing_strategy="wrapped", **args)
    with pytest.raises(UsageError, match="lets packed conversations see each other and cuts answers: use bfd"):
        trainer.fit(run_in(tmp_path, Rows(ROWS)))
