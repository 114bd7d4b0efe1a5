"""Training and sampling of DDAE's networks under both frameworks."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from diffdict.backbones.ddae_unet import DdaeUnet
from diffdict.data.augment import Augment
from diffdict.diffusion.edm import Levels, loss_weight
from diffdict.diffusion.objectives import Objective, quarter, spread_time
from diffdict.diffusion.samplers import ddae_ddim, ddim, ddpm, heun
from diffdict.errors import UserError
from diffdict.reports.samples.sample_grid import SampleGrid
from diffdict.tasks.diffusion import Diffusion
from diffdict.training.average import average_decay
from tests.tasks.test_diffusion import fit
from tests.tasks.test_diffusion import pictures as faces
from tests.tasks.test_samples import assert_alike, draw, stored

# 64 channels: 32 groups of one channel would forget the embedding
FLAGS = {"image_size": 16, "n_channels": 32, "ch_mults": [2, 2], "is_attn": [False, True]}
PICTURE = Objective(predict="x0", variance="fixed_large")
NOISE = Objective(variance="fixed_large")


def network(**flags):
    torch.manual_seed(0)
    return DdaeUnet(**FLAGS | {"n_blocks": 1, "dropout": 0.0} | flags)


def model(framework="edm", objective=None, seed=0, **options):
    objective = objective or (PICTURE if framework == "edm" else NOISE)
    torch.manual_seed(seed)
    return Diffusion(
        DdaeUnet(**FLAGS | {"n_blocks": 1}, framework=framework),
        partial(torch.optim.AdamW, lr=1e-3),
        objective,
        **{"ema_decay": 0.9, "warmup_steps": 4, **options},
    )


@pytest.mark.parametrize("framework", ["edm", "ddpm"])
def test_a_resumed_run_is_the_straight_run(tmp_path, framework):
    """In mid-epoch, with dropout: losses, weights and average agree bit by bit."""
    whole, seen = fit(tmp_path / "straight", 9, model(framework))
    fit(tmp_path / "broken", 4, model(framework), every=4)
    resume = tmp_path / "broken" / "step=4.ckpt"
    torch.rand(3)  # another state of torch's own generator
    resumed, rest = fit(tmp_path / "resumed", 9, model(framework, seed=1), resume=resume)
    assert rest.losses == seen.losses[4:]
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_the_loss_falls_from_the_variance_of_its_targets(tmp_path):
    """EDM's weights make every level's loss begin near 1 where the network says nothing."""
    task = model(warmup_steps=0)
    torch.nn.init.zeros_(task.net.final.weight)
    torch.nn.init.zeros_(task.net.final.bias)
    _, seen = fit(tmp_path, 40, task=task, data=faces(batch_size=8, count=8))
    assert seen.losses[0] == pytest.approx(1, abs=0.6)
    assert sum(seen.losses[-10:]) < 0.8 * sum(seen.losses[:10])


def test_the_loss_is_the_weighted_error_of_the_picture():
    task, images = model(), torch.rand(3, 3, 16, 16) * 2 - 1
    batch = {"image": images, "index": torch.tensor([4, 8, 15])}
    sigma, noise = task.draw(batch, (0, 0))
    with torch.no_grad():
        losses = task._losses(task.ema, batch, sigma, noise)
        shaped = sigma[:, None, None, None]
        error = (task.ema(images + shaped * noise, sigma) - images) ** 2
    weighted = (loss_weight(shaped) * error).mean((1, 2, 3))
    torch.testing.assert_close(losses.loss, weighted)
    torch.testing.assert_close(losses.mse, error.mean((1, 2, 3)))


def test_an_augmented_training_goes_on_bit_for_bit_and_tells_the_network(tmp_path):
    def make(seed=0):
        torch.manual_seed(seed)
        net = DdaeUnet(**FLAGS | {"n_blocks": 1}, framework="edm", augment_dim=9)
        optimizer = partial(torch.optim.SGD, lr=0.1)
        return Diffusion(net, optimizer, PICTURE, augment=Augment(0.9), ema_decay=0.9)

    before = make().net.time_emb.aug_emb.weight.clone()
    whole, seen = fit(tmp_path / "straight", 5, make())
    fit(tmp_path / "broken", 2, make(), every=2)
    resumed, rest = fit(
        tmp_path / "on", 5, make(seed=1), resume=tmp_path / "broken" / "step=2.ckpt"
    )
    assert rest.losses == seen.losses[2:]
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    assert (whole.net.time_emb.aug_emb.weight != before).any(0).all()  # all nine labels


def test_what_a_network_is_not_told_is_refused():
    make = partial(Diffusion, optimizer=partial(torch.optim.SGD, lr=0.1), objective=PICTURE)
    with pytest.raises(UserError, match="told 9 labels of an augmentation"):
        make(network(framework="edm", augment_dim=9))
    with pytest.raises(UserError, match=r"say backbone\.augment_dim=9, or model\.augment=null"):
        make(network(framework="edm"), augment=Augment())


def test_levels_are_drawn_from_their_law_and_belong_to_pictures():
    task, count = model(), 4000
    batch = {"image": torch.zeros(count, 1, 2, 2), "index": torch.arange(count)}
    sigma, noise = task.draw(batch, (0, 2))
    logs = sigma.double().log()
    assert abs(logs.mean() + 1.2) < 5 * 1.2 / math.sqrt(count)
    assert abs(logs.std() - 1.2) < 5 * 1.2 / math.sqrt(2 * count)
    single = {"image": torch.zeros(1, 1, 2, 2), "index": torch.tensor([9])}
    alone = model(seed=3).draw(single, (0, 2))
    assert torch.equal(alone.t[0], sigma[9])
    assert torch.equal(alone.noise[0], noise[9])


def test_quarters_and_quantiles_are_of_the_drawn_levels():
    share = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    sigma = spread_time(PICTURE, Levels(), share)
    assert quarter(PICTURE, Levels(), sigma).bincount().tolist() == [1000] * 4
    assert sigma[2000].log().item() == pytest.approx(-1.2, abs=1e-3)
    assert spread_time(PICTURE, Levels(), torch.tensor([0.0, 1.0])).isfinite().all()


def test_what_is_logged_and_drawn(tmp_path):
    task, _ = fit(tmp_path, 4, model(), faces(batch_size=8, count=16), limit_val_batches=1)
    logged = task.trainer.logged_metrics
    assert {"train/loss", "val/loss", "val/mse"} <= set(logged)
    assert all(math.isfinite(value) for value in logged.values())
    sheets = SampleGrid(every_n_steps=2, pictures=3, steps=3)
    drawn = sheets.draw(task.ema, task.objective, task.device)
    assert drawn.shape == (3, 3, 16, 16)
    assert torch.equal(drawn, sheets.draw(task.ema, task.objective, task.device))


def test_the_published_average_follows_its_closed_form():
    decays = [average_decay(0.9999, step, "published") for step in range(5)]
    assert decays == pytest.approx([0, 0.3700, 0.5193, 0.6031, 0.6580], abs=1e-4)
    assert average_decay(0.9999, 196_000, "published") == pytest.approx(0.99970, abs=5e-6)
    assert average_decay(0.9993, 54_000, "published") == pytest.approx(0.9993, abs=1e-6)
    assert average_decay(0.9993, 10**6, "published") == 0.9993


def test_the_published_average_begins_as_the_weights(tmp_path):
    task, _ = fit(tmp_path, 1, model(ema_rule="published"))
    for mine, its in zip(task.ema.parameters(), task.net.parameters(), strict=True):
        assert torch.equal(mine, its)


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (Objective(), "model.objective.predict is x0, got eps: say model.objective.predict=x0"),
        (Objective(predict="x0"), "variance is fixed_large or fixed_small, got learned_range"),
        (Objective("x0", "fixed_large", "kl"), "loss is mse or rescaled_mse, got kl"),
        (Objective("x0", "fixed_large", weighting="min_snr"), "weighting is none, got min_snr"),
    ],
)
def test_an_objective_of_chains_is_refused(objective, said):
    with pytest.raises(UserError, match=said):
        model(objective=objective)


def test_other_words_are_refused():
    with pytest.raises(UserError, match="of house, published, constant, got 'karras'"):
        model(ema_rule="karras")
    with pytest.raises(UserError, match="p_std must be positive"):
        Objective(p_std=0)


@pytest.mark.parametrize(
    ("framework", "sampler"),
    [
        ("edm", partial(heun, steps=3, eta=1.0, s_max=100)),
        ("ddpm", partial(ddae_ddim, steps=4, eta=1.0)),
        ("ddpm", partial(ddim, respacing="3")),
        ("ddpm", partial(ddpm, respacing="3")),
    ],
)
def test_samples_belong_to_their_index(tmp_path, framework, sampler):
    net = network(framework=framework)
    draw(
        tmp_path / "a", sampler=sampler, net=net, objective=PICTURE if framework == "edm" else NOISE
    )
    draw(tmp_path / "b", 7, 4, 7, sampler, net, objective=PICTURE if framework == "edm" else NOISE)
    ours = stored(tmp_path / "a")
    assert len({picture.tobytes() for picture in ours.values()}) == 7
    assert_alike(ours, stored(tmp_path / "b"))
    assert all(np.isfinite(picture).all() for picture in ours.values())


def test_a_sampler_of_another_process_is_refused_before_anything_is_drawn(tmp_path):
    with pytest.raises(UserError, match="heun goes along EDM's noise levels"):
        draw(tmp_path / "a", sampler=partial(heun), net=network())
    with pytest.raises(UserError, match="ddim goes along a chain of timesteps"):
        draw(tmp_path / "a", sampler=partial(ddim), net=network(framework="edm"))
    assert not (tmp_path / "a").exists()
