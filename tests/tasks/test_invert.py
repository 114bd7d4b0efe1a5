"""Inversion in shards: the same bits however it is cut or broken, and the way back from them."""

import csv
import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from diffdict.backbones.pixels import Pixels
from diffdict.data.base import Pictures
from diffdict.data.toy_faces import ToyFaces
from diffdict.diffusion.chains.inversion import picture_error
from diffdict.diffusion.objectives import Objective
from diffdict.diffusion.samplers import ddim, ddim_invert, ddpm
from diffdict.errors import UserError
from diffdict.reports.codes.chains import Chains
from diffdict.reports.samples.round_trip import RoundTripReport
from diffdict.results.inputs.stored_noise import StoredNoise, shard_name
from diffdict.tasks.invert import Invert, PicturesToInvert
from diffdict.tasks.samples import SampleIndices, Samples
from tests.tasks.test_samples import network
from tests.tiny_pdae import STAGES, tiny_pdae

FACES = partial(ToyFaces, image_size=16, test_pictures=7)
CHAIN = {"respacing": "ddim4", "clip_denoised": False}
TRAINER = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "use_distributed_sampler": False,
}


class Classified(Pictures):
    """Faces of a class each."""

    def __init__(self, split, classes=(0, 5, 999)):
        self.faces = ToyFaces(split, image_size=16, test_pictures=len(classes))
        self.name, self.split, self.image_size, self.classes = "classified", split, 16, classes
        self.fingerprint = f"classified {classes}"

    def __len__(self):
        return len(self.classes)

    def __getitem__(self, index):
        return {"image": self.faces[index]["image"], "label": self.classes[index], "index": index}


def other_network():
    """One whose first weight is another."""
    net = network()
    with torch.no_grad():
        next(net.parameters()).add_(1)
    return net


def invert(folder, dataset=FACES, net=None, shard_size=3, batch_size=2, sampler=None, **options):
    data = PicturesToInvert(dataset, options.pop("split", "test"), shard_size, batch_size)
    sampler = sampler or partial(ddim_invert, **CHAIN)
    task = Invert(net or network(), sampler, Objective(), str(folder), **data.facts, **options)
    trainer = pl.Trainer(**TRAINER, callbacks=[RoundTripReport(pictures=2)])
    trainer.predict(task, data, return_predictions=False)
    return task


def draw_back(folder, noise, net=None, number=7, batch_size=2, sampler=None, **options):
    data = SampleIndices(number, 3, batch_size)
    sampler = sampler or partial(ddim, **CHAIN)
    net = net or network()
    task = Samples(net, sampler, Objective(), str(folder), **data.facts, start=noise, **options)
    pl.Trainer(**TRAINER).predict(task, data, return_predictions=False)
    pictures = [np.load(path)["arr_0"] for path in sorted(folder.glob("*.npz"))]
    return np.concatenate(pictures)


def stored(folder):
    """index → every array of it but its neighbour's; an index in two shards is an error."""
    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as arrays:
            columns = {name: arrays[name] for name in arrays.files if name != "other"}
        for row, index in enumerate(columns["index"].tolist()):
            assert index not in found
            found[index] = {name: column[row].tobytes() for name, column in columns.items()}
    return found


@pytest.mark.parametrize(("shard_size", "batch_size"), [(7, 2), (2, 2), (4, 2), (1, 2)])
def test_every_bit_is_the_same_however_it_is_cut(tmp_path, shard_size, batch_size):
    invert(tmp_path / "a")
    invert(tmp_path / "b", shard_size=shard_size, batch_size=batch_size)
    ours = stored(tmp_path / "a")
    assert sorted(ours) == list(range(7))
    assert len({row["noise"] for row in ours.values()}) == 7
    assert ours == stored(tmp_path / "b")


def test_another_batch_size_changes_last_bits_at_most(tmp_path):
    invert(tmp_path / "a")
    invert(tmp_path / "b", batch_size=5)
    ours, theirs = (StoredNoise(tmp_path / name).noise(range(7)) for name in "ab")
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_broken_run_goes_on_bit_for_bit(tmp_path):
    invert(tmp_path / "whole")
    invert(tmp_path / "broken")
    lost, kept = (tmp_path / "broken" / shard_name(own) for own in (range(3, 6), range(3)))
    lost.unlink()
    kept.write_bytes(before := kept.read_bytes() + b"mark")  # a zip may end in anything
    invert(tmp_path / "broken")
    assert kept.read_bytes() == before
    assert lost.read_bytes() == (tmp_path / "whole" / lost.name).read_bytes()
    assert stored(tmp_path / "whole") == stored(tmp_path / "broken")


def test_a_run_that_was_cut_short_has_no_table_and_goes_on(tmp_path, capsys):
    data = PicturesToInvert(FACES, "test", 3, 2)
    task = Invert(
        network(), partial(ddim_invert, **CHAIN), Objective(), str(tmp_path), **data.facts
    )
    short = pl.Trainer(**TRAINER, callbacks=[RoundTripReport()], limit_predict_batches=2)
    short.predict(task, data, return_predictions=False)
    assert not (tmp_path / "round_trip.csv").exists()
    assert [path.name for path in tmp_path.glob("*.npz")] == [shard_name(range(3))]
    capsys.readouterr()
    invert(tmp_path)
    assert "4 of 7 pictures inverted now" in capsys.readouterr().out


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_ranks_share_the_pictures_without_duplicates(world):
    data, seen = PicturesToInvert(FACES, "test", shard_size=2, batch_size=2), []
    task = SimpleNamespace(done=lambda pictures: pictures.start == 4)
    for rank in range(world):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world, lightning_module=task)
        batches = list(data.predict_dataloader())
        assert batches, "without a batch a rank would not come to the end, where the others wait"
        for batch in batches:
            seen += batch["index"].tolist()
            assert "image" not in batch or len(batch["image"]) == 2
    assert sorted(seen) == [0, 1, 2, 3, 6]


def test_what_is_stored_is_the_noise_of_each_picture_and_its_error(tmp_path):
    task, faces = invert(tmp_path), FACES("test")
    images = torch.stack([face["image"] for face in map(faces.__getitem__, range(7))])
    keys = {"objective": Objective(), **CHAIN}
    noise = ddim_invert(task.net, images, task.net.process, **keys).x
    back = ddim(task.net, noise, task.net.process, stop=0, **keys).x
    held = StoredNoise(tmp_path)
    torch.testing.assert_close(held.noise(range(7)), noise, rtol=1e-4, atol=1e-4)
    with (tmp_path / "round_trip.csv").open() as file:
        rows = list(csv.DictReader(file))
    error = picture_error(back, images)
    assert [float(row["rmse"]) for row in rows] == pytest.approx(error.rmse.tolist(), rel=1e-3)
    assert [row["name"] for row in rows] == [faces.picture_name(index) for index in range(7)]
    deviation = noise.square().flatten(1).mean(1).sqrt().tolist()
    assert [float(row["deviation"]) for row in rows] == pytest.approx(deviation, rel=1e-3)
    assert float(rows[0]["other"]) == pytest.approx(
        picture_error(back[1:2], images[:1]).rmse.item(), rel=1e-3
    )
    assert rows[6]["other"] == ""  # alone in its shard: no other noise to read it beside
    assert 0 < float(rows[0]["rounding"]) < 2 / 255
    known = json.loads((tmp_path / "noise.json").read_text())
    assert (known["sha256"], known["fingerprint"]) == (task.net.sha256, faces.fingerprint)
    assert (known["sampler"], known["steps"], known["timestep"]) == ("ddim_invert", 3, 750)
    with Image.open(tmp_path / "round_trip.png") as sheet:
        assert sheet.height > 2 * 128


def test_the_way_back_may_be_left_out(tmp_path, capsys):
    invert(tmp_path, back=False)
    with np.load(tmp_path / shard_name(range(3))) as arrays:
        assert set(arrays.files) == {"noise", "index", "name", "deviation"}
    assert "RMSE" not in capsys.readouterr().out
    assert not (tmp_path / "round_trip.png").exists()


def test_samples_from_stored_noise_are_the_pictures_back(tmp_path):
    invert(tmp_path / "noise")
    with np.load(tmp_path / "noise" / shard_name(range(3))) as arrays:
        expected = arrays["images"]
    drawn = draw_back(tmp_path / "samples", str(tmp_path / "noise"))
    assert len(drawn) == 7
    assert np.abs(drawn[:3].astype(int) - expected).max() <= 1
    plain = draw_back(tmp_path / "plain", None)
    assert np.abs(plain[:3].astype(int) - expected).max() > 1
    kept = json.loads((tmp_path / "samples" / "samples.json").read_text())
    assert kept["start"] == StoredNoise(tmp_path / "noise").fingerprint
    assert "start" not in json.loads((tmp_path / "plain" / "samples.json").read_text())


def test_a_network_of_classes_is_told_those_of_the_pictures(tmp_path):
    net = network(class_cond=True)
    invert(tmp_path / "own", Classified, net)
    assert StoredNoise(tmp_path / "own").labels([0, 1, 2]).tolist() == [0, 5, 999]
    invert(tmp_path / "five", Classified, net, label=5)
    own, five = (StoredNoise(tmp_path / name).noise([0, 1, 2]) for name in ("own", "five"))
    torch.testing.assert_close(own[1], five[1], rtol=1e-4, atol=1e-4)
    assert (own[2] - five[2]).abs().max() > 1e-3
    back = draw_back(tmp_path / "back", str(tmp_path / "own"), net, number=3)
    with np.load(tmp_path / "own" / shard_name(range(3))) as arrays:
        assert np.abs(back.astype(int) - arrays["images"]).max() <= 1
    label = np.load(next((tmp_path / "back").glob("*.npz")))["label"]
    assert label.tolist() == [0, 5, 999]
    edited = draw_back(tmp_path / "edited", str(tmp_path / "own"), net, number=3, label=5)
    assert np.abs(edited[2].astype(int) - back[2]).max() > 1


def broken_network(x, t, given=None):
    return torch.full((len(x), 6, *x.shape[2:]), float("nan"))


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"net": Pixels(image_size=16)}, "no diffusion network"),
        ({"sampler": partial(ddim)}, "task=invert starts from pictures: sampler=ddim_invert"),
        ({"sampler": partial(ddim_invert, respacing="1")}, "a single step"),
        ({"dataset": partial(ToyFaces, image_size=32, test_pictures=2)}, "dataset.image_size=16"),
        ({"split": ["train", "test"]}, "one split"),
        ({"dataset": partial(ToyFaces, image_size=16, test_pictures=0)}, "no pictures in split"),
        ({"label": 3}, "knows no classes"),
        ({"net": network(class_cond=True)}, "those of toy_faces have none: model.label=0"),
        ({"net": network(class_cond=True), "label": 1000}, "the classes 0 to 999, got label=1000"),
        (
            {"net": network(class_cond=True), "dataset": partial(Classified, classes=(0, 1000))},
            "is of class 1000",
        ),
        ({"shard_size": 0}, "data.shard_size must be"),
        ({"batch_size": 0}, "data.batch_size must be"),
    ],
)
def test_mistakes_are_named(tmp_path, options, rule):
    with pytest.raises(UserError, match=rule):
        invert(tmp_path, **options)
    assert not list(tmp_path.glob("*.npz"))


def test_what_is_no_number_is_not_stored(tmp_path, monkeypatch):
    net = network()
    monkeypatch.setattr(net, "forward", broken_network)
    with pytest.raises(UserError, match="no number for sample toy_faces/test/00000"):
        invert(tmp_path, net=net)
    assert not list(tmp_path.glob("*.npz"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sampler": partial(ddim_invert, respacing="ddim8")}, "respacing is ddim4, and now ddim8"),
        ({"dataset": partial(ToyFaces, image_size=16, test_pictures=7, seed=1)}, "fingerprint is"),
        ({"net": other_network()}, "sha256 is"),
        ({"back": False}, "back is True, and now False"),
        ({"shard_size": 2}, "shard_size is 3, and now 2"),
    ],
)
def test_nothing_else_is_mixed_in(tmp_path, change, named):
    invert(tmp_path)
    before = stored(tmp_path)
    with pytest.raises(UserError, match=named):
        invert(tmp_path, **change)
    assert stored(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"net": other_network()}, "inverted by guided_unet with other weights"),
        ({"sampler": partial(ddim, respacing="ddim8")}, "timestep 750, .* begins at 875"),
        ({"sampler": partial(ddpm, respacing="4")}, "sampler.respacing=ddim4"),
        ({"number": 8}, "noise of 7 pictures, and 8"),
    ],
)
def test_noise_of_another_network_or_chain_is_refused(tmp_path, change, rule):
    invert(tmp_path / "noise")
    with pytest.raises(UserError, match=rule):
        draw_back(tmp_path / "samples", str(tmp_path / "noise"), **change)
    assert not (tmp_path / "samples").exists()


def test_a_pdae_inverts_each_picture_under_its_own_code(tmp_path):
    """The same noise as the sheets of codes start from, and back to the picture by it."""
    pdae = tiny_pdae(STAGES)
    images = torch.stack([FACES(split="test")[index]["image"] for index in range(7)])
    chain = partial(ddim_invert, respacing="linspace6", clip_denoised=True)
    invert(tmp_path / "told", net=pdae, sampler=chain)
    noise = StoredNoise(tmp_path / "told").noise(range(7))
    chains = Chains(pdae, "linspace6", clip_denoised=True)
    own = chains.invert(images, chains.codes(images))
    torch.testing.assert_close(noise, own, rtol=1e-3, atol=1e-3)
    others = chains.invert(images, chains.codes(images).roll(1, 0))
    assert (noise - others).abs().max() > 0.01
    record = json.loads((tmp_path / "told" / "noise.json").read_text())
    assert "stages=(500, 1000)" in record["segments"]
    assert record["masked"] is True
