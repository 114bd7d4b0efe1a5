"""A step of PDAE in both memory orders and precisions: torch's GroupNorm has died in one of them.

The first norm of the shift half gets maps of the frozen half, which need no gradient; in channels-
last order its backward pass was a segmentation fault on CPUs.
"""

import pytest
import torch

from tests.tasks.test_pdae import fit, frozen, model, pictures


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_is_taken(tmp_path, precision, channels_last, batch_size):
    task = model(channels_last=channels_last)
    before = [p.detach().clone() for part in task.learning() for p in part.parameters()]
    data = pictures(batch_size=batch_size, count=6)
    task, losses = fit(tmp_path, 2, task=task, data=data, precision=precision)
    assert torch.tensor(losses).isfinite().all()
    after = [p for part in task.learning() for p in part.parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    contiguous = task.net.denoiser.input_blocks[0][0].weight.is_contiguous()
    assert contiguous is not channels_last


def test_memory_order_changes_rounding_alone(tmp_path):
    """Without dropout, whose draws go by the order of memory."""
    losses = []
    for order in (False, True):
        task = model(net=frozen(dropout=0.0), channels_last=order)
        losses += fit(tmp_path / str(order), 1, task=task)[1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
