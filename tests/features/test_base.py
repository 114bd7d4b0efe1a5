"""Data modules share a base, and `timestep` goes the way that features/__init__.py tells."""

import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

import diffdict
from diffdict import features
from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.data.toy_faces import ToyFaces
from diffdict.errors import UserError
from diffdict.features.noise import Noise
from diffdict.features.pixels import PixelDataModule
from diffdict.features.store import FeatureStore, Identity, store_path
from diffdict.features.store.shards import Stream
from diffdict.features.tokens import TokenDataModule
from diffdict.run.instantiate import arguments

TIMESTEP = 137
PACKAGE = Path(diffdict.__file__).parent
CONF = PACKAGE.parent / "conf"
FACES = partial(ToyFaces, image_size=16, train_pictures=2, val_pictures=1, test_pictures=1)
KINDS = pytest.mark.parametrize("kind", [TokenDataModule, PixelDataModule])


def walk() -> dict[str, list[str]]:
    """The stations that features/__init__.py names: to any source, then with each of the two."""
    text = features.__doc__.partition("The way of `timestep`")[2]
    both, _, rest = text.partition("with data.source=store")
    store, _, live = rest.partition("with data.source=live")
    parts = {"both": both, "store": store, "live": live}
    return {name: re.findall(r"^    ([\w./]+)  ", part, re.M) for name, part in parts.items()}


def unet() -> GuidedUNet:
    torch.manual_seed(0)
    return GuidedUNet(16, 32, 1, "1,1", "8", name="tiny")


def write_store(root: Path) -> None:
    """A finished store of two pictures' features at TIMESTEP and 50, block 1."""
    facts = {"noise": Noise().facts(), "compute": "fp32", "pictures_per_shard": 2}
    facts |= {"num_classes": 0, "class_names": [], "ignore_label": None}
    identity = Identity(
        dataset="toy_faces",
        dataset_hash="0",
        split="train",
        pictures=2,
        image_size=16,
        backbone="tiny",
        backbone_sha256="0",
        **facts,
    )
    streams = [Stream(3, 8, 8, "fp32", timestep, 1) for timestep in (50, TIMESTEP)]
    path = store_path(root, "toy_faces", "tiny", "train")
    store = FeatureStore.create(path, identity, streams)
    for stream in streams:
        writer = store.writer(stream.name, 0)
        for _ in range(2):
            writer.add(torch.full((64, 3), float(stream.timestep)))
        writer.finish()


def passed(kind: type, **options: object) -> list[str]:
    """What takes an argument `timestep` while a data module reads a picture, call by call."""
    calls = []

    def note(frame, event, _):
        code, path = frame.f_code, Path(frame.f_code.co_filename)
        takes = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        if event == "call" and "timestep" in takes and PACKAGE in path.parents:
            assert frame.f_locals["timestep"] == TIMESTEP
            module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
            calls.append(f"{module}.{code.co_qualname.removesuffix('.__init__')}")

    sys.setprofile(note)
    try:
        data = kind(**options, timestep=TIMESTEP, block=1, dtype="fp32")
        data._source("train").maps([0])
    finally:
        sys.setprofile(None)
    return calls


def test_the_way_begins_in_the_config():
    files = [station for station in walk()["both"] if station.startswith("conf/")]
    assert files == ["conf/train.yaml", "conf/data/tokens.yaml"]
    assert yaml.safe_load((CONF / "train.yaml").read_text())["timestep"] == 50
    for name in ("tokens", "pixels"):
        node = yaml.safe_load((CONF / "data" / f"{name}.yaml").read_text())
        assert (node["timestep"], node["block"]) == ("${timestep}", "${block}")


@KINDS
@pytest.mark.parametrize("source", ["store", "live"])
def test_the_way_of_timestep_is_the_one_told(tmp_path, kind, source):
    write_store(tmp_path)
    stations = [one for one in walk()["both"] if not one.startswith("conf/")] + walk()[source]
    assert len(stations) == len(set(stations)) == {"store": 5, "live": 8}[source]
    names = {"dataset_name": "toy_faces", "backbone_name": "tiny", "root": str(tmp_path)}
    options = names if source == "store" else {"dataset": FACES, "backbone": unet}
    calls = passed(kind, **options, source=source)
    assert [call for call in calls if call != "backbones.base.Backbone.check_timestep"] == stations


@KINDS
def test_features_of_that_timestep_come(tmp_path, kind):
    write_store(tmp_path)
    names = {"dataset_name": "toy_faces", "backbone_name": "tiny", "root": str(tmp_path)}
    source = kind(**names, timestep=TIMESTEP, block=1)._source("train")
    (maps,) = source.maps([0, 1])
    assert (maps == TIMESTEP).all()
    assert [stream.timestep for stream in source.streams] == [TIMESTEP]


@KINDS
def test_what_is_shared_stands_once(kind):
    """All settings of the base, under the names and defaults that a config relies on."""
    shared = arguments("diffdict.features.base.FeatureDataModule")
    assert len(shared) == 15
    own = arguments(f"{kind.__module__}.{kind.__qualname__}")
    assert {name: own[name] for name in shared} == shared
    assert not set(shared) & set(kind.__init__.__annotations__)


@KINDS
def test_a_place_is_kept_until_training_starts_again(kind):
    data = kind(dataset=FACES, backbone=unet, source="live", block=1, batch_size=64)
    assert data.state_dict() == {}
    data.setup("fit")
    batches = iter(data.train_dataloader())
    next(batches)
    place = data.state_dict()
    assert (place["epoch"], place["taken"]) == (0, 1)
    batches.close()
    again = kind(dataset=FACES, backbone=unet, source="live", block=1, batch_size=64)
    again.load_state_dict(place)
    assert again.state_dict() == place
    again.setup("fit")
    assert again.train_dataloader().place() == place


@KINDS
def test_too_few_samples_for_a_batch_are_counted(kind):
    data = kind(dataset=FACES, backbone=unet, source="live", block=1, batch_size=5000)
    data.setup("fit")
    with pytest.raises(
        UserError, match=r"^\d+ \w+ \w+ fill no batch of 5000 on 1 rank\(s\): lower"
    ):
        data.train_dataloader()


@pytest.mark.parametrize(
    ("kind", "key", "least"),
    [
        *((TokenDataModule, key, 1) for key in ("batch_size", "window", "strip")),
        (PixelDataModule, "batch_size", 1),
        *((PixelDataModule, key, 0) for key in ("val_pictures", "smallest_annotation")),
    ],
)
def test_a_setting_that_is_too_small_is_named(kind, key, least):
    kind(**{key: least})
    with pytest.raises(UserError, match=rf"^data\.{key} is at least {least}, got {least - 1}: "):
        kind(**{key: least - 1})
