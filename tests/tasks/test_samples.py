"""Samples: the same pictures in any batch, on any rank, after any break; and nothing mixed."""

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.backbones.pixels import Pixels
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import ddim, ddim_invert, ddpm
from diffdict.errors import UserError
from diffdict.tasks.samples import SampleIndices, Samples

FLAGS = {
    "image_size": 16,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": [1],
    "attention_resolutions": [8],
    "use_scale_shift_norm": True,  # else 32 groups of one channel forget the embedding
    "learn_sigma": True,
}
DDPM = partial(ddpm, respacing="3")


def network(**flags):
    """Small, and far from its zero initialisation, so that every weight counts."""
    torch.manual_seed(0)
    net = GuidedUNet(**FLAGS, **flags)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.05)
        if net.condition.classes is not None:
            net.label_emb.weight.mul_(100)
    return net


def draw(
    folder,
    number=7,
    shard_size=3,
    batch_size=2,
    sampler=DDPM,
    net=None,
    objective=None,
    **options,
):
    data = SampleIndices(number, shard_size, batch_size)
    net = net or network()
    task = Samples(net, sampler, objective or Objective(), str(folder), **data.facts, **options)
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )
    trainer.predict(task, data, return_predictions=False)
    return task


def stored(folder):
    """index → picture, over all shards; an index in two shards is an error."""
    pictures = {}
    for path in sorted(folder.glob("samples_*.npz")):
        with np.load(path) as arrays:
            for index, picture in zip(arrays["index"].tolist(), arrays["arr_0"], strict=True):
                assert index not in pictures
                pictures[index] = picture
    return pictures


def assert_alike(ours, theirs):
    """Equal but for a rounding to the next byte."""
    assert sorted(ours) == sorted(theirs)
    for index, picture in ours.items():
        assert np.abs(picture.astype(int) - theirs[index]).max() <= 1


@pytest.mark.parametrize("sampler", [DDPM, partial(ddim, respacing="3", eta=0.5)])
def test_batch_size_and_shards_change_no_picture(tmp_path, sampler):
    draw(tmp_path / "a", sampler=sampler)
    draw(tmp_path / "b", batch_size=7, shard_size=4, sampler=sampler)
    ours = stored(tmp_path / "a")
    assert sorted(ours) == list(range(7))
    assert ours[0].shape == (16, 16, 3)
    assert ours[0].dtype == np.uint8
    assert len({picture.tobytes() for picture in ours.values()}) == 7
    assert_alike(ours, stored(tmp_path / "b"))


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_ranks_share_the_samples_without_duplicates(tmp_path, world):
    data, drawn = SampleIndices(number=11, shard_size=3, batch_size=2), []
    task = SimpleNamespace(done=lambda samples: samples.start == 6)
    for rank in range(world):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world, lightning_module=task)
        batches = list(data.predict_dataloader())
        assert batches, "without a batch a rank would not come to the end, where the others wait"
        for batch in batches:
            assert len({int(index) // 3 for index in batch}) <= 1
            drawn += batch.tolist()
    assert sorted(drawn) == [0, 1, 2, 3, 4, 5, 9, 10]


def test_a_broken_run_goes_on_where_it_was(tmp_path):
    draw(tmp_path / "whole")
    draw(tmp_path / "broken")
    whole, lost = stored(tmp_path / "whole"), tmp_path / "broken" / "samples_000003-000005.npz"
    kept = tmp_path / "broken" / "samples_000000-000002.npz"
    lost.unlink()
    kept.write_bytes(before := kept.read_bytes() + b"mark")  # a zip may end in anything
    draw(tmp_path / "broken", batch_size=1)
    assert kept.read_bytes() == before
    assert_alike(whole, stored(tmp_path / "broken"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sampler": partial(ddim, respacing="3")}, "sampler is ddpm, and now ddim"),
        ({"sampler": partial(ddpm, respacing="4")}, "respacing is 3, and now 4"),
        ({"seed": 1}, "seed is 0, and now 1"),
        ({"number": 8}, "number is 7, and now 8"),
        ({"net": GuidedUNet(**FLAGS)}, "sha256 is"),
        ({"format": "png"}, "format is npz, and now png"),
    ],
)
def test_nothing_else_is_mixed_in(tmp_path, change, named):
    draw(tmp_path)
    before = stored(tmp_path)
    with pytest.raises(UserError, match=named):
        draw(tmp_path, **change)
    assert_alike(before, stored(tmp_path))


def test_png_holds_the_same_pictures(tmp_path):
    draw(tmp_path / "npz")
    draw(tmp_path / "png", format="png")
    pictures = {
        int(path.stem): np.asarray(Image.open(path)) for path in (tmp_path / "png").glob("0*.png")
    }
    assert_alike(stored(tmp_path / "npz"), pictures)


def test_the_end_leaves_a_sheet_and_the_identity(tmp_path):
    task = draw(tmp_path)
    kept = json.loads((tmp_path / "samples.json").read_text())
    assert kept["sha256"] == task.net.sha256
    assert kept["sampler"] == "ddpm"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 3 * 16


def test_classes_go_in_turn_or_stay(tmp_path):
    net = network(class_cond=True)
    draw(tmp_path / "turn", net=net)
    draw(tmp_path / "stay", net=net, label=3)
    labels = [np.load(path)["label"] for path in sorted((tmp_path / "turn").glob("*.npz"))]
    assert np.concatenate(labels).tolist() == list(range(7))
    turn, stay = stored(tmp_path / "turn"), stored(tmp_path / "stay")
    assert np.abs(turn[3].astype(int) - stay[3]).max() <= 1
    assert np.abs(turn[5].astype(int) - stay[5]).max() > 1


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"net": Pixels(image_size=16)}, "no diffusion network"),
        ({"sampler": partial(ddim_invert)}, "starts from pictures"),
        ({"format": "gif"}, "npz or png"),
        ({"label": 3}, "knows no classes"),
        ({"number": 0}, "data.number=0"),
        ({"shard_size": 0}, "data.shard_size=0"),
        ({"batch_size": 0}, "data.batch_size must be"),
    ],
)
def test_mistakes_are_named(tmp_path, options, rule):
    with pytest.raises(UserError, match=rule):
        draw(tmp_path, **options)
