"""Stored or live, the features are the same; a store of other pictures or weights is refused."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.backbones.pixels import Pixels
from diffdict.backbones.swav import SwAV
from diffdict.data.toy_faces import ToyFaces
from diffdict.errors import UserError
from diffdict.features.extraction.pictures import ExtractionPictures
from diffdict.features.extraction.writer import FeatureWriter
from diffdict.features.noise import Noise
from diffdict.features.pixels import PixelDataModule
from diffdict.features.tokens import TokenDataModule
from diffdict.results.weights import export_weights
from diffdict.tasks.features import Features

FACES = partial(ToyFaces, image_size=16, train_pictures=6, val_pictures=2, test_pictures=3)


def unet(checkpoint=None) -> GuidedUNet:
    torch.manual_seed(0)
    return GuidedUNet(16, 32, 1, "1,1", "8", name="tiny", checkpoint=checkpoint)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the weights of a network, and a store of what it saw."""
    folder = tmp_path_factory.mktemp("sources")
    torch.save(unet().state_dict(), folder / "tiny.pt")
    write(folder, Features(unet(str(folder / "tiny.pt")), [50, 150], [1, 2], Noise()))
    return folder


def write(folder, task: Features) -> None:
    """A store of all faces below the folder."""
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        callbacks=[FeatureWriter(folder / "features", "fp32")],
    )
    trainer.predict(task, ExtractionPictures(FACES))


def module(kind, folder, **changes):
    options = {
        "dataset": FACES,
        "backbone": partial(unet, str(folder / "tiny.pt")),
        "dataset_name": "toy_faces",
        "backbone_name": "tiny",
        "checkpoint": str(folder / "tiny.pt"),
        "root": str(folder / "features"),
        "timestep": [50, 150],
        "block": [1, 2],
        "dtype": "fp32",
        "batch_size": 32,
    }
    return kind(**options | changes)


def test_pixels_of_a_store_are_those_of_the_backbone(made):
    batches = {}
    for source in ("store", "live"):
        data = module(PixelDataModule, made, source=source)
        data.setup("fit")
        batches[source] = [*data.train_dataloader()]
        batches[source + " test"] = [
            (picture.mask, picture.maps.gather(*torch.zeros(3, 1, dtype=torch.int64)))
            for picture in data.test_dataloader()
        ]
    for part in ("", " test"):
        assert len(batches["store" + part]) == len(batches["live" + part]) > 0
        for ours, theirs in zip(batches["store" + part], batches["live" + part], strict=True):
            for a, b in zip(ours, theirs, strict=True):
                torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_how_noisy_a_map_is_is_said_by_a_network_and_by_no_store(made):
    few, much = unet().process.noise_levels[[50, 150]].tolist()
    live, stored = (module(PixelDataModule, made, source=word) for word in ("live", "store"))
    assert live._source("train").noise_levels == [few, few, much, much]
    assert stored._source("train").noise_levels == [None] * 4


@pytest.mark.parametrize("kind", [PixelDataModule, TokenDataModule])
def test_features_of_other_weights_are_refused(made, tmp_path, kind):
    torch.manual_seed(1)
    other = GuidedUNet(16, 32, 1, "1,1", "8", name="tiny")
    path = export_weights(other, tmp_path / "other.safetensors", {})
    with pytest.raises(UserError, match="backbone_sha256"):
        _ = module(kind, made, checkpoint=str(path)).facts


@pytest.mark.parametrize("kind", [PixelDataModule, TokenDataModule])
def test_features_of_other_pictures_are_refused(made, kind):
    with pytest.raises(UserError, match="dataset_hash"):
        _ = module(kind, made, dataset=partial(FACES, seed=1)).facts


@pytest.mark.parametrize("kind", [PixelDataModule, TokenDataModule])
def test_a_store_serves_the_first_of_its_pictures(made, kind):
    few, all_ = (
        module(kind, made, dataset=partial(FACES, train_pictures=n), block=2) for n in (2, 6)
    )
    assert (few.facts["pictures"], all_.facts["pictures"]) == (2, 6)
    pictures = [*few.labelled("train")]
    assert len(pictures) == 2
    for ours, theirs in zip(pictures, all_.labelled("train"), strict=False):
        assert torch.equal(ours.mask, theirs.mask)
        assert torch.equal(ours.maps.maps[0], theirs.maps.maps[0])
    with pytest.raises(UserError, match="dataset_hash"):
        _ = module(kind, made, dataset=partial(FACES, train_pictures=2, seed=1)).facts
    said = r"features of 6 pictures, dataset\.train_pictures asks for 9: delete it, then python"
    with pytest.raises(UserError, match=said):
        _ = module(kind, made, dataset=partial(FACES, train_pictures=9)).facts


@pytest.mark.parametrize("kind", [PixelDataModule, TokenDataModule])
def test_a_store_is_of_use_where_pictures_and_weights_are_not(made, kind):
    def absent(split):
        raise UserError("No pictures here")

    block = 2 if kind is TokenDataModule else [1, 2]
    there = module(kind, made, dataset=absent, checkpoint="lsun_horse", block=block)
    assert there.facts["d_in"] > 0
    assert there.picture("test", 1) is None
    assert there.picture_name("test", 1) == "test/00001"
    assert [picture.index for picture in there.labelled("test")] == [0, 1, 2]


@pytest.mark.parametrize("kind", [PixelDataModule, TokenDataModule])
@pytest.mark.parametrize("source", ["store", "live"])
def test_pictures_come_again_for_reports(made, kind, source):
    data = module(kind, made, source=source, block=2)
    faces, pictures = FACES(split="test"), [*data.labelled("test")]
    assert len(pictures) == len(faces)
    for index, picture in enumerate(pictures):
        assert torch.equal(picture.mask, faces[index]["mask"].long())
        assert picture.maps.channels == data.facts["d_in"]
        assert torch.equal(data.picture("test", index), faces[index]["image"])
        assert data.picture_name("test", index) == faces.picture_name(index)


@pytest.mark.parametrize("kind", [PixelDataModule, TokenDataModule])
def test_pictures_without_masks_are_no_labelled_ones(made, kind):
    class Unlabelled(ToyFaces):
        labelled = False

    faces = partial(Unlabelled, image_size=16, train_pictures=6, val_pictures=2, test_pictures=3)
    with pytest.raises(UserError, match="toy_faces has no labels: choose a labelled dataset"):
        module(kind, made, dataset=faces, source="live").labelled("test")


@pytest.mark.parametrize("kind", [PixelDataModule, TokenDataModule])
@pytest.mark.parametrize("timestep", [None, 50, [50, 150]])
def test_a_network_without_timesteps_is_asked_for_none(tmp_path, kind, timestep):
    """Whatever timestep is said, its one map is what is stored, and what is seen live."""
    nets = [partial(Pixels, 16), partial(SwAV, 1 / 64, image_size=16)]
    for net, block in zip(nets, ("pixels", ["layer1.0", "layer1.2"]), strict=True):
        torch.manual_seed(0)
        seer = net()
        options = {"backbone": lambda seer=seer: seer, "backbone_name": seer.name, "dtype": "fp32"}
        options |= {"timestep": timestep, "block": block, "checkpoint": None}
        write(tmp_path, Features(seer, timestep, block, Noise()))
        widths = {
            source: module(kind, tmp_path, source=source, **options).facts["d_in"]
            for source in ("store", "live")
        }
        assert widths["store"] == widths["live"] == {"pixels": 5, "swav": 1 + 4}[seer.name]


def test_what_is_missing_of_such_a_network_is_made_without_timesteps(tmp_path):
    data = module(PixelDataModule, tmp_path, backbone_name="swav", timestep=None, block="layer1.0")
    with pytest.raises(UserError, match=r"at block layer1\.0 in .* backbone=… block=layer1\.0$"):
        data.setup("fit")
    write(tmp_path, Features(Pixels(16), None, "pixels", Noise()))
    data = module(PixelDataModule, tmp_path, backbone_name="pixels", checkpoint=None, block="late")
    with pytest.raises(UserError, match=r"at block late in .* backbone=… block=late$"):
        data.setup("fit")
