"""What a training step keeps for its backward pass, counted: deterministic where peak memory is not."""

from __future__ import annotations

import pytest
import torch
from molmo2_factory import PATCH_ID, make_inputs
from torch import Tensor
from transformers import Molmo2Config

from stts import STTSConfig, STTSMolmo2ForConditionalGeneration
from stts.attention import install
from stts.vit import run_pruned


def scaled_down() -> Molmo2Config:
    """Molmo2-4B with every width and the vocabulary an eighteenth, all 25 ViT blocks and 36 LLM layers."""
    heads = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16}
    text = {
        "hidden_size": 144,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 18,
        "intermediate_size": 540,
        "num_hidden_layers": 36,
        "vocab_size": 8440,
        "additional_vocab_size": 16,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    }
    adapter = {**heads, "intermediate_size": 540, "text_hidden_size": 144}
    config = Molmo2Config(
        vision_config={**heads, "intermediate_size": 240, "num_hidden_layers": 25, "patch_size": 4, "image_size": [108, 108]},
        adapter_config=adapter,
        text_config=text,
        image_patch_id=PATCH_ID,
        frame_start_token_id=51,
        frame_end_token_id=52,
    )  # fmt: skip
    config.stts = STTSConfig().to_dict()
    return config


class Saved:
    """Inside, adds up the bytes of all tensors saved for a backward pass, those of `others` left out."""

    def __init__(self, others: list[Tensor]) -> None:
        self.sizes: dict[int, int] = {}
        self.held: list[Tensor] = []  # so that no address is used again
        self.others = {x.untyped_storage().data_ptr() for x in others}
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._see, lambda x: x)

    def _see(self, x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in self.others:
            self.sizes[storage.data_ptr()] = storage.nbytes()
            self.held.append(x)
        return x

    def __enter__(self) -> Saved:
        self.hooks.__enter__()
        return self

    def __exit__(self, *args: object) -> None:
        self.hooks.__exit__(*args)

    @property
    def total(self) -> int:
        return sum(self.sizes.values())


def saved_bytes(model: STTSMolmo2ForConditionalGeneration, inputs: dict[str, Tensor], ratio: float) -> int:
    model.stts = model.stts.replace(prune_ratio=ratio)
    with Saved([*model.parameters(), *inputs.values()]) as saved:
        loss = model(**inputs, use_cache=False).loss
    assert loss.requires_grad
    return saved.total


@pytest.mark.slow
def test_a_training_step_at_half_keeps_at_most_six_tenths() -> None:
    torch.manual_seed(0)
    model = STTSMolmo2ForConditionalGeneration(scaled_down()).to(torch.bfloat16).train()
    inputs = make_inputs([[8]], grid=27, text=1)  # so little text, as beside 128 frames
    inputs["labels"] = inputs["input_ids"].masked_fill(inputs["mm_token_type_ids"] == 1, -100)
    unpruned, half, fifth = (saved_bytes(model, inputs, ratio) for ratio in (0.0, 0.5, 0.8))
    assert half <= 0.6 * unpruned
    assert fifth <= 0.4 * unpruned


def test_activations_after_the_biased_block_shrink_with_the_ratio() -> None:
    """Each further block keeps as much for its backward as it has patches."""
    torch.manual_seed(0)
    config = scaled_down()
    config.vision_config.num_hidden_layers = 9
    tower = STTSMolmo2ForConditionalGeneration(config).model.vision_tower
    install(tower.config)
    x = torch.randn(8, 729, 64)
    kept = {}
    for ratio in (0.5, 0.75):
        for blocks in (6, 9):
            with Saved([*tower.parameters(), x]) as saved:
                stts = STTSConfig(prune_ratio=ratio)
                run_pruned(tower.layers[:blocks], x, tower.scorer, stts, [8], (27, 27), [5])
            kept[ratio, blocks] = saved.total
    later = {ratio: kept[ratio, 9] - kept[ratio, 6] for ratio in (0.5, 0.75)}
    assert later[0.75] == pytest.approx(later[0.5] / 2, rel=0.02)


@torch.no_grad()
def test_features_are_kept_only_of_the_blocks_that_are_asked_for() -> None:
    """Outputs of other blocks are gone as soon as the next block is done."""
    import weakref

    config = scaled_down()
    config.vision_config.num_hidden_layers = 9
    tower = STTSMolmo2ForConditionalGeneration(config).model.vision_tower
    install(tower.config)
    outputs: dict[int, weakref.ref] = {}
    alive: list[list[int]] = []

    def watch(i: int):
        def hook(module, args, output):
            outputs[i] = weakref.ref(output)
            alive.append([n for n, out in outputs.items() if out() is not None])

        return hook

    for i, block in enumerate(tower.layers):
        block.register_forward_hook(watch(i))
    out = run_pruned(tower.layers, torch.randn(4, 729, 64), tower.scorer, STTSConfig(), [4], (27, 27), [2, 7])
    assert sorted(out.hidden_states) == [2, 7]
    # of the dense part: what was asked for, what was scored, the last output and the one before it
    for last, seen in enumerate(alive):
        assert set(seen) <= {2, 3, 7, last - 1, last}
