"""Shuffled tokens: each once an epoch, no overlap of ranks, exact resume, hold-out by picture."""

from collections import Counter

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from diffdict.backbones.base import Backbone
from diffdict.data import base
from diffdict.errors import UserError
from diffdict.features.noise import Noise
from diffdict.features.sources import LiveSource
from diffdict.features.store import FeatureStore, Identity, store_path
from diffdict.features.store.shards import Stream
from diffdict.features.tokens import TokenDataModule

SIDE, PICTURES = 8, 12
TOKENS = SIDE * SIDE


class Pictures(base.Pictures):
    """Unlabelled noise."""

    name, image_size, num_classes, labelled = "noise", SIDE, 0, False
    class_names, palette, ignore_label = [], [], None

    def __init__(self, split="train"):
        self.split = split

    def __len__(self):
        return PICTURES

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index + 1000 * (self.split == "test"))
        return {"image": torch.rand(3, SIDE, SIDE, generator=generator) * 2 - 1, "index": index}


class Net(Backbone):
    """Three blocks: two of one shape, one of half the resolution."""

    name, image_size, num_timesteps = "net", SIDE, 1000

    def __init__(self):
        super().__init__()
        self.shapes = {1: (3, SIDE // 2, SIDE // 2), 2: (3, SIDE, SIDE), 3: (3, SIDE, SIDE)}

    def features(self, images, timestep=None, blocks=None, noise=None):
        x = images * (1 - timestep / 1000) + noise * timestep / 1000
        maps = {1: F.avg_pool2d(x, 2), 2: x, 3: x.flip(1) * 2}
        return {block: maps[block] for block in self.chosen(blocks)}


def write_store(root, split, streams, maps, per_shard=5):
    """A finished store of [pictures, tokens, channels] maps."""
    identity = Identity(
        dataset="noise",
        dataset_hash="0",
        split=split,
        pictures=len(maps[0]),
        image_size=SIDE,
        num_classes=0,
        class_names=[],
        ignore_label=None,
        backbone="net",
        backbone_sha256="0",
        noise=Noise().facts(),
        compute="fp32",
        pictures_per_shard=per_shard,
    )
    store = FeatureStore.create(store_path(root, "noise", "net", split), identity, streams)
    for shard, names in store.todo().items():
        for stream, x in zip(streams, maps, strict=True):
            writer = store.writer(stream.name, shard)
            for picture in store.file(names[0], shard).images:
                writer.add(x[picture])
            writer.finish()
    return store


def numbered(root, split="train", pictures=PICTURES, steps=(50,), **options):
    """A store in which every token says its stream, picture and position."""
    streams = [Stream(3, SIDE, SIDE, "fp32", step, 2) for step in steps]
    position = torch.arange(TOKENS).repeat(pictures, 1)
    picture = torch.arange(pictures)[:, None].repeat(1, TOKENS)
    maps = [
        torch.stack([torch.full_like(picture, i), picture, position], 2).float()
        for i in range(len(steps))
    ]
    write_store(root, split, streams, maps, **options)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Twelve pictures at two timesteps, and another split."""
    folder = tmp_path_factory.mktemp("features")
    numbered(folder, steps=(50, 150))
    numbered(folder, "test", pictures=2)
    return folder


def stored(root, **options):
    asked = {"block": 2, "batch_size": 32, "window": 192, "strip": 16, "val_fraction": 0.0}
    names = {"dataset_name": "noise", "backbone_name": "net", "root": str(root)}
    return TokenDataModule(**{**names, **asked, **options})


def live(**options):
    asked = {"block": 2, "batch_size": 32, "window": 192, "val_fraction": 0.0, "dtype": "fp32"}
    return TokenDataModule(dataset=Pictures, backbone=Net, source="live", **{**asked, **options})


def drawn(loader):
    """One epoch, batch by batch, as tuples that can be compared."""
    return [[tuple(token) for token in batch.tolist()] for batch in loader]


def loader_of(data, rank=0, world=1):
    """The train loader of one rank."""
    data._rank_and_world = lambda: (rank, world)
    return data.train_dataloader()


def flat(batches):
    return [token for batch in batches for token in batch]


# ---------------------------------------------------------------- the stream from a store


def test_an_epoch_gives_every_token_once_and_two_epochs_differ(root):
    loader = loader_of(stored(root))
    first, second = drawn(loader), drawn(loader)
    assert len(first) == len(loader) == PICTURES * TOKENS // 32
    everything = {(0.0, float(p), float(t)) for p in range(PICTURES) for t in range(TOKENS)}
    assert set(flat(first)) == set(flat(second)) == everything
    assert len(flat(first)) == len(everything)
    assert first != second
    assert first == drawn(loader_of(stored(root)))
    assert first != drawn(loader_of(stored(root, seed=1)))


def test_the_tail_is_another_one_each_epoch(root):
    loader = loader_of(stored(root, batch_size=100, window=1000))
    everything = set(flat(drawn(loader_of(stored(root)))))
    left_out = [everything - set(flat(drawn(loader))) for _ in range(2)]
    assert len(left_out[0]) == PICTURES * TOKENS % 100
    assert left_out[0] != left_out[1]


def test_a_batch_is_raw_and_in_the_stored_dtype(tmp_path):
    half = torch.randn(3, TOKENS, 5).half()
    write_store(tmp_path, "train", [Stream(5, SIDE, SIDE, "fp16", 50, 2)], [half])
    batches = [batch.clone() for batch in loader_of(stored(tmp_path))]
    assert {batch.dtype for batch in batches} == {torch.float16}
    rows = torch.cat(batches)
    ours, theirs = (sorted(map(tuple, x.tolist())) for x in (rows, half.flatten(0, 1)))
    assert ours == theirs


@settings(max_examples=8, deadline=None)
@given(per_shard=st.integers(1, 13), batch=st.integers(1, 100))
def test_the_stream_does_not_depend_on_how_the_store_is_cut(tmp_path_factory, per_shard, batch):
    one, other = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    numbered(one, per_shard=PICTURES)
    numbered(other, per_shard=per_shard)
    streams = [drawn(loader_of(stored(root, batch_size=batch))) for root in (one, other)]
    assert streams[0] == streams[1]


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("make", [stored, live])
def test_ranks_share_an_epoch_without_overlap(root, world, make):
    options = {"root": root} if make is stored else {}
    parts = [drawn(loader_of(make(**options), rank, world)) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    together = flat(flat(parts))
    assert len(set(together)) == len(together)
    assert len(together) == PICTURES * TOKENS


@settings(max_examples=20, deadline=None)
@given(stop=st.integers(0, 30))
def test_resuming_anywhere_continues_the_stream(root, stop):
    straight = loader_of(stored(root))
    epochs = [drawn(straight), drawn(straight)]
    loader, before = loader_of(stored(root)), []
    while len(before) < stop:
        for batch in loader:
            before.append([tuple(token) for token in batch.tolist()])
            if len(before) == stop:
                break
    resumed = loader_of(stored(root))
    resumed.go_to(loader.place())
    epoch, place = divmod(stop, len(straight))
    assert before == (epochs[0] + epochs[1])[:stop]
    assert drawn(resumed) == epochs[epoch][place:]


def test_an_epoch_left_early_is_not_repeated(root):
    loader, straight = loader_of(stored(root)), loader_of(stored(root))
    next(iter(loader))
    drawn(straight)
    assert drawn(loader) == drawn(straight)


def test_another_world_starts_the_epoch_again_and_says_so(root):
    loader = loader_of(stored(root, seed=5))
    for _ in range(3):
        drawn(loader)
    next(iter(loader))
    resumed = loader_of(stored(root), 0, 2)
    with pytest.warns(UserWarning, match="Epoch 3 starts again.*world 1 -> 2"):
        resumed.go_to(loader.place())
    fresh = loader_of(stored(root, seed=5), 0, 2)
    for _ in range(3):
        drawn(fresh)
    assert drawn(resumed) == drawn(fresh)


def test_what_fails_in_the_thread_fails_in_the_loop(root):
    loader = loader_of(stored(root))

    def broken(units, out):
        raise OSError("the disk is gone")

    loader.pool.fill = broken
    with pytest.raises(OSError, match="the disk is gone"):
        next(iter(loader))


# ---------------------------------------------------------------- what a token is


def test_two_timesteps_side_by_side(root):
    data = stored(root, timestep=[50, 150], mix="concat")
    batches = drawn(loader_of(data))
    assert data.facts["d_in"] == 6
    places = [tuple(dim.values())[:4] for dim in data.facts["dims"]]
    assert places == [(50, 2, 0, 3), (150, 2, 3, 6)]
    assert all(t[0] == 0 and t[3] == 1 and t[1:3] == t[4:6] for t in flat(batches))
    assert len(set(flat(batches))) == PICTURES * TOKENS


def test_two_timesteps_as_more_tokens(root):
    data = stored(root, timestep=[50, 150], mix="stack")
    tokens = flat(drawn(loader_of(data)))
    assert data.facts["d_in"] == 3
    assert len(set(tokens)) == len(tokens) == 2 * PICTURES * TOKENS
    assert Counter(token[0] for token in tokens) == dict.fromkeys((0.0, 1.0), PICTURES * TOKENS)


@pytest.mark.parametrize("mix", ["concat", "stack"])
@pytest.mark.parametrize("timestep", [50, [50, 150]])
def test_live_tokens_are_those_of_a_store(tmp_path, mix, timestep):
    for split in ("train", "test"):
        source = LiveSource(Pictures(split), Net(), timestep, [2, 3])
        maps = source.maps(range(PICTURES))
        write_store(tmp_path, split, source.streams, maps)
    options = {"timestep": timestep, "block": [3, 2], "mix": mix, "val_pictures": 2, "window": 512}
    ours, theirs = live(**options, dtype="fp16"), stored(tmp_path, **options)
    for data in (ours, theirs):
        data.setup("fit")
    pairs = [(loader_of(ours), loader_of(theirs))]
    pairs += [(ours.val_dataloader(), theirs.val_dataloader())]
    pairs += [(ours.test_dataloader(), theirs.test_dataloader())]
    for a, b in pairs:
        assert sorted(flat(drawn(a))) == sorted(flat(drawn(b)))
    assert (
        ours.facts["d_in"]
        == theirs.facts["d_in"]
        == (3 if mix == "stack" else 6) * (1 if mix == "stack" or timestep == 50 else 2)
    )
    torch.testing.assert_close(ours.facts["mean"], theirs.facts["mean"])
    assert ours.facts["scale"] == pytest.approx(theirs.facts["scale"])


def test_mean_and_scale_centre_the_tokens_and_make_their_squared_norm_d(tmp_path):
    x = torch.randn(4, TOKENS, 6) * torch.arange(1, 7) + 20
    write_store(tmp_path, "train", [Stream(6, SIDE, SIDE, "fp32", 50, 2)], [x])
    facts = stored(tmp_path).facts
    tokens = (x.flatten(0, 1) - facts["mean"]) * facts["scale"]
    torch.testing.assert_close(tokens.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    assert tokens.square().sum(1).mean().item() == pytest.approx(6, rel=1e-5)


def test_the_hold_out_is_of_whole_pictures_and_the_same_for_every_seed(root):
    held = []
    for seed in (0, 1):
        data = stored(root, val_pictures=3, seed=seed)
        train = {token[1] for token in flat(drawn(loader_of(data)))}
        val = flat(drawn(data.val_dataloader()))
        assert len(val) == len(set(val)) == 3 * TOKENS
        held.append({token[1] for token in val})
        assert train.isdisjoint(held[-1])
        assert len(train) == PICTURES - 3
    assert held[0] == held[1]


def test_a_fraction_holds_out_at_least_one_picture(root):
    data = stored(root, val_fraction=0.01)
    assert len({token[1] for token in flat(drawn(data.val_dataloader()))}) == 1


def test_test_tokens_come_in_order_and_all(root):
    tokens = flat(drawn(stored(root, batch_size=50).test_dataloader()))
    assert tokens == [(0.0, float(p), float(t)) for p in range(2) for t in range(TOKENS)]


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"timestep": [50, 250]}, r"timestep 250, block 2 .* python extract.py dataset=…"),
        ({"noise": {"shared": False, "seed": 0, "draws": 1}}, "made with noise"),
        ({"mix": "sum"}, "concat or stack"),
        ({"source": "cloud"}, "store or live"),
        ({"batch_size": 10_000}, "lower data.batch_size"),
        ({"val_pictures": PICTURES}, "must leave pictures"),
    ],
)
def test_what_cannot_be_is_said(root, options, sentence):
    with pytest.raises(UserError, match=sentence):
        loader_of(stored(root, **options))


def test_the_command_that_makes_what_is_missing(tmp_path):
    data = stored(tmp_path, dataset_name="horse_21", timestep=[50, 150], block=6)
    with pytest.raises(UserError) as caught:
        data.setup("fit")
    assert str(caught.value) == (
        f"No features of horse_21 (train) at timestep 50, 150, block 6 in {tmp_path}/. "
        "Make them: python extract.py dataset=… backbone=… timestep=[50,150] block=6"
    )


def test_different_resolutions_are_refused(tmp_path):
    source = LiveSource(Pictures(), Net(), 50, [1, 2])
    write_store(tmp_path, "train", source.streams, source.maps(range(PICTURES)))
    for data in (live(block=[1, 2]), stored(tmp_path, block=[1, 2])):
        with pytest.raises(UserError, match=r"the same height and width.*t0050-b01 3×4×4"):
            _ = data.facts


# ---------------------------------------------------------------- in a trainer


class Recorder(pl.LightningModule):
    """Keeps what it was given."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(())), []

    def training_step(self, batch, _):
        self.seen.append([tuple(token) for token in batch.tolist()])
        return self.weight * batch.sum()

    def validation_step(self, batch, _):
        """Nothing: that it runs is enough."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(folder, data, resume=False, **options):
    """What a trainer saw that leaves a checkpoint at its last step."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    model = Recorder()
    trainer = pl.Trainer(accelerator="cpu", enable_checkpointing=False, **quiet, **options)
    trainer.fit(model, data, ckpt_path=folder / "last.ckpt" if resume else None)
    trainer.save_checkpoint(folder / "last.ckpt")
    return model.seen


@pytest.mark.parametrize("make", [stored, live])
@pytest.mark.parametrize(
    ("stop", "end"),
    [({"max_steps": 27}, {"max_steps": 60}), ({"max_epochs": 1}, {"max_epochs": 3})],
)
def test_a_resumed_trainer_sees_what_a_straight_one_sees(root, tmp_path, make, stop, end):
    def data():
        return make(val_pictures=2, **({"root": root} if make is stored else {}))

    straight = fit(tmp_path / "straight", data(), max_epochs=3)
    first = fit(tmp_path, data(), **stop)
    rest = fit(tmp_path, data(), resume=True, **end)
    assert len(straight) == 60
    assert first + rest == straight
    assert straight[:20] != straight[20:40]
