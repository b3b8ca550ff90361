"""Sums of a step by name: added up, brought to the host once, made a row of."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from stts import STTSConfig
from stts.train.metrics import Churn, add_up, measure, metrics_row, read_sums


def scalars(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def test_sums_keep_their_names_in_whatever_order_they_come():
    both = add_up([scalars(loss=1.0, kept=3.0), scalars(kept=4.0, loss=0.5)])
    rows = read_sums([both, scalars(kept=1.0, loss=2.0)], [{"rows": 2, "bad": 0}, {"bad": 1, "rows": 5}])
    assert rows == [
        {"loss": 1.5, "kept": 7.0, "rows": 2.0, "bad": 0.0},
        {"loss": 2.0, "kept": 1.0, "rows": 5.0, "bad": 1.0},
    ]


def test_all_steps_and_names_are_reduced_at_once():
    shapes = []

    def twice(table: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(table.shape))
        return 2 * table

    assert (
        read_sums([scalars(loss=1.0)] * 3, [{"tokens": 4}] * 3, twice) == [{"loss": 2.0, "tokens": 8.0}] * 3
    )
    assert shapes == [(3, 2)]


def test_a_row_can_be_made_of_what_a_pass_with_and_without_pruning_gives():
    layout = SimpleNamespace(frames_per_video=(3,), num_windows=None)
    labels = torch.zeros(1, 4, dtype=torch.long)
    batch = {"layout": layout, "labels": labels, "ids": ["a"], "video_token_pooling": range(12)}
    keep, scores = torch.ones(3, 4).bool(), torch.full((3, 4), 0.25)
    keep[1:, :2] = False
    plain = SimpleNamespace(keep_windows=None, lm_loss=torch.tensor(1.0), scores=None, targets=None)
    pruned = SimpleNamespace(keep_windows=keep, lm_loss=torch.tensor(1.0), scores=scores, targets=1 - scores)
    rows = []
    for out in (plain, pruned):
        sums = scalars(lm_loss=1.0, aux_loss=0.5, grad_norm=2.0) | measure(out, batch)
        sums |= Churn().update(out.keep_windows, batch, out.lm_loss.device)
        (read,) = read_sums([sums], [{"unpruned_tokens": 30}])
        rows.append(metrics_row(read, STTSConfig(aux_loss_weight=2.0), seconds=3.0))
    assert rows[0].keys() == rows[1].keys()
    assert (rows[0]["kept"], rows[0]["score_mean"], rows[0]["churn"]) == (1.0, None, None)
    assert rows[1]["kept"] == pytest.approx(8 / 12)
    assert (rows[1]["score_mean"], rows[1]["target_mean"], rows[1]["score_std"]) == (0.25, 0.75, 0.0)
    assert (rows[1]["loss"], rows[1]["tokens_per_s"]) == (2.0, 10.0)


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("videos", [0, 1, 2])
def test_all_sums_of_a_batch_are_on_the_device_of_its_loss(pruned: bool, videos: int):
    """The batch is on the host, the loss is not; examples without a video, and whole videos, are no exception."""
    layout = SimpleNamespace(frames_per_video=(3,) * videos, num_windows=None)
    batch = {"layout": layout, "labels": torch.zeros(2, 4, dtype=torch.long), "ids": ["a", "b"]}
    keep = torch.ones(3 * videos, 4, dtype=torch.bool, device="meta") if pruned and videos else None
    loss = torch.empty((), device="meta")
    out = SimpleNamespace(keep_windows=keep, lm_loss=loss, scores=None, targets=None)
    churn = Churn()
    for _ in range(2):  # the second time there is something to compare
        sums = measure(out, batch) | churn.update(out.keep_windows, batch, loss.device)
        assert {name: x.device.type for name, x in sums.items() if x.device.type != "meta"} == {}
