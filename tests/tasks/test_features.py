"""The task: one pass a timestep, the noise protocol, precisions, and refusals."""

import pytest
import torch

from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.backbones.pixels import Pixels
from diffdict.errors import UserError
from diffdict.features.noise import Noise
from diffdict.tasks.features import Features

SHAPE = (3, 16, 16)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return GuidedUNet(16, 32, 1, channel_mult="1,1", attention_resolutions="8", name="tiny")


def batch(indices, **more):
    g = torch.Generator().manual_seed(0)
    images = torch.rand(10, *SHAPE, generator=g) * 2 - 1
    return {"image": images[list(indices)], "index": torch.tensor(list(indices)), **more}


def run(task, indices, **more):
    with torch.no_grad():
        return task.predict_step(batch(indices, **more))


def test_one_pass_a_timestep_serves_all_blocks(net, monkeypatch):
    calls = []
    features = net.features
    monkeypatch.setattr(
        net, "features", lambda x, t, b, n: calls.append((t, list(b))) or features(x, t, b, n)
    )
    maps = run(Features(net, [150, 50], [2, 0], Noise()), [0, 1])
    assert calls == [(150, [0, 2]), (50, [0, 2])]
    assert [*maps] == [(150, 0), (150, 2), (50, 0), (50, 2)]
    calls.clear()
    run(Features(net, [150, 50], [2, 0], Noise()), [0, 1], wanted=[(50, 0)])
    assert calls == [(50, [0])]


def test_all_blocks(net):
    assert Features(net, 50, "all", Noise()).passes.keys == [(50, block) for block in net.shapes]


def test_a_network_without_timesteps_is_asked_for_none():
    for step in (50, [50, 150], None):
        task = Features(Pixels(16), step, "pixels", Noise())
        assert task.passes.keys == [(None, "pixels")] == [*run(task, [0])]


def test_shared_noise_is_one_tensor_for_all_from_the_seed():
    noise = Noise(shared=True, seed=7).for_pictures([3, 9], SHAPE)
    expected = torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(7))
    assert torch.equal(noise, expected[None])


def test_a_pictures_own_noise_depends_on_seed_and_index_only():
    noise = Noise(shared=False, seed=7)
    both, one = noise.for_pictures([3, 9], SHAPE), noise.for_pictures([9], SHAPE)
    assert torch.equal(both[:, 1:], one)
    assert not torch.equal(both[0, 0], both[0, 1])
    assert not torch.equal(Noise(False, seed=8).for_pictures([9], SHAPE), one)
    more = Noise(False, seed=7, draws=3).for_pictures([9], SHAPE)
    assert torch.equal(more[:1], one)
    assert not torch.equal(more[1], more[0])


@pytest.mark.parametrize("shared", [True, False])
def test_features_do_not_depend_on_the_batch(net, shared):
    task = Features(net, 50, [1], Noise(shared))
    together, alone = run(task, [0, 1, 2])[50, 1][2:], run(task, [2])[50, 1]
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("shared", [True, False])
def test_draws_are_averaged(net, shared):
    noise = Noise(shared, seed=1, draws=4)
    mean = run(Features(net, 50, [1], noise), [5, 6])[50, 1]
    x = batch([5, 6])["image"]
    with torch.no_grad():
        each = [net.features(x, 50, [1], n)[1] for n in noise.for_pictures([5, 6], SHAPE)]
    torch.testing.assert_close(mean, torch.stack(each).mean(0))
    assert not torch.allclose(mean, each[0])


@pytest.mark.parametrize(("compute", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_is_near(net, compute, dtype):
    exact = run(Features(net, 50, [1], Noise()), [0])[50, 1]
    near = run(Features(net, 50, [1], Noise(), compute), [0])[50, 1]
    assert (near.float() - exact).abs().max() > 0
    torch.testing.assert_close(near.float(), exact, atol=0.05, rtol=0.05)


def test_nothing_is_learned(net):
    assert not any(p.requires_grad for p in Features(net, 50, 0, Noise()).parameters())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"block": [7]}, "has no block 7"),
        ({"timestep": None}, "needs a timestep"),
        ({"timestep": [50, 1000]}, "between 0 and 999, got 1000"),
        ({"compute": "int8"}, "compute is one of fp32, bf16, fp16, got int8"),
        ({"noise": Noise(draws=0)}, "noise.draws ≥ 1"),
    ],
)
def test_what_cannot_be_is_refused(net, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        Features(**{"net": net, "timestep": 50, "block": 0, "noise": Noise(), **arguments})


def test_noise_of_the_cpu_is_what_stores_have_always_said():
    assert Noise(seed=7).facts() == {"shared": True, "seed": 7, "draws": 1}
    assert Noise(device="cuda").facts()["device"] == "cuda"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU's generator")
def test_a_gpus_generator_gives_other_noise():
    generator = torch.Generator("cuda").manual_seed(0)
    theirs = torch.randn(SHAPE, generator=generator, device="cuda").cpu()
    assert torch.equal(Noise(device="cuda").for_pictures([0], SHAPE)[0, 0], theirs)
    assert not torch.equal(Noise().for_pictures([0], SHAPE)[0, 0], theirs)
