from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from stts import STTSMolmo2ForConditionalGeneration
from stts.train.config import LearningRates, TrainConfig
from stts.train.optim import build_optimizer, freeze, lr_factor, parameter_groups, set_lr
from tests.helpers.molmo2 import tiny_config

RATES = LearningRates(vision=1e-4, adapter=2e-4, llm=3e-4, scorer=4e-4)


@pytest.fixture(scope="module")
def model() -> STTSMolmo2ForConditionalGeneration:
    return STTSMolmo2ForConditionalGeneration(tiny_config())


def parts_of(model: STTSMolmo2ForConditionalGeneration) -> dict[str, set[torch.nn.Parameter]]:
    """Parameters of each part, from the modules and not from names."""
    tower = model.model.vision_tower
    scorer = set(tower.scorer.parameters())
    return {
        "scorer": scorer,
        "vision": set(tower.parameters()) - scorer,
        "adapter": set(model.model.multi_modal_projector.parameters()),
        "llm": {*model.model.language_model.parameters(), *model.lm_head.parameters()},
    }


def test_every_trainable_parameter_is_in_exactly_one_group_of_its_part(model):
    freeze(model, RATES)
    groups = parameter_groups(model, RATES, 0.1)
    members = [p for group in groups for p in group["params"]]
    assert len(members) == len(set(members))
    assert set(members) == set(model.parameters())
    for part, expected in parts_of(model).items():
        found = {p for group in groups if group["name"] == part for p in group["params"]}
        assert found == expected
        assert {group["lr"] for group in groups if group["name"] == part} == {getattr(RATES, part)}


def test_biases_norms_and_positions_are_not_decayed_and_all_else_is(model):
    freeze(model, RATES)
    undecayed = {
        p
        for group in parameter_groups(model, RATES, 0.1)
        if not group["weight_decay"]
        for p in group["params"]
    }
    expected = {model.model.vision_tower.positional_embedding}
    for module in model.modules():
        is_norm = "Norm" in type(module).__name__
        for name, parameter in module.named_parameters(recurse=False):
            if is_norm or name.endswith("bias"):
                expected.add(parameter)
    assert undecayed == expected


def test_a_part_with_rate_zero_is_frozen_and_in_no_group(model):
    rates = dataclasses.replace(RATES, vision=0.0)
    freeze(model, rates)
    members = {p for group in parameter_groups(model, rates, 0.1) for p in group["params"]}
    frozen = parts_of(model)["vision"]
    assert members == set(model.parameters()) - frozen
    assert not any(p.requires_grad for p in frozen)
    freeze(model, RATES)
    assert all(p.requires_grad for p in frozen)


def test_a_part_that_should_train_but_cannot_is_named():
    with pytest.raises(ValueError, match=r"train\.lr\.vision is 0\.0001"):
        parameter_groups(torch.nn.Linear(2, 2), RATES, 0.0)


def test_schedule_warms_up_linearly_then_follows_the_cosine():
    config = TrainConfig(max_steps=110, warmup_steps=10, min_lr_ratio=0.2)
    assert [lr_factor(step, config) for step in (0, 4, 9, 10)] == [0.1, 0.5, 1.0, 1.0]
    assert lr_factor(60, config) == pytest.approx(0.6)  # half-way between 1 and 0.2
    assert lr_factor(35, config) == pytest.approx(0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2)
    assert lr_factor(110, config) == pytest.approx(0.2)
    constant = TrainConfig(max_steps=110, warmup_steps=10, schedule="constant")
    assert lr_factor(109, constant) == 1.0


def test_set_lr_scales_every_group_and_no_warmup_is_allowed(model):
    freeze(model, RATES)
    config = TrainConfig(max_steps=10, warmup_steps=4, lr=RATES)
    optimizer = build_optimizer(model, config)
    rates = set_lr(optimizer, 1, config)
    assert rates == {"vision": 0.5e-4, "adapter": 1e-4, "llm": 1.5e-4, "scorer": 2e-4}
    assert {(g["name"], g["lr"]) for g in optimizer.param_groups} == set(rates.items())
    assert lr_factor(0, TrainConfig(warmup_steps=0)) == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_steps": 0}, "train.max_steps is 0"),
        ({"batch_size": 0}, "train.batch_size is 0"),
        ({"max_tokens": 0}, "train.max_tokens is 0"),
        ({"grad_accumulation": 0}, "train.grad_accumulation is 0"),
        ({"schedule": "linear"}, "train.schedule is 'linear'"),
        ({"mixed_precision": "fp8"}, "train.mixed_precision is 'fp8'"),
        ({"min_lr_ratio": 1.5}, "train.min_lr_ratio is 1.5"),
        ({"betas": (0.9, 1.0)}, "train.betas"),
        ({"save_every": -1}, "train.save_every is -1"),
        ({"keep": 0}, "train.keep is 0"),
        ({"warmup_steps": -1}, "train.warmup_steps is -1"),
    ],
)
def test_settings_out_of_range_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**change)


def test_learning_rates_must_be_positive_somewhere_and_negative_nowhere():
    with pytest.raises(ValueError, match=r"train\.lr\.llm is -1"):
        LearningRates(llm=-1)
    with pytest.raises(ValueError, match="nothing would be trained"):
        LearningRates(0, 0, 0, 0)
    with pytest.raises(ValueError, match="leave nothing that would be trained"):
        TrainConfig(lr=LearningRates(vision=0, adapter=0, llm=1e-3, scorer=1e-3), llm=False, scorer=False)
