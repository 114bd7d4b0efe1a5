"""Which attention kernels the U-Net's layers let PyTorch choose from."""

import pytest
import torch
import torch.nn.functional as F

from diffdict.backbones.guided_layers import Attention


@pytest.mark.parametrize("learns", [True, False])
def test_cudnn_attends_only_where_nothing_is_learned(monkeypatch, learns):
    attend, allowed = F.scaled_dot_product_attention, []

    def listen(*qkv):
        allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
        return attend(*qkv)

    monkeypatch.setattr(F, "scaled_dot_product_attention", listen)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    with torch.set_grad_enabled(learns):
        Attention(32, 1, new_order=False)(torch.randn(1, 32, 8, 8))
    assert allowed == [before and not learns]
    assert torch.backends.cuda.cudnn_sdp_enabled() == before
