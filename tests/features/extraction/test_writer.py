"""Extraction end to end in one process: what is stored, resumed, shared out and refused."""

import hashlib
import shutil
import signal
import threading

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.backbones.pixels import Pixels
from diffdict.data.npz import NpzDataset
from diffdict.data.toy_faces import ToyFaces
from diffdict.errors import UserError
from diffdict.features.extraction.pictures import ExtractionPictures
from diffdict.features.extraction.writer import FeatureWriter
from diffdict.features.noise import Noise
from diffdict.features.sources import LiveSource, StoredSource
from diffdict.features.store import FeatureStore
from diffdict.run.interruption.stop import StopBetweenBatches
from diffdict.tasks.features import Features


def faces(split: str, count: int = 36) -> ToyFaces:
    return ToyFaces(split, image_size=16, train_pictures=count, test_pictures=5)


def unet() -> GuidedUNet:
    torch.manual_seed(0)
    return GuidedUNet(16, 32, 1, channel_mult="1,1", attention_resolutions="8", name="tiny")


class Rank(pl.Trainer):
    """A trainer that takes itself for one of several ranks."""

    rank, world = 0, 1

    @property
    def global_rank(self) -> int:
        return self.rank

    @property
    def world_size(self) -> int:
        return self.world


def extract(
    root,
    timestep=(50,),
    block=(0, 1),
    net=None,
    noise=None,
    compute="fp32",
    storage="fp16",
    dataset=faces,
    batch_size=4,
    split="train",
    rank=(0, 1),
    callback=None,
    pool=None,
):
    trainer = Rank(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[FeatureWriter(root, storage, pool), *([callback] if callback else [])],
    )
    trainer.rank, trainer.world = rank
    task = Features(net or unet(), timestep, block, noise or Noise(), compute)
    trainer.predict(task, ExtractionPictures(dataset, batch_size, split=split))
    return root / "toy_faces" / task.net.name


def bytes_of(folder) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
    }


def test_what_is_stored_is_what_the_backbone_sees(tmp_path):
    store = FeatureStore.open(extract(tmp_path, timestep=[50, 150]) / "train")
    net, pictures = unet(), faces("train")
    net.eval()
    for index in (0, 1, 35):
        noise = Noise().for_pictures([index], (3, 16, 16))[0]
        for step in (50, 150):
            with torch.no_grad():
                maps = net.features(pictures[index]["image"][None], step, [0, 1], noise)
            for block, x in maps.items():
                stored = store[index][f"t{step:04d}-b{block:02d}"]
                torch.testing.assert_close(stored.float(), x[0], atol=2e-3, rtol=2e-3)
        assert torch.equal(store.mask(index).long(), pictures[index]["mask"])
    assert store.facts["dataset_hash"] == pictures.fingerprint
    assert store.facts["backbone_sha256"] == net.sha256
    assert store.facts["noise"] == {"shared": True, "seed": 0, "draws": 1}
    assert store.facts["palette"] == [list(colour) for colour in pictures.palette]


def test_every_split_has_its_store(tmp_path):
    root = extract(tmp_path, split=["train", "test"])
    lengths = {split: len(FeatureStore.open(root / split)) for split in ("train", "test")}
    assert lengths == {"train": 36, "test": 5}


def test_only_what_is_missing_is_computed(tmp_path):
    count = Counter()
    root = extract(tmp_path, timestep=[50], callback=count)
    before = bytes_of(root)
    assert count.wanted == {(50, 0), (50, 1), (None, "mask"), (None, "attributes")}
    again = Counter()
    extract(tmp_path, timestep=[50, 150], callback=again)
    assert again.wanted == {(150, 0), (150, 1)}
    assert bytes_of(root).items() >= before.items()
    (root / "train" / "t0050-b01" / "000004.safetensors").unlink()
    third = Counter()
    extract(tmp_path, timestep=[50, 150], callback=third)
    assert (third.wanted, third.pictures) == ({(50, 1)}, [8, 9])
    assert bytes_of(root).items() >= before.items()
    nothing = Counter()
    extract(tmp_path, timestep=[50, 150], callback=nothing)
    assert nothing.pictures == []


class Counter(pl.Callback):
    """Which pictures and streams were computed."""

    def __init__(self):
        self.pictures, self.wanted = [], set()

    def on_predict_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.pictures += batch["index"].tolist()
        self.wanted |= set(batch["wanted"])


def test_two_ranks_make_the_shards_of_one_byte_for_byte(tmp_path):
    alone = extract(tmp_path / "alone")
    for rank in (1, 0):
        shared = extract(tmp_path / "shared", rank=(rank, 2))
    assert bytes_of(shared) == bytes_of(alone)
    assert len(bytes_of(alone)) == 1 + 4 * (18 + 1)  # 36 pictures, two a shard, four streams


COUNT = 11


def labelled_arrays(folder, **change):
    """The training pictures of an .npz set with classes and attributes, by split."""
    random = np.random.default_rng(0)
    arrays = {
        "images": random.integers(0, 256, (COUNT, 16, 16, 3), dtype=np.uint8),
        "labels": random.integers(0, 3, COUNT),
        "attributes": np.where(random.random((COUNT, 3)) < 0.2, np.nan, random.random((COUNT, 3))),
        "attribute_names": ["yaw", "size", "age"],
    }
    arrays |= change
    np.savez(folder / "x.npz", **{key: value for key, value in arrays.items() if value is not None})
    options = {"path": str(folder / "x.npz"), "class_names": ["cat", "dog", "owl"]}
    return lambda split: NpzDataset("toy_faces", split=split, **options)


def test_classes_and_attributes_are_stored(tmp_path):
    pictures = labelled_arrays(tmp_path)
    store = FeatureStore.open(extract(tmp_path / "stored", dataset=pictures) / "train")
    assert [*store.streams] == ["t0050-b00", "t0050-b01", "attributes", "label"]
    facts, live = store.facts, LiveSource(pictures("train"), unet(), 50, 1)
    assert (facts["labelled"], facts["picture_classes"]) == (False, ["cat", "dog", "owl"])
    assert [attribute["name"] for attribute in facts["attributes"]] == ["yaw", "size", "age"]
    stored = StoredSource(tmp_path / "stored", "toy_faces", "tiny", "train", 50, 1)
    for key in ("picture_classes", "attributes", "class_names", "num_classes", "labelled"):
        assert stored.facts[key] == live.facts[key], key
    assert [stream.name for stream in stored.streams] == ["t0050-b01"]
    for index in range(COUNT):
        sample = pictures("train")[index]
        for source in (stored, live):
            assert source.label(index) == sample["label"]
            torch.testing.assert_close(
                source.attributes(index), sample["attributes"], rtol=0, atol=0, equal_nan=True
            )


def test_labels_do_not_depend_on_ranks_batches_or_a_stop(tmp_path):
    pictures = labelled_arrays(tmp_path)
    alone = extract(tmp_path / "alone", dataset=pictures)
    for rank in (1, 0):
        shared = extract(tmp_path / "shared", dataset=pictures, rank=(rank, 2), batch_size=1)
    assert bytes_of(shared) == bytes_of(alone)
    with pytest.raises(SIGTERMException):
        extract(tmp_path / "stopped", dataset=pictures, callback=Stop())
    stopped = tmp_path / "stopped" / "toy_faces" / "tiny"
    assert len([*stopped.rglob("label/*.safetensors")]) < COUNT
    extract(tmp_path / "stopped", dataset=pictures)
    assert bytes_of(stopped) == bytes_of(alone)


def test_an_earlier_store_gets_its_labels_and_nothing_else(tmp_path):
    """As a version made it that stored no classes: the same but for the streams of labels."""
    pictures = labelled_arrays(tmp_path)
    root = extract(tmp_path / "earlier", dataset=pictures)
    for kind in ("label", "attributes"):
        shutil.rmtree(root / "train" / kind)
    before, earlier = bytes_of(root), FeatureStore.open(root / "train")
    assert [*earlier.streams] == ["t0050-b00", "t0050-b01"]
    assert StoredSource(tmp_path / "earlier", "toy_faces", "tiny", "train", 50, 1).maps([3])
    count = Counter()
    extract(tmp_path / "earlier", dataset=pictures, callback=count)
    assert count.wanted == {(None, "label"), (None, "attributes")}
    assert bytes_of(root).items() > before.items()
    assert bytes_of(root) == bytes_of(extract(tmp_path / "anew", dataset=pictures))


def test_a_block_called_as_labels_are_is_refused(tmp_path):
    class Label(Pixels):
        shapes = property(lambda self: {"label": (5, 16, 16)}, lambda self, value: None)

    with pytest.raises(UserError, match="has a block called label, as a store calls labels"):
        extract(
            tmp_path / "stored",
            timestep=None,
            block="label",
            net=Label(16),
            dataset=labelled_arrays(tmp_path),
        )


def test_a_rank_with_nothing_to_do_is_done(tmp_path):
    extract(tmp_path, rank=(0, 2))
    count = Counter()
    extract(tmp_path, rank=(0, 2), callback=count)
    assert count.pictures == []
    with pytest.raises(UserError, match="9 of 18 shards"):
        FeatureStore.open(tmp_path / "toy_faces" / "tiny" / "train")


def test_networks_without_timesteps_and_all_their_blocks(tmp_path):
    root = extract(tmp_path, timestep=None, block="all", net=Pixels(16), storage="fp32")
    store = FeatureStore.open(root / "train")
    assert [*store.streams] == ["pixels", "attributes", "mask"]
    assert torch.equal(store[3]["pixels"][:3], faces("train")[3]["image"])
    assert store.facts["noise"] is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"noise": Noise(seed=1)}, r'noise is .*"seed": 0.* there and .*"seed": 1.* here'),
        ({"compute": "bf16"}, 'compute is "fp32" there and "bf16" here'),
        ({"storage": "bf16"}, 'dtype is "fp16" there and "bf16" here'),
        ({"dataset": lambda split: faces(split, 35)}, "pictures is 36 there and 35 here"),
    ],
)
def test_a_store_of_other_features_is_not_written_over(tmp_path, change, sentence):
    root = extract(tmp_path)
    before = bytes_of(root)
    with pytest.raises(UserError, match=sentence):
        extract(tmp_path, **change)
    assert bytes_of(root) == before


class Broken(Pixels):
    """Sees infinity in dark pictures, or values too large for fp16."""

    def __init__(self, value: float):
        super().__init__(16, name="broken")
        self.value = value

    def features(self, images, timestep=None, blocks=None, noise=None):
        maps = super().features(images, timestep, blocks, noise)
        maps["pixels"][1:2, 0, 3, 3] = self.value
        return maps


class Fails(pl.Callback):
    """Fails in the third batch, of which the writer knows nothing."""

    def on_predict_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if batch_idx == 2:
            raise ValueError("elsewhere")


def writing_threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("feature-writer")]


@pytest.mark.parametrize("failure", [None, Fails, "writing"])
def test_no_writing_thread_outlives_its_run(tmp_path, failure):
    """However it ends, and though what failed still holds the writer."""
    net = Broken(float("nan")) if failure == "writing" else Pixels(16)
    how = {"timestep": None, "block": "all", "net": net, "callback": failure and Fails()}
    if failure is None:
        extract(tmp_path, **how)
    else:
        with pytest.raises((ValueError, UserError), match=r"elsewhere|not finite") as error:
            extract(tmp_path, **how)
        assert error.tb is not None
    assert writing_threads() == []
    assert not [*tmp_path.rglob("*.tmp")]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (float("nan"), "not finite: NaN or infinity"),
        (float("inf"), "not finite: NaN or infinity"),
        (1e6, r"values up to 1e\+06 do not fit fp16: storage=bf16"),
    ],
)
def test_what_is_not_finite_is_refused_with_the_pictures_name(tmp_path, value, sentence):
    with pytest.raises(UserError, match=rf"Features of toy_faces/train/00001 .*{sentence}"):
        extract(tmp_path, timestep=None, block="all", net=Broken(value))
    assert not [*tmp_path.rglob("*.tmp"), *tmp_path.rglob("pixels/*.safetensors")]


class Relabelled(ToyFaces):
    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return sample | {"mask": sample["mask"] - int(index == 3)}


def test_labels_that_no_byte_holds_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"mask of toy_faces/train/00003 .*outside 0..255"):
        extract(
            tmp_path,
            timestep=None,
            block="all",
            net=Pixels(16),
            dataset=lambda split: Relabelled(split, image_size=16, train_pictures=5),
        )


def test_what_will_not_fit_is_refused_before_it_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr("diffdict.files.atomic.free_bytes", lambda path: 1000)
    with pytest.raises(UserError, match=r"No room for the features .* needs .* 1.0 KB are free"):
        extract(tmp_path)
    assert not [*tmp_path.rglob("*.safetensors")]


def test_the_trainers_precision_may_not_contradict(tmp_path):
    writer = FeatureWriter(tmp_path)
    trainer = pl.Trainer(
        accelerator="cpu", precision="bf16-mixed", logger=False, callbacks=[writer]
    )
    with pytest.raises(UserError, match="say compute= instead"):
        trainer.predict(Features(unet(), 50, 0, Noise()), ExtractionPictures(faces))


class Stop(StopBetweenBatches):
    """SIGTERM in the fourth batch."""

    def on_predict_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        super().on_predict_batch_start(trainer)
        if batch_idx == 3:
            signal.raise_signal(signal.SIGTERM)


def test_a_stopped_extraction_keeps_whole_shards_and_goes_on(tmp_path):
    alone = bytes_of(extract(tmp_path / "alone"))
    with pytest.raises(SIGTERMException) as stop:
        extract(tmp_path / "stopped", callback=Stop())
    assert stop.value.code == 143
    root, count = tmp_path / "stopped" / "toy_faces" / "tiny", Counter()
    assert len([*root.rglob("mask/*.safetensors")]) == 4
    assert not [*root.rglob("*.tmp")]
    extract(tmp_path / "stopped", callback=count)
    assert count.pictures == [*range(8, 36)]
    assert bytes_of(root) == alone


def test_a_stop_within_a_shard_drops_that_shard(tmp_path):
    with pytest.raises(SIGTERMException):
        extract(tmp_path, batch_size=1, callback=Stop())
    root = tmp_path / "toy_faces" / "tiny" / "train"
    assert [path.name for path in root.glob("t0050-b00/*.safetensors")] == [
        "000000.safetensors",
        "000001.safetensors",
    ]


def test_plan_and_result_are_told(tmp_path, capsys):
    extract(tmp_path, split=["train", "test"])
    told = capsys.readouterr().out
    for words in [
        "Features to make",
        "18 of 18 shards",
        "41 pictures, ",
        "complete",
        f"{tmp_path}/toy_faces/tiny/test\n",
    ]:
        assert words in told
    extract(tmp_path)
    assert "nothing" in (told := capsys.readouterr().out)
    assert "Nothing to do" in told
