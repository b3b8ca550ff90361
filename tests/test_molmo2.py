from __future__ import annotations

import json
import math

import pytest
import torch
from molmo2_factory import PATCH_ID, make_inputs, tiny_config
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Molmo2ForConditionalGeneration

from stts import STTSConfig, STTSMolmo2ForConditionalGeneration
from stts.pruning.layout import BatchLayout
from stts.pruning.windows import window_index

ROWS = [[4], [7], []]  # a video a row, and a row of text


def build(seed: int = 0, grid: int = 6, **stts) -> STTSMolmo2ForConditionalGeneration:
    torch.manual_seed(seed)
    config = tiny_config(grid)
    config.stts = STTSConfig(**stts).to_dict()
    return STTSMolmo2ForConditionalGeneration(config).eval()


def plain_twin(model: STTSMolmo2ForConditionalGeneration) -> Molmo2ForConditionalGeneration:
    twin = Molmo2ForConditionalGeneration(model.config).eval()
    missing, unexpected = twin.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    assert all("scorer" in name for name in unexpected)
    return twin


def labels_of(inputs: dict[str, Tensor]) -> Tensor:
    ignore = (inputs["mm_token_type_ids"] == 1) | (inputs["attention_mask"] == 0)
    return inputs["input_ids"].masked_fill(ignore, -100)


# --- a slow model, one frame and one row at a time, from the weights alone ----------------------------------


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """(n, D), (m, D), (m, D) -> (n, D) by explicit softmax."""
    q, k, v = (x.view(len(x), heads, -1).transpose(0, 1) for x in (q, k, v))
    logits = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
    logits = logits if bias is None else logits + bias
    return (logits.softmax(-1) @ v).transpose(0, 1).flatten(1)


def slow_block(block, x: Tensor, bias: Tensor | None = None) -> Tensor:
    a, y = block.self_attn, block.layer_norm1(x)
    x = x + a.o_proj(attend(a.q_proj(y), a.k_proj(y), a.v_proj(y), 2, bias))
    return x + block.mlp(block.layer_norm2(x))


def slow_bias(scores: Tensor, first: bool) -> Tensor:
    """(4,) scores of a 2 x 2 window grid -> (36,) bias of its patches."""
    bias = torch.zeros(36)
    for patch in range(0 if not first else 36, 36):
        row, col = patch // 6 // 3, patch % 6 // 3
        line = scores[2 * row : 2 * row + 2]
        floor = math.exp(-2)
        weight = floor + (scores[2 * row + col] - line.min()) * (1 - floor) / (line.max() - line.min() + 1e-6)
        bias[patch] = weight.log()
    return bias


def slow_video(model, pixels: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """(T, 36, 48) -> LLM tokens of the kept windows, and the keep mask (T, 4)."""
    tower, scorer = model.model.vision_tower, model.model.vision_tower.scorer
    frames = []
    for frame in pixels:
        x = tower.patch_embedding(frame) + tower.positional_embedding
        for block in tower.layers[:4]:
            x = slow_block(block, x)
        frames.append(x)
    members = window_index((6, 6), 3)
    scores = []
    for t, x in enumerate(frames):
        per_patch = scorer(x[None], frames[t - 1][None] if t else None)[0]
        scores.append(per_patch[members[:, 0]])
    scores = torch.stack(scores)
    ranked = sorted((float(scores[t, w]), t, w) for t in range(1, len(frames)) for w in range(4))
    keep = torch.ones(len(frames), 4, dtype=torch.bool)
    for _, t, w in ranked[: min(math.floor(4 * len(frames) * ratio + 1e-6), 4 * (len(frames) - 1))]:
        keep[t, w] = False
    tokens = []
    for t, x in enumerate(frames):
        x = slow_block(tower.layers[4], x, slow_bias(scores[t], first=t == 0))
        kept = [p for p in range(36) if keep[t, p // 6 // 3 * 2 + p % 6 // 3]]
        features = {4: x[kept]}
        y = x[kept]
        for i in (5, 6):
            y = features[i] = slow_block(tower.layers[i], y) if kept else y
        for w in range(4):
            if keep[t, w]:
                places = [kept.index(p) for p in members[w].tolist()]
                tokens.append(slow_adapter(model, torch.cat([features[6], features[4]], -1)[places]))
    return torch.stack(tokens), keep


def slow_adapter(model, window: Tensor) -> Tensor:
    """(9, 2 D) -> (D_llm,)."""
    adapter = model.model.multi_modal_projector
    a = adapter.image_pooling_2d
    pooled = a.o_proj(attend(a.q_proj(window.mean(0, keepdim=True)), a.k_proj(window), a.v_proj(window), 2))
    return adapter.image_projector(pooled)[0]


def slow_row(model, ids: Tensor, types: Tensor, tokens: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """One row without padding -> logits of its survivors, and which they are."""
    windows = iter(keep.flatten().tolist())
    kept = [i for i, token in enumerate(ids.tolist()) if token != PATCH_ID or next(windows)]
    embeds = model.get_input_embeddings()(ids[kept])
    visual = iter(tokens)
    embeds = torch.stack(
        [e + next(visual) if ids[i] == PATCH_ID else e for e, i in zip(embeds, kept, strict=True)]
    )
    mask = torch.zeros(1, 1, len(kept), len(kept), dtype=torch.bool)
    for a in range(len(kept)):
        for b in range(len(kept)):
            mask[0, 0, a, b] = b <= a or (types[kept[a]] == 1 and types[kept[b]] == 1)
    out = model.model.language_model(
        inputs_embeds=embeds[None], attention_mask=mask, position_ids=torch.tensor([kept])
    )
    return model.lm_head(out.last_hidden_state[0]), torch.tensor(kept)


# --- tests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pad", ["right", "left"])
@pytest.mark.parametrize("ratio", [0.3, 0.8])
@torch.no_grad()
def test_a_batch_equals_the_slow_loop(ratio, pad):
    model, inputs = build(prune_ratio=ratio), make_inputs(ROWS, pad=pad)
    out = model(**inputs)
    start = 0
    for row, videos in enumerate(ROWS):
        real = inputs["attention_mask"][row].bool()
        ids, types = inputs["input_ids"][row][real], inputs["mm_token_type_ids"][row][real]
        tokens, keep = torch.zeros(0, 48), torch.zeros(0, 4, dtype=torch.bool)
        if videos:
            tokens, keep = slow_video(model, inputs["pixel_values_videos"][start : start + videos[0]], ratio)
            assert torch.equal(out.keep_windows[start : start + videos[0]], keep)
            start += videos[0]
        logits, kept = slow_row(model, ids, types, tokens, keep)
        n = len(kept)
        assert torch.equal(out.keep_mask[row].nonzero()[:, 0], real.nonzero()[:, 0][kept])
        ours = out.logits[row, :n] if pad == "right" else out.logits[row, -n:]
        torch.testing.assert_close(ours, logits, rtol=1e-4, atol=1e-4)
    assert out.logits.shape[1] == out.keep_mask.sum(1).max()


@pytest.mark.parametrize("pad", ["right", "left"])
@torch.no_grad()
def test_without_pruning_it_is_transformers_bit_for_bit(pad):
    model, inputs = build(prune_ratio=0), make_inputs(ROWS, pad=pad)
    twin, labels = plain_twin(model), labels_of(inputs)
    ours, theirs = model(**inputs, labels=labels), twin(**inputs, labels=labels)
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.loss, theirs.loss)
    left = make_inputs(ROWS, pad="left")
    options = {"max_new_tokens": 8, "do_sample": False}
    assert torch.equal(model.generate(**left, **options), twin.generate(**left, **options))


@torch.no_grad()
def test_uint8_pixels_are_normalised_on_the_device():
    model, inputs = build(), make_inputs([[4]])
    pixels = torch.randint(0, 256, inputs["pixel_values_videos"].shape, dtype=torch.uint8)
    for ratio in (0.0, 0.5):
        model.stts = model.stts.replace(prune_ratio=ratio)
        as_bytes = model(**inputs | {"pixel_values_videos": pixels}).logits
        as_floats = model(**inputs | {"pixel_values_videos": pixels / 127.5 - 1}).logits
        torch.testing.assert_close(as_bytes, as_floats, rtol=1e-4, atol=1e-4)


def test_language_model_loss_alone_reaches_every_scorer_parameter():
    model, inputs = build(), make_inputs([[4], [7]])
    model(**inputs, labels=labels_of(inputs)).lm_loss.backward()
    for name, parameter in model.model.vision_tower.scorer.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_training_loss_adds_the_auxiliary_loss():
    model, inputs = build(aux_loss_weight=0.7), make_inputs([[4], [7]])
    model.train()
    out = model(**inputs, labels=labels_of(inputs))
    torch.testing.assert_close(out.loss, out.lm_loss + 0.7 * out.aux_loss)
    assert out.aux_loss > 0
    model.eval()
    out = model(**inputs, labels=labels_of(inputs))
    assert torch.equal(out.loss, out.lm_loss)


def test_gradient_checkpointing_changes_nothing():
    model, inputs = build(), make_inputs([[4]])
    model.train()
    labels = labels_of(inputs)

    def gradient() -> Tensor:
        model.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        return model.model.vision_tower.scorer.fc1.weight.grad.clone()

    expected = gradient()
    model.gradient_checkpointing_enable()
    torch.testing.assert_close(gradient(), expected)
    with pytest.raises(ValueError, match="use_reentrant=False"):
        model.gradient_checkpointing_enable({"use_reentrant": True})


def test_a_batch_without_video_still_holds_the_scorer():
    model, inputs = build(), make_inputs([[], []])
    model.train()
    model(**inputs, labels=labels_of(inputs)).loss.backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() == 0 for p in model.model.vision_tower.scorer.parameters()
    )


@torch.no_grad()
def test_a_packed_row_equals_its_examples_alone():
    model = build()
    singles = [make_inputs([[4]], seed=1), make_inputs([[]], seed=2), make_inputs([[7]], seed=3)]
    packed = {
        k: torch.cat([s[k] for s in singles], 1) for k in ("input_ids", "attention_mask", "mm_token_type_ids")
    }
    videos = [singles[0], singles[2]]
    packed["pixel_values_videos"] = torch.cat([s["pixel_values_videos"] for s in videos])
    packed["video_grids"] = torch.cat([s["video_grids"] for s in videos])
    packed["video_token_pooling"] = torch.cat(
        [videos[0]["video_token_pooling"], videos[1]["video_token_pooling"] + 4 * 36]
    )
    lengths = [s["input_ids"].shape[1] for s in singles]
    packed["position_ids"] = torch.cat([torch.arange(n) for n in lengths])[None]
    packed["sequence_ids"] = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])[None]
    for settings in (
        {"prune_ratio": 0.5},
        {"prune_ratio": 0.0},
        {"prune_ratio": 0.5, "position_ids": "compact"},
    ):
        model.stts = model.stts.replace(**settings)
        together = model(**packed).logits[0]
        alone = torch.cat([model(**s).logits[0] for s in singles])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_layout_given_or_read_off_the_tensors_is_the_same():
    model, inputs = build(), make_inputs([[4], [7]])
    layout = BatchLayout((4, 7), tuple(inputs["attention_mask"].sum(1).tolist()), (0, 1))
    assert torch.equal(model(**inputs, layout=layout).logits, model(**inputs).logits)


class RefuseHostReads(TorchDispatchMode):
    """Raises on every operator whose result the host must wait for on a GPU."""

    READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::unique")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        by_mask = name.startswith("aten::index.") and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        if by_mask or name.startswith(self.READS):
            raise AssertionError(f"{name} reads the device")
        return func(*args, **(kwargs or {}))


def test_forward_and_losses_never_wait_for_the_device():
    model, inputs = build().train(), make_inputs([[4], [7]])
    layout = BatchLayout((4, 7), tuple(inputs["attention_mask"].sum(1).tolist()), (0, 1))
    labels = labels_of(inputs)
    with RefuseHostReads():
        out = model(**inputs, layout=layout, labels=labels)
    assert out.keep_mask.sum() == inputs["attention_mask"].sum() - 8 - 14
    with pytest.raises(AssertionError, match="reads the device"), RefuseHostReads():
        _ = out.scores[out.keep_windows]


@torch.no_grad()
def test_prune_ratio_takes_effect_when_assigned():
    model, inputs = build(), make_inputs([[4]])
    lengths = []
    for ratio in (0.0, 0.5, 0.75):
        model.stts = model.stts.replace(prune_ratio=ratio)
        lengths.append(model(**inputs).logits.shape[1])
    assert [lengths[0] - n for n in lengths] == [0, 8, 12]
    assert model.config.stts["prune_ratio"] == 0.75


@torch.no_grad()
def greedy_by_hand(model, inputs: dict[str, Tensor], steps: int) -> list[int]:
    """Append the best token and run everything again, without a cache."""
    inputs, new = dict(inputs), []
    for _ in range(steps):
        new.append(int(model(**inputs).logits[0, -1].argmax()))
        token = torch.tensor([[new[-1]]])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], token], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = F.pad(inputs["mm_token_type_ids"], (0, 1))
    return new


@pytest.mark.parametrize("position_ids", ["original", "compact"])
def test_generation_with_cache_equals_running_everything_again(position_ids):
    model, inputs = build(position_ids=position_ids), make_inputs([[5]])
    expected = greedy_by_hand(model, inputs, 6)
    for use_cache in (True, False):
        out = model.generate(**inputs, max_new_tokens=6, do_sample=False, use_cache=use_cache)
        assert torch.equal(out[:, :-6], inputs["input_ids"])
        assert out[0, -6:].tolist() == expected


@pytest.mark.parametrize("ratio", [0.0, 0.5])
@pytest.mark.parametrize("pad", ["left", "right"])
def test_a_batch_generates_what_its_rows_generate_alone(pad, ratio):
    model = build(prune_ratio=ratio)
    batch, singles = make_inputs(ROWS, pad=pad), []
    out = model.generate(**batch, max_new_tokens=5, do_sample=False)
    assert torch.equal(out[:, : batch["input_ids"].shape[1]], batch["input_ids"])
    start = 0
    for row, videos in enumerate(ROWS):
        real = batch["attention_mask"][row].bool()
        single = {
            k: batch[k][row : row + 1, real] for k in ("input_ids", "attention_mask", "mm_token_type_ids")
        }
        if videos:
            frames = slice(start, start + videos[0])
            single["pixel_values_videos"] = batch["pixel_values_videos"][frames]
            single["video_grids"] = batch["video_grids"][row : row + 1]
            single["video_token_pooling"] = batch["video_token_pooling"][: 4 * videos[0]]
            start += videos[0]
        singles.append(model.generate(**single, max_new_tokens=5, do_sample=False)[0, -5:])
    assert torch.equal(out[:, -5:], torch.stack(singles))


def test_beam_search_sampling_and_dict_output_work():
    model, inputs = build(), make_inputs([[4], [7]])
    beams = model.generate(**inputs, max_new_tokens=5, num_beams=3, num_return_sequences=2)
    length = inputs["input_ids"].shape[1]
    assert torch.equal(beams[:, :length], inputs["input_ids"].repeat_interleave(2, 0))
    assert beams.shape == (4, length + 5)
    torch.manual_seed(0)
    sampled = model.generate(
        **inputs, max_new_tokens=5, do_sample=True, return_dict_in_generate=True, output_scores=True
    )
    assert sampled.sequences.shape == (2, length + 5)
    assert len(sampled.scores) == 5
    one_beam = model.generate(**inputs, max_length=length + 3, do_sample=False)
    assert one_beam.shape == (2, length + 3)


def test_saved_model_loads_back_identical_and_in_plain_transformers(tmp_path):
    model = build(prune_ratio=0.25, policy="temporal")
    model.save_pretrained(tmp_path)
    again = STTSMolmo2ForConditionalGeneration.from_pretrained(tmp_path)
    assert again.stts == model.stts
    assert json.loads((tmp_path / "config.json").read_text())["stts"]["prune_ratio"] == 0.25
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in again.state_dict().items())
    plain = Molmo2ForConditionalGeneration.from_pretrained(tmp_path)
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.state_dict().items())
    other = STTSMolmo2ForConditionalGeneration.from_pretrained(tmp_path, stts=STTSConfig(prune_ratio=0.7))
    assert other.stts.prune_ratio == 0.7
    assert torch.equal(other.model.vision_tower.scorer.fc1.weight, model.model.vision_tower.scorer.fc1.weight)


def test_plain_weights_get_a_fresh_scorer(tmp_path):
    plain = plain_twin(build())
    plain.config.stts = None
    plain.save_pretrained(tmp_path)
    with safe_open(
        tmp_path / "model.safetensors", "pt"
    ) as file:  # transformers writes the released key layout
        assert "model.transformer.blocks.0.self_attn.att_proj.weight" in file.keys()  # noqa: SIM118
    model = STTSMolmo2ForConditionalGeneration.from_pretrained(tmp_path, stts=STTSConfig(prune_ratio=0.3))
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in plain.state_dict().items())
    weight = model.model.vision_tower.scorer.fc2.weight
    assert 0.8 < weight.std() * weight.shape[1] ** 0.5 < 1.2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x.update(video_grids=torch.tensor([[5, 2, 2], [7, 2, 2]])), "visual placeholders"),
        (lambda x: x.update(video_grids=x["video_grids"][:1]), "row 1 of input_ids has 28"),
        (lambda x: x["input_ids"].masked_fill_(x["input_ids"] == PATCH_ID, 1), "2 videos given"),
    ],
)
def test_placeholders_that_do_not_fit_the_videos_are_named(change, words):
    inputs = make_inputs([[4], [7]])
    change(inputs)
    with pytest.raises(ValueError, match=words):
        build()(**inputs)
