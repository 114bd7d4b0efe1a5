"""DDAE's noise-conditional head against the original's answers."""

import numpy as np
import pytest
import torch

from diffdict.checkpoints.architecture import infer_architecture
from diffdict.classifiers.noisy import NoisyMLP
from diffdict.errors import UserError


def test_every_golden_output(golden):
    case = golden("ddae_noisy_mlp")
    net = case.fill(NoisyMLP(case.facts["config"]["dim"], case.facts["config"]["classes"]))
    drawn = np.random.default_rng(7351).standard_normal((5, 64), dtype=np.float32)
    features, t = torch.from_numpy(drawn), torch.tensor(case.facts["inputs"]["t"])
    with torch.no_grad():
        case.check("noisy_mlp.logits", net(features, t))
        case.check("noisy_mlp.time_emb", net.time_emb(t))
    assert len(case.facts["outputs"]) == 2


def test_the_time_is_told_beside_the_features():
    net, features = NoisyMLP(16, 3), torch.randn(2, 16)
    early, late = (net(features, torch.full((2,), t)) for t in (1, 900))
    assert early.shape == (2, 3)
    assert not torch.equal(early, late)
    assert net.bfloat16()(features.bfloat16(), torch.tensor([1, 18])).dtype == torch.bfloat16


def test_info_names_it():
    shapes = {key: tuple(x.shape) for key, x in NoisyMLP(32, 7).state_dict().items()}
    assert infer_architecture(shapes) == ("DDAE noise-conditional MLP", {"dim": 32, "classes": 7})


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((8, 3), "dim must be a multiple of 8 and 16 or more, got 8"),
        ((36, 3), "dim must be a multiple of 8 and 16 or more, got 36"),
        ((32, 0), "classes is 1 or more, got 0"),
    ],
)
def test_impossible_flags_are_named(flags, says):
    with pytest.raises(UserError, match=says):
        NoisyMLP(*flags)
