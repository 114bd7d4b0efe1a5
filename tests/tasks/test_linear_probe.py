"""task=linear_probe: heads side by side as alone, an honest choice, and a resume to the bit."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from diffdict.backbones.base import Backbone
from diffdict.classifiers.linear import LinearHeads
from diffdict.data.base import Pictures
from diffdict.errors import UserError
from diffdict.features.noise import Noise
from diffdict.features.probe_images import ProbeImages
from diffdict.run.interruption.counters import ExactCounters
from diffdict.tasks.linear_probe import LinearProbe

SIDE, NAMES = 8, ["red", "green", "blue"]
ADAM = partial(torch.optim.Adam, lr=1e-2)


class Painted(Pictures):
    """The colour of a picture is its class."""

    name, image_size, picture_classes = "painted", SIDE, NAMES
    num_classes, class_names, fingerprint = 3, NAMES, "painted"

    def __init__(self, split="train", count=48):
        self.split, self.count = split, 0 if split == "val" else count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index + 1000 * (self.split == "test"))
        image = torch.full((3, SIDE, SIDE), -0.3)
        image[index % 3] += 0.6
        image += 0.2 * torch.randn(image.shape, generator=generator)
        return {"image": image, "label": index % 3, "index": index}


class Masked(Painted):
    """A square of the class' colour, where there is one."""

    labelled, picture_classes = True, ()

    def __getitem__(self, index):
        sample, mask = super().__getitem__(index), torch.zeros(SIDE, SIDE, dtype=torch.int64)
        mask[:4, :4] = sample.pop("label")
        mask[4:, 4:] = (index // 3) % 3
        image = F.one_hot(mask, 3).permute(2, 0, 1) * 1.0 + 0.1 * sample["image"]
        return sample | {"mask": mask, "image": image}


class Net(Backbone):
    """Two blocks of unlike width that see less with every timestep."""

    name, image_size, num_timesteps = "net", SIDE, 1000

    def __init__(self):
        super().__init__()
        self.shapes = {1: (3, 4, 4), 2: (6, SIDE, SIDE)}
        self.scale = nn.Parameter(torch.ones(1))

    def features(self, images, timestep=None, blocks=None, noise=None):
        x = self.scale * images * (1 - timestep / 1000) + noise * timestep / 1000
        maps = {1: F.avg_pool2d(x, 2), 2: torch.cat([x, x.square()], 1)}
        return {block: maps[block] for block in self.chosen(blocks)}


class Scales(pl.Callback):
    """Every loss that the task adds up."""

    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())


def images(dataset=Painted, **options):
    known = {"batch_size": 8, "flip": True, "crop_padding": 1, "drop_last": False}
    return ProbeImages(dataset, **{**known, "val_share": 0.25, **options})


def probe(data, net=None, optimizer=ADAM, **options):
    facts, takes = data.facts, ("num_classes", "class_names", "target", "ignore_label")
    known = {key: facts[key] for key in takes}
    asked = {"timestep": [100, 990], "block": "all", "noise": Noise(shared=False)}
    return LinearProbe(net or Net(), optimizer, **known, **{**asked, **options})


def trainer(folder=None, callbacks=(), **options):
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[ExactCounters(), *callbacks],
        **{"max_epochs": 3, "log_every_n_steps": 1, **options},
    )


def fitted(data, module, **options):
    fit = trainer(**options)
    fit.fit(module, data)
    return fit


def heads_of(module):
    return {key: value for key, value in module.state_dict().items() if "heads" in key}


def test_heads_together_are_heads_alone():
    together = probe(images(), rates=[1e-2, 5e-2])
    fitted(images(), together)
    scores = together.scores(next(iter(images().test_dataloader())), together.noise)
    for i, cell in enumerate(together.cells):
        for j, rate in enumerate(together.rates):
            place = {"timestep": cell.timestep, "block": cell.block}
            alone = probe(images(), optimizer=partial(torch.optim.Adam, lr=rate), **place)
            fitted(images(), alone)
            own = alone.scores(next(iter(images().test_dataloader())), together.noise)
            torch.testing.assert_close(scores[i, j], own[0, 0], rtol=1e-5, atol=1e-6)


def test_a_head_is_a_linear_layer_with_torchs_own_start_and_adam():
    """The same steps by nn.Linear, torch's cross-entropy, and its cosine stepped by epoch."""
    data, module = images(), probe(images(), timestep=100, block=2)
    layer = nn.Linear(6, 3)
    own = module.heads.own[0]["6"]
    assert float(own.weight.detach().abs().max()) <= 6**-0.5
    assert float(own.weight.detach().abs().max()) > 0.8 * 6**-0.5
    layer.weight.data, layer.bias.data = own.weight[0].clone(), own.bias[0].clone()
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)
    batches = []

    class Vectors(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            vectors = module.vectors(batch["image"], batch["index"].tolist(), module._epoch_noise())
            batches.append((trainer.current_epoch, vectors[0], batch["truth"].argmax(1)))

    fitted(data, module, callbacks=[Vectors()])
    assert len({epoch for epoch, *_ in batches}) == 3
    last = 0
    for epoch, x, label in batches:
        if epoch != last:
            schedule.step()
            last = epoch
        optimizer.zero_grad()
        F.cross_entropy(layer(x), label).backward()
        optimizer.step()
    torch.testing.assert_close(own.weight[0], layer.weight.data, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(own.bias[0], layer.bias.data, rtol=1e-5, atol=1e-6)


def test_it_chooses_on_pictures_held_out_and_names_the_published_choice(tmp_path):
    data = images()
    module = probe(data, optimizer=partial(torch.optim.Adam, lr=0.1), rates=[1e-5, 0.1])
    fit = fitted(data, module, max_epochs=6)
    fit.test(module, data, verbose=False)
    rows = module.tables()["cells"]
    assert [(row["timestep"], row["block"]) for row in rows] == [
        (100, 1),
        (100, 2),
        (990, 1),
        (990, 2),
    ]
    assert [row["rate"] for row in rows[:2]] == [0.1, 0.1]
    assert rows[0]["accuracy"] > 0.9 > rows[2]["accuracy"]
    chosen = next(row for row in rows if row["chosen"])
    assert chosen["val_accuracy"] == max(row["val_accuracy"] for row in rows)
    published = next(row for row in rows if row["published_choice"])
    assert published["accuracy"] == max(row["accuracy"] for row in rows)
    figures = {key: float(value) for key, value in fit.callback_metrics.items()}
    assert figures["test/chosen"] == pytest.approx(chosen["accuracy"])
    assert figures["test/t0100-b01/accuracy"] == pytest.approx(rows[0]["accuracy"])
    classes = module.tables()["classes"]
    assert [row["class"] for row in classes] == NAMES
    assert [row["train_pictures"] for row in classes] == [12, 12, 12]
    looked = module.look(Painted("test")[1]["image"], folder=tmp_path)
    assert looked[0]["class"] == "green"
    assert sum(row["probability"] for row in looked) == pytest.approx(1)


def test_what_a_picture_shows_is_learned_class_by_class():
    data = images(Masked, least_pixels=10, crop_padding=0)
    assert data.facts["target"] == "presence"
    module = probe(data, optimizer=partial(torch.optim.Adam, lr=0.1))
    fit = fitted(data, module, max_epochs=10)
    fit.test(module, data, verbose=False)
    best = max(row["average_precision"] for row in module.tables()["cells"])
    assert best > 0.9
    shown = [row["in_mean"] for row in module.tables()["classes"]]
    assert shown == [False, True, True]  # the first is the ground of every picture


def test_a_joined_head_is_a_linear_layer_on_the_vectors_of_its_cells():
    """The same steps by nn.Linear on the joined rows; the heads beside it are as without it."""
    alone, module = probe(images()), probe(images(), joined=["t0990-b01", "t0100-b02"])
    assert [(cell.name, cell.channels) for cell in module.cells[-1:]] == [("joined", 9)]
    layer, own = nn.Linear(9, 3), module.heads.own[0]["9"]
    layer.weight.data, layer.bias.data = own.weight[0].clone(), own.bias[0].clone()
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    rows = []

    class Rows(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            asked = batch["image"], batch["index"].tolist(), module._epoch_noise()
            _, first, second, _, joined = module.vectors(*asked)
            rows.append((torch.cat([first, second], 1), joined, batch["truth"].argmax(1)))

    fitted(images(), module, callbacks=[Rows()], max_epochs=1)
    for x, joined, label in rows:
        assert torch.equal(x, joined)
        optimizer.zero_grad()
        F.cross_entropy(layer(x), label).backward()
        optimizer.step()
    torch.testing.assert_close(own.weight[0], layer.weight.data, rtol=1e-5, atol=1e-6)
    fitted(images(), alone, max_epochs=1)
    for width in ("3", "6"):
        ours, theirs = (one.heads.own[0][width].weight for one in (alone, module))
        assert torch.equal(ours, theirs), width


def test_joined_cells_need_no_pass_of_their_own(monkeypatch):
    passed = []
    for joined in (None, "all"):
        module = probe(images(), joined=joined)
        inner = module.passes.net.features
        seen = lambda *asked, inner=inner: passed[-1].append(asked[1]) or inner(*asked)  # noqa: E731
        monkeypatch.setattr(module.passes.net, "features", seen)
        passed.append([])
        fitted(images(), module, max_epochs=1)
    assert passed[0] == passed[1] != []


def test_joined_cells_are_chosen_and_told_beside_the_others(tmp_path):
    data = images()
    module = probe(data, joined="all", normalize=True, epoch="best")
    fit = fitted(data, module)
    fit.test(module, data, verbose=False)
    row = module.tables()["cells"][-1]
    assert (row["timestep"], row["block"], row["channels"]) == (None, "joined", 18)
    assert (row["sigma"], row["joined"]) == (None, "t0100-b01 t0100-b02 t0990-b01 t0990-b02")
    assert float(fit.callback_metrics["test/joined/accuracy"]) == pytest.approx(row["accuracy"])
    vectors = module.vectors(Painted()[0]["image"][None], [0], module.noise)
    torch.testing.assert_close(vectors[-1].norm(), torch.tensor(2.0))  # of four of length 1


@pytest.mark.parametrize("stop", [2, 5, 7])  # five batches an epoch
def test_a_resumed_run_is_the_straight_one_to_the_bit(tmp_path, stop):
    several = {"rates": [1e-2, 1e-3], "joined": "all"}
    straight, losses = probe(images(), **several), Scales()
    fitted(images(), straight, callbacks=[losses])
    first, second, rest = probe(images(), **several), Scales(), Scales()
    fit = trainer(max_steps=stop, callbacks=[second], max_epochs=3)
    fit.fit(first, images())
    fit.save_checkpoint(tmp_path / "last.ckpt")
    again = probe(images(), **several)
    on = trainer(callbacks=[rest])
    on.fit(again, images(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert second.losses + rest.losses == losses.losses
    for key, value in heads_of(straight).items():
        assert torch.equal(value, heads_of(again)[key]), key
    assert torch.equal(straight.held_out, again.held_out)


def test_a_checkpoint_holds_heads_and_no_network(tmp_path):
    module = probe(images())
    fitted(images(), module).save_checkpoint(tmp_path / "last.ckpt")
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert not [key for key in content["state_dict"] if "scale" in key]
    module.check_checkpoint("last.ckpt", content)
    other = Net()
    other.scale.data += 1
    for changed, said in (
        (probe(images(), net=other), "holds heads of weights .*…, here it is .*…: give what"),
        (probe(images(), timestep=100), r"heads of cells t0100-b01, .*, here they are t0100-b01"),
        (probe(images(), rates=[0.5]), r"heads of rates 0\.01, here they are 0\.5"),
        (probe(images(), normalize=True), "heads of normalize False"),
        (
            probe(images(), joined="all"),
            "here they are t0100-b01, .*, joined: give",
        ),
    ):
        with pytest.raises(UserError, match=said):
            changed.check_checkpoint("last.ckpt", content)


def test_noise_follows_from_seed_epoch_and_picture(monkeypatch):
    seen = []
    data, module = images(), probe(images(), timestep=100, block=1)
    inner = module.passes.maps

    def maps(pictures, indices):
        noise = module.passes.noise
        seen.append((module.training, module.trainer.current_epoch, noise.seed, noise.draws))
        return inner(pictures, indices)

    monkeypatch.setattr(module.passes, "maps", maps)
    module.noise = module.noise._replace(draws=2)
    fitted(data, module)
    training = {(epoch, seed) for trains, epoch, seed, _ in seen if trains}
    assert len(training) == len({seed for _, seed in training}) == 3
    assert {draws for trains, _, _, draws in seen if trains} == {1}
    assert {(seed, draws) for trains, _, seed, draws in seen if not trains} == {(0, 2)}


def test_a_head_begins_the_same_beside_others():
    both = LinearHeads([4, 6, 4], 3, 2, seeds=[7, 8, 9])
    alone = LinearHeads([4], 3, 1, seeds=[9])
    for heads in both.own:
        assert torch.equal(heads["4"].weight[1], alone.own[0]["4"].weight[0])


class Two(Painted):
    """No picture is blue."""

    shown = 2

    def __getitem__(self, index):
        return super().__getitem__(index) | {"label": index % self.shown}


def test_a_class_without_pictures_is_told_and_one_class_alone_is_refused(monkeypatch):
    with pytest.warns(match="No picture fitted on is of class blue: what is never seen"):
        images(Two).train_dataloader()
    monkeypatch.setattr(Two, "shown", 1)
    with pytest.raises(UserError, match="36 pictures fitted on show red: give more with"):
        images(Two).train_dataloader()


def test_the_last_training_pictures_are_held_out_where_there_is_no_val():
    data = images()
    train, val, test = (data.split(name) for name in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (36, 12, 48)
    assert [val[index]["index"] for index in (0, 11)] == [36, 47]
    assert train[4]["truth"].tolist() == [0, 1, 0]

    class WithVal(Painted):
        def __init__(self, split):
            super().__init__(split)
            self.count = 20

    data = images(WithVal)
    assert [len(data.split(name)) for name in ("train", "val")] == [20, 20]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: images(val_share=0.0), r"data\.val_share lies between 0 and 1, got 0"),
        (
            lambda: images(partial(Painted, count=1)).split("train"),
            "1 training pictures, of which 1",
        ),
        (lambda: images(target="pixels").facts, "target=pixels is about masks"),
        (lambda: images(Masked, target="pixels").facts, "learned by task=pixel_mlp"),
        (lambda: images(Masked, target="class").facts, "painted have none: target=pixels or"),
        (lambda: images(target="presence").facts, "painted have none: target=class"),
        (lambda: probe(images(), rates=[0.0]), r"model\.rates are positive numbers, got \[0\.0\]"),
        (lambda: probe(images(), decay="slow"), r"model\.decay is none, .*, got 'slow'"),
        (lambda: probe(images(), prevalence=[1, 0]), r"model\.prevalence is the smallest"),
        (lambda: probe(images(), block=7), "net has no block 7"),
        (lambda: probe(images(), joined=["b02"]), "joined names b02, and the probe looks at t0100"),
        (lambda: probe(images(), joined=["t0100-b02"]), "two cells or more together, got t0100"),
        (lambda: probe(images(), joined=[]), "two cells or more together, got none"),
    ],
)
def test_settings_that_cannot_be(make, said):
    with pytest.raises(UserError, match=said):
        make()


def test_a_decay_without_an_end_and_a_choice_without_held_out_pictures_are_refused():
    with pytest.raises(UserError, match=r"model\.decay=cosine needs an end"):
        trainer(max_epochs=-1).fit(probe(images()), images())
    module = probe(images())
    fit = fitted(images(), module, limit_val_batches=0)
    with pytest.raises(UserError, match="No head was measured on pictures held out"):
        fit.test(module, images(), verbose=False)
