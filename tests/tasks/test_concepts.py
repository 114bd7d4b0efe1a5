"""Concepts of dictionaries: planted ones are found, in a test's own loop, on any ranks."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from diffdict.backbones.base import Backbone
from diffdict.data.base import Pictures
from diffdict.errors import UserError
from diffdict.features.tokens import TokenDataModule
from diffdict.metrics.concepts.activations import Activations
from diffdict.metrics.concepts.pre_activations import pre_of
from diffdict.metrics.concepts.ranking import token_labels
from diffdict.sae.relu import JumpRelu, Relu
from diffdict.sae.topk import BatchTopK, TopK
from diffdict.tasks.concepts import (
    ConceptTest,
    activation_histogram,
    components,
    match_density,
    projection,
)
from diffdict.tasks.sae import Dictionaries

SIDE, GRID, WIDTH = 16, 8, 6
NAMES, ABSENT, IGNORED = ["ground", "disc", "bar", "moon"], "moon", 9
COLOURS = torch.tensor([[-0.8, -0.8, -0.8], [0.9, -0.5, -0.5], [-0.5, 0.9, -0.5], [0.0, 0.0, 0.9]])


class Shapes(Pictures):
    """Coloured shapes that say their class; no moon in the test's pictures, a frame is ignored."""

    name, image_size, num_classes, labelled = "shapes", SIDE, 4, True
    class_names, palette, ignore_label = NAMES, [(0, 0, 0)] * 4, IGNORED

    def __init__(self, split="train", pictures=8):
        self.split, self.pictures = split, pictures

    def __len__(self):
        return self.pictures

    def picture_name(self, index):
        return f"{self.split} {index}"

    def __getitem__(self, index):
        if index >= self.pictures:
            raise IndexError(index)
        generator = torch.Generator().manual_seed(100 * (self.split == "test") + index)
        mask = torch.zeros(SIDE, SIDE, dtype=torch.int64)
        y, x, left = torch.randint(1, 7, (3,), generator=generator).tolist()
        mask[y : y + 6, x : x + 5] = 1
        mask[:, left + 5 : left + 9] = 2
        if self.split == "train" and index % 2:
            mask[12:, :4] = 3
        image = COLOURS[mask].permute(2, 0, 1)
        image = image + 0.05 * torch.randn(image.shape, generator=generator)
        mask[0] = IGNORED
        return {"image": image.clamp(-1, 1), "mask": mask, "index": index}


class Net(Backbone):
    """Colours and their negatives, at half the resolution."""

    name, image_size, num_timesteps = "net", SIDE, 1000

    def __init__(self):
        super().__init__()
        self.shapes = {2: (WIDTH, GRID, GRID), 3: (WIDTH, GRID, GRID)}

    def features(self, images, timestep=None, blocks=None, noise=None):
        small = F.avg_pool2d(images, SIDE // GRID)
        maps = {2: torch.cat([small, -small], 1) + 1, 3: torch.cat([-small, small], 1)}
        return {block: maps[block] for block in self.chosen(blocks)}


def shapes(dataset=Shapes, **options):
    asked = {"block": 2, "batch_size": 64, "window": 128, "dtype": "fp32", "val_pictures": 1}
    return TokenDataModule(dataset=dataset, backbone=Net, source="live", **{**asked, **options})


def planted(variant, data=None, **settings):
    """A dictionary whose first latents look for the colours of the classes, in turn."""
    facts = (data or shapes()).facts
    keys = ("d_in", "mean", "scale", "dims", "class_names", "ignore_label")
    sae = {"latents": 12, **({"k": 2} if issubclass(variant, TopK) else {})}
    task = Dictionaries(
        partial(variant, **(sae | settings.pop("sae", {}))),
        partial(torch.optim.Adam, lr=1e-3),
        **{key: facts[key] for key in keys},
        **settings,
    )
    for one in task.saes.values():
        with torch.no_grad():
            one.W_enc.mul_(0.1)
            one.b_enc.fill_(-0.1)
            standard = one.standard(torch.cat([COLOURS, -COLOURS], 1) + 1)
            for label in range(len(NAMES)):
                row = standard[label] - standard[torch.arange(4) != label].mean(0)
                one.W_enc[label] = F.normalize(row, dim=0)
                own = standard @ one.W_enc[label]
                rest = own[torch.arange(4) != label].max()
                one.b_enc[label] = -(own[label] + rest) / 2
    return task


def measured(task, data=None, **options):
    """The task after a test; and the figures."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = pl.Trainer(accelerator="cpu", use_distributed_sampler=False, **quiet, **options)
    trainer.test(task, data or shapes(), verbose=False)
    return task, {key: float(value) for key, value in trainer.callback_metrics.items()}


@pytest.fixture(scope="module", params=[Relu, JumpRelu, TopK, BatchTopK])
def found(request):
    """A planted dictionary, its findings and its figures."""
    task, figures = measured(planted(request.param))
    return task, task.findings["sae"], figures


def test_planted_latents_are_found(found):
    _, findings, figures = found
    assert findings.best.choice.latents.tolist() == [0, 1, 2, 3]
    assert findings.best.absent_test == [ABSENT]
    assert findings.best.absent_train == []
    assert findings.best.test.iou[3].isnan()
    assert (findings.best.test.iou[:3] > 0.6).all()
    assert figures["test/iou"] == pytest.approx(float(findings.best.test.iou[:3].mean()))
    assert figures["test/iou_train"] == pytest.approx(float(findings.best.train.iou[:3].mean()))
    for name in ("random", "permuted"):
        assert figures["test/iou"] > 1.05 * figures[f"test/iou_{name}"]
    assert figures["test/iou_union"] >= figures["test/iou"] - 0.05
    assert figures["test/purity"] > 0.9
    assert figures["test/coverage"] == 1
    keys = "iou_zero iou_matched iou_channels iou_pca map fvu l0"
    assert all(f"test/{key}" in figures for key in keys.split())


def test_a_classs_excess_latents_are_stronger_inside_on_training_pictures(found):
    task, findings, _ = found
    sae, sums = task.saes["sae"], torch.zeros(4, 12)
    places, whole = torch.zeros(4), torch.zeros(12)
    for picture in map(Shapes("train").__getitem__, range(8)):
        maps = Net().features(picture["image"][None], 50, [2], None)[2]
        codes = sae.encode(maps[0].flatten(1).T)
        labels = token_labels(picture["mask"][None], (GRID, GRID), NAMES, IGNORED).flatten()
        whole += codes.sum(0)
        for label in range(4):
            sums[label] += codes[labels == label].sum(0)
            places[label] += (labels == label).sum()
    excess = sums / places[:, None] - whole / (8 * GRID * GRID)
    for label, latents in enumerate(findings.excess):
        assert latents[0] == label  # the planted one
        values = excess[label][latents]
        assert (values > 0).all()
        assert torch.equal(values, values.sort(descending=True).values)
        assert len(latents) == min(8, int((excess[label] > 1e-6).sum()))
    rows = task.tables()["classes"]
    assert rows[1]["excess"] == " ".join(map(str, findings.excess[1]))


def test_counts_are_those_of_dense_codes(found):
    """The chosen latents again, by upsampled features and dense codes."""
    task, findings, _ = found
    sae, both = task.saes["sae"], torch.zeros(2, 3, dtype=torch.int64)
    for picture in map(Shapes("test").__getitem__, range(8)):
        maps = Net().features(picture["image"][None], 50, [2], None)[2]
        pixels = F.interpolate(maps, size=(SIDE, SIDE), mode="bilinear")[0].flatten(1).T
        codes, label = sae.encode(pixels), picture["mask"].flatten()
        for c in range(3):
            active = (codes[:, c] > 0) & (label != IGNORED)
            both[0, c] += (active & (label == c)).sum()
            both[1, c] += (active | (label == c)).sum()
    chosen = torch.arange(3)
    areas = findings.test.intersections[0, chosen, chosen]
    union = findings.test.active[0, :3] + findings.test.pixels[:3] - areas
    assert (areas - both[0]).abs().max() <= 2  # a value on the border may fall on either side
    assert (union - both[1]).abs().max() <= 2


def test_tables_say_what_was_found(found):
    task, findings, figures = found
    classes, latents = (task.tables()[name] for name in ("classes", "latents"))
    assert [row["class"] for row in classes] == NAMES
    assert [row["latent"] for row in classes] == [0, 1, 2, 3]
    assert [row["absent"] for row in classes] == [None, None, None, "test"]
    means = sum(row["iou"] for row in classes[:3]) / 3
    assert means == pytest.approx(figures["test/iou"])
    assert classes[0]["threshold"] in findings.thresholds[0].tolist()
    assert len(latents) == task.saes["sae"].latents
    assert [row["class"] for row in latents[:4]] == NAMES
    assert latents[1]["iou"] == pytest.approx(classes[1]["iou"], abs=0.02)
    values = [value for row in (*classes, *latents) for value in row.values()]
    assert {type(value) for value in values} <= {str, int, float, type(None)}


def test_unlabelled_pictures_are_passed_over_and_said():
    class Unlabelled(Shapes):
        labelled = False

    data = shapes(Unlabelled)
    task, figures = measured(planted(Relu, data), data)
    assert task.findings == task.tables() == {}
    assert "test/fvu" in figures
    assert not [name for name in figures if "iou" in name]
    assert data.unlabelled == "shapes has no labels: choose a labelled dataset"


def test_it_is_left_out_where_nobody_asks():
    assert measured(planted(Relu, concepts=None))[0].findings == {}
    data = shapes(choose_pictures=0)
    task, _ = measured(planted(Relu), data)
    assert task.findings == {}
    assert "choose_pictures=0 leaves out" in data.unlabelled


def test_stacked_maps_are_measured_one_by_one():
    both = shapes(block=[2, 3], mix="stack")
    with pytest.warns(UserWarning, match="No class is matched with a latent: 2 maps"):
        assert measured(planted(Relu, both), both)[0].findings == {}
    assert "evaluate.py ckpt_path=… timestep=50 block=2" in both.unlabelled
    one = shapes(block=[2], mix="stack")
    assert measured(planted(Relu), one)[1] == measured(planted(Relu))[1]


def test_side_by_side_each_has_its_own():
    task, figures = measured(planted(TopK, sae={"k": [1, 2]}))
    assert set(task.findings) == {"k1", "k2"}
    _, alone = measured(planted(TopK, sae={"k": 2}))
    for name in ("iou", "iou_random", "iou_channels", "map"):
        assert figures[f"test/k2/{name}"] == alone[f"test/{name}"]
    assert {row["dictionary"] for row in task.tables()["classes"]} == {"k1", "k2"}


@pytest.mark.parametrize("variant", [Relu, TopK])
def test_no_live_latents_fit_nothing(variant, capsys):
    task = planted(variant)
    for one in task.saes.values():
        one.b_enc.data.fill_(-100.0)
    task, figures = measured(task)
    assert figures["test/iou"] == figures["test/iou_union"] == figures["test/purity"] == 0
    rows = task.tables()
    assert {row["latent"] for row in rows["classes"]} == {None}
    assert {row["class"] for row in rows["latents"]} == {None}
    said = capsys.readouterr().out
    assert "no pixel in test, so in no mean: moon" in said


def test_one_latent_and_one_picture_are_enough():
    data = shapes(partial(Shapes, pictures=2), choose_pictures=1, val_pictures=0)
    task, figures = measured(planted(Relu, data, sae={"latents": 4}), data, limit_test_batches=1)
    assert "permuted" not in task.findings["sae"].baselines
    assert figures["test/iou"] > 0


def test_a_few_training_pictures_choose():
    counts = [
        measured(planted(Relu), shapes(choose_pictures=n))[0].findings["sae"] for n in (3, 99)
    ]
    pixels = [int(each.train.pixels.sum()) for each in counts]
    assert pixels == [3 * (SIDE - 1) * SIDE, 8 * (SIDE - 1) * SIDE]
    assert torch.equal(counts[0].test.pixels, counts[1].test.pixels)


@pytest.mark.faults
@pytest.mark.parametrize("variant", [JumpRelu, TopK])
def test_two_ranks_find_what_one_finds(variant):
    """Eight training pictures and five of the test: one rank has more of these."""
    data = partial(shapes, partial(Shapes, pictures=5))
    _, one = measured(planted(variant, data()), data())
    _, two = measured(planted(variant, data()), data(), strategy="ddp_fork", devices=2)
    concepts = [name for name in one if "iou" in name or name.endswith(("map", "purity"))]
    assert len(concepts) > 9
    assert {name: two[name] for name in concepts} == {name: one[name] for name in concepts}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"quantiles": [0.5, 0.9]}, "quantiles ascend from 0"),
        ({"quantiles": [0, 0.9, 0.5]}, "quantiles ascend from 0"),
        ({"quantiles": [0, 1]}, "stay below 1"),
        ({"union": 0}, "union lies in 1..12 latents, got 0"),
    ],
)
def test_what_cannot_be_is_said(options, sentence):
    with pytest.raises(UserError, match=sentence):
        measured(planted(Relu, concepts=partial(ConceptTest, **options)))


def test_a_negative_number_of_pictures_is_refused():
    with pytest.raises(UserError, match="must not be negative"):
        shapes(choose_pictures=-1)


# ---------------------------------------------------------------- what it is compared with


def test_components_are_the_principal_ones():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(500, 4, generator=generator) @ torch.diag(torch.tensor([1.0, 3, 0.2, 2]))
    rows = components(tokens.split(90), tokens.mean(0))
    _, _, expected = torch.linalg.svd(tokens - tokens.mean(0), full_matrices=False)
    torch.testing.assert_close((rows * expected).sum(1).abs(), torch.ones(4), atol=1e-4, rtol=0)


def test_thinned_thresholds_leave_the_same_density():
    generator = torch.Generator().manual_seed(0)
    tokens, rows = torch.randn(4000, 3, generator=generator), torch.eye(3)
    encode = projection(rows, torch.zeros(3))
    sample = lambda: tokens.split(700)  # noqa: E731
    dense = activation_histogram(encode, torch.zeros(3), None, sample)
    rare = activation_histogram(encode, torch.tensor([0.5, 1.0, 9.0]), None, sample)
    thresholds = dense.quantiles(match_density([0, 0.5], dense, rare))
    shares = (tokens[:, :, None] > thresholds).double().mean(0)
    torch.testing.assert_close(shares[:, 0], rare.density, atol=5e-3, rtol=0)
    torch.testing.assert_close(shares[:, 1], rare.density / 2, atol=5e-3, rtol=0)


def test_a_sample_is_the_same_again_and_on_every_rank():
    data = shapes()
    first, again = (torch.cat([*data.sample()]) for _ in range(2))
    assert torch.equal(first, again)
    maps = Net().features(torch.stack([Shapes()[i]["image"] for i in range(8)]), 50, [2], None)[2]
    every = maps.flatten(2).mT.flatten(0, 1)
    assert (first[:, None] - every).abs().amax(2).amin(1).max() < 1e-5


def test_whole_maps_and_columns_of_tokens_give_the_same_pre_activations():
    sae = Relu(WIDTH, latents=5)
    maps = torch.randn(2, 3, 4, WIDTH)
    pre = pre_of(sae.pre, maps)
    every = sae.pre(maps.flatten(0, 2)).view(2, 3, 4, 5).permute(0, 3, 1, 2)
    torch.testing.assert_close(pre(slice(1, 4)), every[:, 1:4])
    torch.testing.assert_close(pre(torch.tensor([4, 0]), slice(1, 2)), every[:, [4, 0], 1:2])
    metric = Activations(torch.zeros(5))
    metric.update(pre)
    column = Activations(torch.zeros(5))
    column.update(pre_of(sae.pre, maps.flatten(0, 2)[None, :, None]))
    assert torch.equal(metric.counts, column.counts)


def test_pictures_come_with_the_labels_of_others():
    data = shapes()
    data.setup("test")
    _, train, again, test = data.test_dataloader()
    assert [len(loader) for loader in (train, again, test)] == [8, 8, 8]
    for loader, split in ((train, "train"), (test, "test")):
        others = [picture.other for picture in loader]
        masks = [picture.mask for picture in loader]
        assert not any(torch.equal(a, b) for a, b in zip(masks, others, strict=True))
        key = lambda mask: mask.flatten().tolist()  # noqa: E731
        assert sorted(map(key, masks)) == sorted(map(key, others))
        assert torch.equal(masks[1], Shapes(split)[1]["mask"])
