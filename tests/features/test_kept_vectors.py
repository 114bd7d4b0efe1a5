"""Kept features of a linear probe: what was live, read again by runs that build no network."""

import errno
from functools import partial

import pytest
import torch

from diffdict.backbones.base import Backbone
from diffdict.errors import UserError
from diffdict.features.noise import Noise
from diffdict.features.recorded_network import RecordedNetwork, open_network
from diffdict.features.store import FeatureStore
from diffdict.features.store.shards import ShardWriter
from tests.features.test_probe_images import gazes
from tests.tasks.test_linear_probe import (
    Masked,
    Net,
    heads_of,
    images,
    probe,
    trainer,
)

BUILT = []
EPOCHS = 3


class FileNet(Net):
    """The same network with weights of a file."""

    def __init__(self, checkpoint=None, gain=1.0):
        BUILT.append(checkpoint)
        super().__init__()
        self.gain = gain
        if checkpoint is not None:
            self.load(checkpoint)


@pytest.fixture
def world(tmp_path):
    """`run(**options)`: a probe fitted with its features kept, and measured."""
    for name, scale in (("weights", 1.5), ("others", 2.0)):
        torch.save({"scale": torch.full((1,), scale)}, tmp_path / f"{name}.pt")
    target = f"{__name__}.FileNet"

    def run(weights="weights.pt", data=None, callbacks=(), steps=-1, resume=None, **options):
        BUILT.clear()
        file = None if weights is None else str(tmp_path / weights)
        config = {"_target_": target, "checkpoint": file, **options.pop("config", {})}
        net = open_network(config, options.pop("keep", True), str(tmp_path / "kept"))
        data = data or images()
        module = probe(data, net=net, **options)
        fit = trainer(max_epochs=EPOCHS, max_steps=steps, callbacks=callbacks)
        fit.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        if steps < 0:
            fit.test(module, datamodule=data, verbose=False)
        else:
            fit.save_checkpoint(tmp_path / "last.ckpt")
        return module

    run.folder = tmp_path / "kept"
    return run


def names(folder):
    return sorted(path.name for path in folder.iterdir())


WHOLE = ["network.json", "test", "train-0000", "train-0001", "train-0002", "val"]


def test_kept_features_are_the_live_ones_and_need_no_network(world):
    live = world()
    assert (len(BUILT), names(world.folder)) == (1, WHOLE)
    again = world()
    assert BUILT == []
    assert again.tables() == live.tables()
    for key, value in heads_of(live).items():
        assert torch.equal(value, heads_of(again)[key]), key
    rounded = world(keep=False)
    for key, value in heads_of(live).items():
        torch.testing.assert_close(value, heads_of(rounded)[key], rtol=0, atol=0.02)
    assert not torch.equal(live.heads.own[0]["3"].weight, rounded.heads.own[0]["3"].weight)
    for part in WHOLE[1:]:
        FeatureStore.open(world.folder / part).verify()


def test_joined_cells_are_learned_from_what_single_ones_have_kept(world):
    world()
    again = world(joined="all")
    assert (BUILT, names(world.folder)) == ([], WHOLE)
    live = world(joined="all", keep=False)
    ours, theirs = (one.heads.own[0]["18"].weight for one in (again, live))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02)


def test_the_network_runs_once_a_copy(world, monkeypatch):
    """Of two copies in three epochs: the third epoch sees the first one's pictures again."""
    passed = []
    inner = Net.features
    monkeypatch.setattr(
        Net, "features", lambda self, *asked: passed.append(len(asked[0])) or inner(self, *asked)
    )
    kept = world(data=images(copies=2))
    assert names(world.folder) == [name for name in WHOLE if name != "train-0002"]
    pictures = 2 * 36 + 12 + 48  # two copies, those held out and those of the test
    assert sum(passed) == 2 * pictures  # at two timesteps
    again = world(data=images(copies=2))
    assert (BUILT, sum(passed)) == ([], 2 * pictures)
    live = world(data=images(copies=2), keep=False)
    assert kept.tables() == again.tables()
    for key, value in heads_of(live).items():
        torch.testing.assert_close(value, heads_of(kept)[key], rtol=0, atol=0.02)
    fresh = world(keep=False)
    ours, theirs = (one.heads.own[0]["3"].weight for one in (live, fresh))
    assert not torch.allclose(ours, theirs, rtol=0, atol=1e-4)


def test_other_rates_scales_and_batches_are_read_from_the_same(world):
    world()
    several = world(rates=[1e-3, 1e-2], normalize=True, decay="none", data=images(batch_size=5))
    fewer = world(timestep=990, block=2)
    assert BUILT == []
    assert len(several.tables()["cells"]) == 4
    assert [cell.name for cell in fewer.cells] == ["t0990-b02"]


class Both(Masked):
    """A class and a mask."""

    picture_classes = ("red", "green", "blue")

    def __getitem__(self, index):
        return super().__getitem__(index) | {"label": index % 3}


def test_another_target_is_read_from_the_same(world):
    world(data=images(partial(Both), target="class"))
    shown = world(data=images(partial(Both), target="presence", least_pixels=10))
    assert (BUILT, shown.figure) == ([], "average_precision")
    assert max(row["average_precision"] for row in shown.tables()["cells"]) > 0.5


def test_attributes_are_read_with_the_mirrors_of_their_epoch(world):
    runs = []
    for _ in range(2):
        data = gazes()
        runs.append(world(data=data, attributes=data.facts["attributes"]))
    live, again = runs
    assert BUILT == []
    assert str(again.tables()) == str(live.tables())
    for key, value in heads_of(live).items():
        assert torch.equal(value, heads_of(again)[key]), key


def test_weights_that_no_file_has_are_compared_by_building(world):
    world(weights=None)
    again = world(weights=None)
    assert BUILT == [None]
    assert len(again.tables()["cells"]) == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights": "others.pt"}, "of another network: checkpoint is "),
        ({"weights": None}, "of another network: checkpoint is .* there and null here"),
        ({"config": {"gain": 2.0}}, "gain is null there and 2.0 here"),
        ({"noise": Noise(shared=False, seed=5)}, "noise is .*5"),
        ({"noise": Noise(shared=True)}, "noise is .*true"),
        ({"seed": 3}, 'training is .*"seed":.?3'),
        ({"data": {"flip": False}}, 'training is .*"flip":.?false'),
        ({"data": {"crop_padding": 0}}, 'training is .*"crop_padding":.?0'),
        ({"data": {"seed": 4}}, 'training is .*"order":.?4'),
        ({"data": {"val_share": 0.5}}, "dataset_hash is .*; pictures is 36 there and 24 here"),
        ({"compute": "bf16"}, 'compute is "fp32" there'),
    ],
)
def test_features_of_something_else_are_refused(world, change, said):
    world()
    before = names(world.folder)
    data = images(**change.pop("data", {}))
    with pytest.raises(UserError, match=said) as refused:
        world(data=data, **change)
    assert "paths.features=" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert names(world.folder) == before


def test_cells_that_are_not_there_are_refused(world):
    world(timestep=100, block=1)
    with pytest.raises(UserError, match=r"holds features of t0100-b01.* none of t0100-b02"):
        world(timestep=100, block=[1, 2])


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_file_is_named(world, damage):
    world()
    shard = world.folder / "train-0001" / "t0100-b01" / "000000.safetensors"
    raw = bytearray(shard.read_bytes())
    raw[4096 + 5] ^= 1
    shard.unlink() if damage == "gone" else shard.write_bytes(raw[:-9] if damage == "cut" else raw)
    wrong = {"cut": "is cut or torn", "flipped": "is damaged: picture 0", "gone": "1 of 1 shards"}
    with pytest.raises(UserError, match=wrong[damage]) as refused:
        world()
    assert str(world.folder / "train-0001") in str(refused.value)


def test_a_disk_that_fills_leaves_nothing(world, monkeypatch):
    write, written = ShardWriter._write, []

    def full(writer, data):
        written.append(len(data))
        if len(written) == 12:

            class Disk:
                def write(self, data):
                    raise OSError(errno.ENOSPC, "no space")

                def close(self):
                    pass

            writer.file = Disk()
        write(writer, data)

    monkeypatch.setattr(ShardWriter, "_write", full)
    with pytest.raises(UserError, match="Disk full"):
        world()
    assert names(world.folder) == []


@pytest.mark.parametrize("stop", [2, 5, 7])  # five batches an epoch
def test_a_run_resumed_in_mid_epoch_is_the_straight_one(world, tmp_path, stop):
    first = world(steps=stop)
    assert first.global_step == stop
    rest = world(resume=tmp_path / "last.ckpt")
    left = {2: ["train-0000"], 5: [], 7: ["train-0001"]}[stop]
    assert names(world.folder) == [name for name in WHOLE if name not in left]
    whole = world()
    assert len(BUILT) == bool(left)
    for key, value in heads_of(whole).items():
        assert torch.equal(value, heads_of(rest)[key]), key
    assert names(world.folder) == WHOLE


def test_what_a_killed_run_left_is_swept(world):
    stray = world.folder / "train-0000.0123.tmp"
    stray.mkdir(parents=True)
    world()
    assert names(world.folder) == WHOLE


def test_epochs_that_leave_pictures_out_are_not_kept(world):
    with pytest.raises(UserError, match=r"data\.drop_last=true .*: data\.drop_last=false"):
        world(data=images(drop_last=True))


def test_a_record_says_what_is_asked_of_a_network(world, tmp_path):
    world()
    config = {"_target_": f"{__name__}.FileNet", "checkpoint": str(tmp_path / "weights.pt")}
    BUILT.clear()
    net = RecordedNetwork(config, world.folder)
    assert isinstance(net, Backbone)
    assert (net.name, net.num_timesteps, net.shapes[2]) == ("net", 1000, (6, 8, 8))
    assert net.chosen("all") == [1, 2]
    with pytest.raises(UserError, match="between 0 and 999, got 1000"):
        net.check_timestep(1000)
    assert BUILT == []
    seen = net.features(torch.zeros(1, 3, 8, 8), 100, [1], torch.zeros(1, 3, 8, 8))
    assert (len(BUILT), seen[1].shape) == (1, (1, 3, 4, 4))
    assert not any(p.requires_grad for p in net.parameters())
