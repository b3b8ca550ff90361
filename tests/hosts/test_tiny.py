"""The tiny model: an ordinary Molmo2 folder that plain transformers loads, the same bytes in every run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer,
    Molmo2Config,
    Molmo2ForConditionalGeneration,
    PreTrainedTokenizerBase,
)

from stts.data.processors.molmo2 import MULTIMODAL_TOKENS, VideoProcessor
from stts.data.synthetic.clips import conversation, make_clip
from stts.data.synthetic.spec import SyntheticSpec
from stts.data.video.read import Clip
from stts.hosts.tiny import EXTRA_TOKENS, build_config, make_tiny, shipped_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@pytest.fixture(scope="module")
def model(folder: Path) -> Molmo2ForConditionalGeneration:
    return Molmo2ForConditionalGeneration.from_pretrained(folder, local_files_only=True).eval()


@pytest.fixture(scope="module")
def example_inputs(folder: Path) -> dict[str, torch.Tensor]:
    """A conversation about random frames, as plain transformers takes it."""
    rng, _, questions = make_clip("train", 0, SyntheticSpec())
    clip = Clip(frames=rng.integers(0, 256, (3, 72, 72, 3), dtype="uint8"), timestamps=[0.0, 0.5, 1.0])
    inputs = VideoProcessor.from_pretrained(folder)(conversation(questions, SyntheticSpec(), rng), clip)
    inputs["pixel_values_videos"] = inputs["pixel_values_videos"].float() / 127.5 - 1
    text = ("input_ids", "labels", "mm_token_type_ids")
    return {key: value[None] if key in text else value for key, value in inputs.items()}


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_is_small_and_whole(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3_000_000
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= set(
        digests(folder)
    )
    tensors = load_file(folder / "model.safetensors")
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in tensors.values())


def test_loads_in_plain_transformers_without_a_word(folder: Path) -> None:
    _, report = Molmo2ForConditionalGeneration.from_pretrained(
        folder, local_files_only=True, output_loading_info=True
    )
    assert not any(report.values()), report


def test_leaves_room_for_pruning(model: Molmo2ForConditionalGeneration) -> None:
    """Scores after block 3 and a biased block 4: features must come from block 4 on, some of them pruned."""
    vision, adapter = model.config.vision_config, model.config.adapter_config
    assert vision.num_hidden_layers >= 6
    assert min(adapter.vision_feature_layer) >= 4
    assert max(adapter.vision_feature_layer) >= 5
    assert (vision.image_size[0] // vision.patch_size) % 3 == 0


def test_forward_loss_and_gradients(model: Molmo2ForConditionalGeneration, example_inputs: dict) -> None:
    out = model(**example_inputs)
    assert out.logits.shape == (*example_inputs["input_ids"].shape, model.config.text_config.vocab_size)
    assert out.logits.isfinite().all()
    assert out.loss < 30  # random weights, not exploding ones
    out.loss.backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    model.zero_grad()
    # k biases shift all logits of a softmax alike; nothing else may be without gradient
    assert all(name.endswith("k_proj.bias") for name in dead), dead


def test_signal_keeps_its_scale_through_the_layers(
    model: Molmo2ForConditionalGeneration, example_inputs: dict
) -> None:
    """Neither a vanishing nor an exploding start: visual tokens arrive on the scale of the words."""
    with torch.no_grad():
        out = model.model(**{k: v for k, v in example_inputs.items() if k != "labels"})
    visual = out.image_hidden_states.pow(2).mean().sqrt()
    words = model.get_input_embeddings().weight.pow(2).mean().sqrt()
    assert 0.2 < visual / words < 5


def test_looks_for_what_is_alike(model: Molmo2ForConditionalGeneration) -> None:
    """k_proj starts as q_proj: before positions are added, a token's best match is itself."""
    embeddings = model.get_input_embeddings().weight
    for layer in model.model.language_model.layers:
        attention = layer.self_attn
        assert torch.equal(attention.q_proj.weight, attention.k_proj.weight)
        q = attention.q_norm(attention.q_proj(layer.input_layernorm(embeddings)).unflatten(-1, (3, 32)))
        k = attention.k_norm(attention.k_proj(layer.input_layernorm(embeddings)).unflatten(-1, (3, 32)))
        best = torch.einsum("qhd,khd->hqk", q, k).argmax(-1)
        assert (best == torch.arange(len(embeddings))).all()


def test_generates_until_the_end_token(
    model: Molmo2ForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, example_inputs: dict
) -> None:
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == end
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    inputs = {key: value for key, value in example_inputs.items() if key != "labels"}
    length = inputs["input_ids"].shape[1]
    others = [i for i in range(model.config.text_config.vocab_size) if i != end]
    for suppressed, said in ([end], 4), (others, 1):
        out = model.generate(**inputs, do_sample=False, max_new_tokens=4, suppress_tokens=suppressed)
        assert out.shape[1] == length + said


def test_same_bytes_in_every_process(folder: Path, tmp_path: Path) -> None:
    code = "import sys; from stts.hosts.tiny import make_tiny as m; m(sys.argv[1]); m(sys.argv[2], seed=1)"
    environment = {"PYTHONHASHSEED": "77", "TOKENIZERS_PARALLELISM": "true"}
    subprocess.run(
        [sys.executable, "-c", code, tmp_path / "same", tmp_path / "other"],
        check=True,
        env=os.environ | environment,
    )
    assert digests(tmp_path / "same") == digests(folder)
    other = digests(tmp_path / "other")
    assert other["model.safetensors"] != digests(folder)["model.safetensors"]
    assert other["tokenizer.json"] == digests(folder)["tokenizer.json"]


def test_made_once_and_without_touching_the_global_generator(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    made = make_tiny(tmp_path / "tiny", seed=2)
    assert torch.equal(torch.rand(3), expected)
    before = (made / "model.safetensors").stat().st_mtime_ns
    assert make_tiny(tmp_path / "tiny", seed=2) == made
    assert (made / "model.safetensors").stat().st_mtime_ns == before
    weights = (made / "model.safetensors").read_bytes()
    make_tiny(tmp_path / "tiny", seed=3)
    assert (made / "model.safetensors").read_bytes() != weights
    with pytest.raises(ValueError, match="seed is -1"):
        make_tiny(tmp_path / "tiny", seed=-1)


def test_refuses_a_folder_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("trained for a week")
    with pytest.raises(ValueError, match="choose a new or an empty folder"):
        make_tiny(tmp_path)
    assert (tmp_path / "model.safetensors").read_text() == "trained for a week"


def test_every_word_of_the_questions_is_one_token(tokenizer: PreTrainedTokenizerBase) -> None:
    spec = SyntheticSpec(seed=99, min_events=1, max_events=6, questions_per_clip=99, direct_share=0.5)
    for index in range(100):
        rng, _, questions = make_clip("train", index, spec)
        for turn in conversation(questions, spec, rng):
            words = re.findall(r" ?\w+", turn["content"])
            tokens = tokenizer.tokenize(turn["content"])
            assert len(tokens) == len(words) + len(re.findall(r"[.?]\n?|(?<![.?])\n", turn["content"]))
    assert [len(tokenizer.tokenize(role)) for role in ("user", "assistant")] == [1, 1]


def test_digits_are_separate(tokenizer: PreTrainedTokenizerBase) -> None:
    tokens = [tokenizer.decode(i) for i in tokenizer(" 127.5 ").input_ids]
    assert tokens == [" ", "1", "2", "7", ".", "5", " "]


@settings(max_examples=200, deadline=None)
@given(st.text())
@example("e\u0301 \u00e9 \ufb01 \u1e9b\u0323")  # nothing is normalised away
@example("  two  spaces\r\n\ttab \x00\x7f ")
@example("中文 العربية 👩‍👩‍👧 ok?")
def test_round_trips_unicode(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    assume(not any(token.content in text for token in tokenizer.added_tokens_decoder.values()))
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert max(ids, default=0) < len(tokenizer) - len(EXTRA_TOKENS)


def test_special_tokens_stand_where_molmo2_has_them(
    folder: Path, tokenizer: PreTrainedTokenizerBase, model: Molmo2ForConditionalGeneration
) -> None:
    config = model.config
    size = config.text_config.vocab_size
    assert size < 1000
    assert model.lm_head.weight.shape[0] == size
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer) == size + len(EXTRA_TOKENS)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in (*EXTRA_TOKENS, *MULTIMODAL_TOKENS)}
    assert min(ids.values()) == size
    assert ids["<im_start>"] == config.image_start_token_id
    assert ids["<im_end>"] == config.image_end_token_id
    assert ids["<im_patch>"] == config.image_patch_id
    assert ids["<low_res_im_start>"] == config.low_res_image_start_token_id
    assert ids["<frame_start>"] == config.frame_start_token_id
    assert ids["<frame_end>"] == config.frame_end_token_id
    # the same distances as in the released checkpoints (151936 + these)
    offsets = {"<im_patch>": 2, "<low_res_im_start>": 4, "<frame_start>": 7, "<frame_end>": 8}
    assert {token: ids[token] - size for token in offsets} == offsets
    for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        assert tokenizer(token).input_ids == [tokenizer.convert_tokens_to_ids(token)]
        assert tokenizer.convert_tokens_to_ids(token) < size
    saved = json.loads((folder / "config.json").read_text())
    assert saved["eos_token_id"] == tokenizer.eos_token_id


def test_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    turns = [
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "How many?"}]},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "Sure?"},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|video|><|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.apply_chat_template(turns[:2], tokenize=False).endswith("assistant\ntwo")
    with pytest.raises(Exception, match="alternate"):
        tokenizer.apply_chat_template(turns[1:], tokenize=False)


def test_it_is_what_it_was(tiny_folder: Path) -> None:
    """Sizes and record are those of the first version: its folders are found again."""
    shipped = Molmo2Config.from_pretrained(shipped_folder())
    built = build_config(AutoTokenizer.from_pretrained(shipped_folder()))
    for part in ("vision_config", "adapter_config", "text_config"):
        changed = {"dtype", "transformers_version"}
        one, other = (getattr(config, part).to_dict() for config in (built, shipped))
        assert {k: v for k, v in one.items() if k not in changed} == {
            k: v for k, v in other.items() if k not in changed
        }
    made = json.loads((tiny_folder / "made.json").read_text())
    assert made["settings"] == {"tiny": 2, "words": 2, "seed": 0}
    first = load_file(tiny_folder / "model.safetensors")["lm_head.weight"][0, :3]
    torch.testing.assert_close(first, torch.tensor([-0.114906, -0.117612, -0.025575]), atol=1e-5, rtol=0)
