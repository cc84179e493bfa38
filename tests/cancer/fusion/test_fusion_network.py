"""Soft tokens in a language model: they stand in their places, change the answer, and survive saving."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from clarion.cancer.fusion.network import IGNORED, FusedCausalLM, FusionConfig
from clarion.errors import DataError

PLACE = 99


def language_model():
    torch.manual_seed(1)
    config = LlamaConfig(vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True)  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


def fused(**changes) -> FusedCausalLM:
    llm = language_model()
    settings = {"tokens": 3, "hidden": 16, "dropout": 0.0, "modality_dropout": 0.0} | changes
    config = FusionConfig(llm.config, {"slide": 5, "omics": 7}, placeholder_id=PLACE, **settings)
    return FusedCausalLM(config, llm).eval()


IDS = torch.tensor([[1, PLACE, PLACE, PLACE, 5, 6], [2, PLACE, PLACE, PLACE, 7, 8]])
MASK = torch.ones_like(IDS)
BOTH = torch.ones(2, 2, dtype=torch.bool)


@pytest.fixture
def patients():
    torch.manual_seed(2)
    return {"slide": torch.randn(2, 5), "omics": torch.randn(2, 7)}


def test_soft_tokens_take_the_places_of_the_placeholders_and_nothing_else(patients):
    network = fused()
    found = network.embedded(IDS, patients, BOTH)
    words = network.get_input_embeddings()(IDS)
    soft = network.projector(patients, BOTH)
    assert torch.equal(found[:, [0, 4, 5]], words[:, [0, 4, 5]])
    assert torch.allclose(found[:, 1:4], soft)
    length = words.pow(2).mean().sqrt()  # they start as long as words are
    assert 0.8 < float(soft.detach().pow(2).mean().sqrt() / length.detach()) < 1.25


def test_the_language_model_keeps_its_weights_and_its_attention():
    network, untouched = fused(), language_model()
    assert all(torch.equal(a, b) for a, b in zip(network.llm.parameters(), untouched.parameters(), strict=True))
    assert network.causal.config._attn_implementation == "sdpa"


def test_a_patient_changes_his_own_answer_alone(patients):
    network = fused()
    before = network(IDS, MASK, patients, BOTH).logits
    other = patients | {"omics": patients["omics"].clone()}
    other["omics"][0] += 1
    after = network(IDS, MASK, other, BOTH).logits
    assert not torch.allclose(before[0], after[0]) and torch.allclose(before[1], after[1])


def test_a_missing_modality_is_the_learned_vector_whatever_stands_there(patients):
    network = fused()
    only_slide = torch.tensor([[False, True]] * 2)  # modalities stand by name
    a = network.projector(patients, only_slide)
    b = network.projector(patients | {"omics": torch.full((2, 7), torch.nan)}, only_slide)
    assert torch.equal(a, b) and torch.isfinite(a).all()
    assert not torch.allclose(a, network.projector(patients, BOTH))
    b.sum().backward()
    assert network.projector.missing["omics"].grad is not None


def test_modality_dropout_never_takes_both(patients):
    projector = fused(modality_dropout=0.6).projector.train()
    kept = projector._dropped(torch.ones(4000, 2, dtype=torch.bool))
    assert kept.any(-1).all() and 0.57 < float((~kept.all(-1)).float().mean()) < 0.63
    assert 0.27 < float((~kept[:, 0]).float().mean()) < 0.33
    alone = torch.tensor([[False, True]] * 2)
    assert torch.equal(projector._dropped(alone), alone)


def test_the_loss_is_a_weighted_sum_of_the_labelled_tokens(patients):
    network = fused()
    labels, weights = IDS.clone(), torch.zeros(2, 6)
    labels[:, :4] = IGNORED
    weights[0, 4], weights[0, 5], weights[1, 4] = 2.0, 0.5, 3.0
    logits = network(IDS, MASK, patients, BOTH).logits.log_softmax(-1)
    nll = [[-logits[row, at - 1, IDS[row, at]] for at in (4, 5)] for row in (0, 1)]
    expected = (2 * nll[0][0] + 0.5 * nll[0][1] + 3 * nll[1][0]) / 2
    assert torch.allclose(network(IDS, MASK, patients, BOTH, labels=labels, weights=weights).loss, expected, atol=1e-5)


def test_a_text_that_holds_the_placeholder_is_refused(patients):
    ids = IDS.clone()
    ids[1, 4] = PLACE
    with pytest.raises(DataError, match="holds 4 placeholders for 3 soft tokens"):
        fused()(ids, MASK, patients, BOTH)


def test_saved_whole_it_reloads_and_generates_the_same(tmp_path, patients):
    network = fused()
    network.projector.fit("slide", torch.randn(9, 5) * 4 + 2)
    network.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file() and not list(tmp_path.glob("*.bin"))
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert isinstance(again, FusedCausalLM)
    assert torch.allclose(network(IDS, MASK, patients, BOTH).logits, again(IDS, MASK, patients, BOTH).logits, atol=1e-6)
    texts = [m.generate(IDS, MASK, patients, BOTH, max_new_tokens=5, do_sample=False) for m in (network, again)]
    assert torch.equal(*texts) and texts[0].shape == (2, 5)


def test_what_is_saved_of_a_training_is_what_is_trained(tmp_path):
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file

    network = fused()
    network.llm.requires_grad_(False)
    network.llm = get_peft_model(network.llm, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    network.keep_trained_only()
    network.save_pretrained(tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert all("lora_" in n or n.startswith("projector.") for n in names) and any("lora_B" in n for n in names)
    assert {"projector.mean_slide", "projector.missing.omics"} <= names


def test_the_projector_alone_teaches_a_frozen_model_an_outcome_that_the_slide_shows():
    network = fused().train()
    network.llm.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    slide, omics = torch.randn(96, 5, generator=generator), torch.randn(96, 7, generator=generator)
    died = slide[:, 0] > 0
    ids = torch.tensor([[1, PLACE, PLACE, PLACE, 5, 0]]).repeat(96, 1)
    ids[:, -1] = torch.where(died, 11, 10)
    labels = torch.full_like(ids, IGNORED)
    labels[:, -1] = ids[:, -1]
    everyone = torch.ones(96, 2, dtype=torch.bool)
    optimizer = torch.optim.AdamW(network.projector.parameters(), lr=1e-2)
    for _ in range(60):
        given = {"slide": slide[:64], "omics": omics[:64]}
        loss = network(ids[:64], torch.ones_like(ids[:64]), given, everyone[:64], labels=labels[:64]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    logits = network.eval()(ids[64:], torch.ones_like(ids[64:]), {"slide": slide[64:], "omics": omics[64:]},
                            everyone[64:]).logits[:, -2]  # fmt: skip
    assert float(((logits[:, 11] > logits[:, 10]) == died[64:]).float().mean()) > 0.8
    unseen = {"slide": slide[64:].roll(1, 0), "omics": omics[64:]}  # another patient's slide: the answer goes with it
    moved = network(ids[64:], torch.ones_like(ids[64:]), unseen, everyone[64:]).logits[:, -2]
    assert float(((moved[:, 11] > moved[:, 10]) == died[64:].roll(1)).float().mean()) > 0.8
