"""The store's laws: what goes in comes out, whole shards only, and nothing foreign is read."""

import json
import pickle
import shutil

import pytest
import torch
from safetensors import safe_open

from diffdict.errors import UserError
from diffdict.features.store import FeatureStore, Identity, pictures_per_shard
from diffdict.features.store.sealed import open_temporary
from diffdict.features.store.shards import TORCH, Stream

PICTURES = 10
MASK = Stream(1, 8, 8, "uint8", None, "mask")


def identity(**changes) -> Identity:
    facts = Identity(
        dataset="toy_faces",
        dataset_hash="abc",
        split="train",
        pictures=PICTURES,
        image_size=8,
        num_classes=2,
        class_names=["skin", "eye"],
        ignore_label=255,
        backbone="toy_ddpm",
        backbone_sha256="0f" * 32,
        noise={"shared": True, "seed": 0, "draws": 1},
        compute="fp32",
        pictures_per_shard=4,
    )
    return facts._replace(**changes)


def picture(stream: Stream, index: int) -> torch.Tensor:
    """[channels, height, width], or a mask: a function of stream and index."""
    g = torch.Generator().manual_seed(1000 * index + len(stream.name))
    if stream.block == "mask":
        return torch.randint(0, 2, stream.picture, generator=g, dtype=torch.uint8)
    shape = (stream.channels, stream.height, stream.width)
    return torch.randn(shape, generator=g).to(TORCH[stream.dtype])


def fill(store: FeatureStore, shards=None) -> FeatureStore:
    for shard, names in store.todo().items():
        for name in names if shards is None or shard in shards else []:
            stream, writer = store.streams[name], store.writer(name, shard)
            for index in writer.shard.images:
                x = picture(stream, index)
                writer.add(x if name == "mask" else x.flatten(1).T)
            writer.finish()
    return store


def streams(dtype="fp16", steps=(50, 150), blocks=(5, 6)) -> list[Stream]:
    return [Stream(3 + b, 4, 2, dtype, t, b) for t in steps for b in blocks] + [MASK]


@pytest.fixture
def store(tmp_path):
    fill(FeatureStore.create(tmp_path / "store", identity(), streams(), {"palette": [[0, 0, 0]]}))
    return FeatureStore.open(tmp_path / "store")


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_what_went_in_comes_out(tmp_path, dtype):
    fill(FeatureStore.create(tmp_path, identity(), streams(dtype)))
    store = FeatureStore.open(tmp_path)
    assert len(store) == PICTURES
    for index in range(PICTURES):
        for name, value in store[index].items():
            assert torch.equal(value, picture(store.streams[name], index))
        assert torch.equal(store.mask(index), picture(MASK, index))


LABEL = Stream(1, 1, 1, "int64", None, "label", ["cat", "dog"])
ATTRIBUTES = Stream(
    3,
    1,
    1,
    "fp32",
    None,
    "attributes",
    [
        {"name": "hat", "kind": "binary", "mirrored": "same"},
        {"name": "yaw", "kind": "number", "mirrored": "negated"},
        {"name": "age", "kind": "number", "mirrored": None},
    ],
)


def described(path) -> FeatureStore:
    """A store with every kind of label."""
    store = FeatureStore.create(path, identity(), [*streams(blocks=(5,)), LABEL, ATTRIBUTES])
    for shard, names in store.todo().items():
        for name in names:
            stream, writer = store.streams[name], store.writer(name, shard)
            for index in writer.shard.images:
                if name == "label":
                    writer.add(torch.tensor([[index % 2]]))
                elif name == "attributes":
                    writer.add(torch.tensor([[1.0, index / 3, torch.nan]]))
                else:
                    x = picture(stream, index)
                    writer.add(x if name == "mask" else x.flatten(1).T)
            writer.finish()
    return FeatureStore.open(path)


def test_every_kind_of_label_comes_out(tmp_path):
    store = described(tmp_path)
    assert [*store.streams] == ["t0050-b05", "t0150-b05", "attributes", "label", "mask"]
    assert [*store.features] == ["t0050-b05", "t0150-b05"]
    for one in (store, store.select(timestep=50), pickle.loads(pickle.dumps(store))):
        for index in (0, 3, 9):
            row = one[index]
            assert int(row["label"]) == int(one.label(index)) == index % 2
            values = torch.tensor([1.0, index / 3, torch.nan])
            torch.testing.assert_close(row["attributes"], values, equal_nan=True)
            torch.testing.assert_close(one.attributes(index), values, equal_nan=True)
            assert torch.equal(row["mask"], picture(MASK, index))
        assert one.facts["picture_classes"] == ["cat", "dog"]
        assert one.facts["attributes"] == ATTRIBUTES.meaning
        assert one.facts["labelled"]
    assert store.tokens("t0050-b05").stream.block == 5
    with pytest.raises(UserError, match=r"holds t0050-b05, t0150-b05: name one of them"):
        store.tokens()
    assert "every bit as it was written" in store.verify()
    assert "2 classes (cat, dog)" in store.describe()
    assert "3 attributes (hat: binary, yaw: number, age: number)" in store.describe()


def test_a_store_without_such_labels_says_so(store):
    assert (store.facts["picture_classes"], store.facts["attributes"]) == ([], [])
    with pytest.raises(UserError, match=r"has no classes of pictures, it holds t0050-b05, .*mask"):
        store.label(0)
    with pytest.raises(UserError, match=r"has no attributes, .*the same extraction again adds"):
        store.attributes(0)


def test_labels_of_another_meaning_are_refused(tmp_path):
    described(tmp_path)
    for other in (LABEL._replace(meaning=["dog", "cat"]), ATTRIBUTES._replace(meaning=[{}] * 3)):
        with pytest.raises(UserError, match="holds other features than asked for: meaning is"):
            FeatureStore.create(tmp_path, identity(), [other])


def test_a_block_may_be_called_as_labels_are(tmp_path):
    made = [Stream(3, 2, 2, "fp16", None, name) for name in ("label", "attributes")]
    fill(FeatureStore.create(tmp_path, identity(noise=None), made))
    store = FeatureStore.open(tmp_path)
    assert [*store.features] == ["attributes", "label"]
    assert torch.equal(store[4]["label"], picture(made[0], 4))
    with pytest.raises(UserError, match="has no classes of pictures"):
        store.label(4)


@pytest.mark.parametrize("shard", [1, 3])
def test_pictures_may_be_of_any_number_of_bytes(tmp_path, shard):
    odd = [Stream(1, 5, 5, "uint8", None, "mask"), Stream(3, 3, 3, "fp16", 50, 6)]
    fill(FeatureStore.create(tmp_path, identity(pictures_per_shard=shard), odd))
    store = FeatureStore.open(tmp_path)
    for index in range(PICTURES):
        for stream in odd:
            assert torch.equal(store[index][stream.name], picture(stream, index))
    assert "every bit" in store.verify()
    with safe_open(tmp_path / "mask" / "000001.safetensors", "pt") as file:
        assert file.get_tensor("image").tolist() == list(range(shard, 2 * shard))


def test_any_safetensors_reader_opens_a_shard(store):
    stream = store.streams["t0150-b06"]
    path = store.path / stream.name / "000002.safetensors"
    with safe_open(path, "pt") as shard:
        x = shard.get_tensor("x")
        assert shard.get_tensor("image").tolist() == [8, 9]
        assert shard.get_tensor("xxh3").dtype == torch.uint64
        assert json.loads(shard.metadata()["facts"])["backbone"] == "toy_ddpm"
        assert shard.metadata()["stream"] == stream.name
    assert torch.equal(x[1], picture(stream, 9).flatten(1).T)
    raw = path.read_bytes()
    assert raw[4096 : 4096 + x.nbytes] == x.view(torch.uint8).numpy().tobytes()


def test_facts_say_where_it_came_from(store):
    one = store.select(timestep=150, block=6).facts
    for name, value in {
        "channels": 9,
        "height": 4,
        "width": 2,
        "timestep": 150,
        "block": 6,
        "dataset": "toy_faces",
        "split": "train",
        "class_names": ["skin", "eye"],
        "backbone_sha256": "0f" * 32,
        "noise_seed": 0,
        "dtype": "fp16",
        "palette": [[0, 0, 0]],
        "labelled": True,
    }.items():
        assert one[name] == value, name
    assert one["versions"]["torch"] == torch.__version__
    assert "channels" not in store.facts
    assert store.facts["streams"]["t0050-b05"]["channels"] == 8


def test_streams_come_in_timestep_then_block_order(store):
    assert [*store.streams] == ["t0050-b05", "t0050-b06", "t0150-b05", "t0150-b06", "mask"]
    chosen = FeatureStore.open(store.path, timestep=[150, 50], block=[6, 6])
    assert [*chosen.streams] == ["t0150-b06", "t0050-b06", "mask"]
    assert [*store.select(timestep=50).streams] == ["t0050-b05", "t0050-b06", "mask"]
    assert [*FeatureStore.open(store.path, streams=["t0050-b06"])[0]] == ["t0050-b06"]


@pytest.mark.parametrize(("timestep", "block"), [(250, 6), (50, 7), (250, None), (None, 7)])
def test_what_is_not_there_says_how_to_make_it(store, timestep, block):
    with pytest.raises(UserError, match=r"holds t0050-b05, .*python extract.py dataset=…"):
        store.select(timestep=timestep, block=block)


def test_tokens_are_views_of_the_file(store):
    shards = store.tokens("t0150-b06")
    assert [tuple(x.shape) for x in shards] == [(4, 8, 9), (4, 8, 9), (2, 8, 9)]
    assert shards[1].data_ptr() == shards[1].data_ptr()
    x = store[5]["t0150-b06"]
    assert x.untyped_storage().data_ptr() == shards[1].untyped_storage().data_ptr()
    assert shards[1].data_ptr() % 4096 == 0
    with pytest.raises(UserError, match="name one of them"):
        store.tokens()


def test_networks_without_timesteps(tmp_path):
    made = [Stream(3, 2, 2, "fp16", None, "layer1.0"), Stream(3, 2, 2, "fp16", None, 12)]
    fill(FeatureStore.create(tmp_path, identity(noise=None), made))
    store = FeatureStore.open(tmp_path)
    assert [*store.streams] == ["b12", "layer1.0"]
    assert [*store.select(block="layer1.0").streams] == ["layer1.0"]
    with pytest.raises(UserError, match="has no masks"):
        store.mask(0)


def test_a_block_whose_name_is_no_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="folder"):
        FeatureStore.create(tmp_path, identity(), [Stream(3, 2, 2, "fp16", None, "../up")])


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("dataset_hash", "abd"),
        ("pictures", 11),
        ("split", "test"),
        ("backbone_sha256", "1f" * 32),
        ("noise", {"shared": False, "seed": 0, "draws": 1}),
        ("compute", "bf16"),
        ("class_names", ["eye", "skin"]),
        ("format", 2),
    ],
)
def test_a_store_of_other_facts_is_refused_by_name(store, fact, value):
    with pytest.raises(UserError, match=rf"{fact} is .* there and .* here.*another folder"):
        FeatureStore.create(store.path, identity(**{fact: value}), streams())
    with pytest.raises(UserError, match=fact):
        FeatureStore.open(store.path, expect={fact: value})


def test_a_stream_of_another_precision_is_refused(store):
    with pytest.raises(UserError, match='dtype is "fp16" there and "bf16" here'):
        FeatureStore.create(store.path, identity(), streams("bf16"))


def test_another_format_is_refused_with_the_version_that_wrote_it(tmp_path):
    FeatureStore.create(tmp_path, identity(format=0), [])
    with pytest.raises(UserError, match=r"store format 0, this diffdict reads 1.*'diffdict'"):
        FeatureStore.open(tmp_path)


def test_a_new_timestep_leaves_the_others_alone(tmp_path):
    fill(FeatureStore.create(tmp_path, identity(), streams(steps=[50])))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    more = FeatureStore.create(tmp_path, identity(), streams(steps=[50, 150]))
    assert more.todo() == {shard: ["t0150-b05", "t0150-b06"] for shard in range(3)}
    with pytest.raises(UserError, match="3 of 3 shards of t0150-b05 are missing"):
        FeatureStore.open(tmp_path)
    assert len(FeatureStore.open(tmp_path, timestep=50)) == PICTURES
    fill(more)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "15 shards" in FeatureStore.open(tmp_path).verify()


def test_ranks_share_all_shards_whenever_they_look(tmp_path):
    store = FeatureStore.create(tmp_path, identity(pictures_per_shard=1), streams())
    first = store.todo(0, 3)
    fill(store, shards=[1, 2])
    late = [store.todo(rank, 3) for rank in (1, 2)]
    assert sorted([*first, *late[0], *late[1], 1, 2]) == list(range(PICTURES))


def test_a_missing_shard_refuses_to_open(store):
    (store.path / "t0050-b05" / "000001.safetensors").unlink()
    with pytest.raises(UserError, match=r"1 of 3 shards of t0050-b05 .*first 000001.*again"):
        FeatureStore.open(store.path)
    with pytest.raises(UserError, match=r"No feature store at"):
        FeatureStore.open(store.path / "nowhere")


def test_a_foreign_shard_is_named_with_what_differs(store, tmp_path):
    other = FeatureStore.create(tmp_path / "b", identity(backbone_sha256="1f" * 32), streams())
    fill(other)
    name = "t0050-b05/000001.safetensors"
    shutil.copy(other.path / name, store.path / name)
    with pytest.raises(UserError, match=r"another store: backbone_sha256 is \"1f1f.* and \"0f0f"):
        FeatureStore.open(store.path)[5]


def test_a_shard_under_another_ones_name_is_refused(store):
    folder = store.path / "t0050-b05"
    shutil.copy(folder / "000000.safetensors", folder / "000001.safetensors")
    with pytest.raises(UserError, match="is another shard: t0050-b05/000000"):
        FeatureStore.open(store.path)[5]


@pytest.mark.parametrize("cut", [0, 7, 100, 4096, 4671])
def test_a_cut_shard_is_a_sentence(store, cut):
    path = store.path / "t0050-b05" / "000001.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=rf"000001.* is cut or torn: {cut} bytes instead of"):
        FeatureStore.open(store.path)[5]


def test_an_edited_index_is_a_sentence(store):
    for file in [store.path / "store.json", store.path / "t0050-b05" / "stream.json"]:
        text = file.read_text()
        file.write_text(
            text.replace('"toy_ddpm"', '"toy_edm"').replace('"height": 4', '"height": 8')
        )
        with pytest.raises(UserError, match="was edited or damaged"):
            FeatureStore.open(store.path)
        file.write_text(text)


def test_a_damaged_picture_is_named_at_first_use_and_by_verify(store):
    path = store.path / "t0050-b05" / "000001.safetensors"
    raw = bytearray(path.read_bytes())
    raw[4096 + 8 * 8 * 2 + 3] ^= 1
    path.write_bytes(raw)
    damaged = FeatureStore.open(store.path)
    assert damaged[0]["t0050-b05"].shape == (8, 4, 2)
    for read in (lambda: damaged[4], damaged.verify):
        with pytest.raises(UserError, match="picture 5 does not fit its checksum"):
            read()


def test_an_unfinished_shard_never_gets_its_name(tmp_path):
    store = FeatureStore.create(tmp_path, identity(), streams())
    writer = store.writer("mask", 0)
    writer.add(picture(MASK, 0))
    with pytest.raises(RuntimeError, match="1 of 4 pictures"):
        writer.finish()
    writer.abandon()
    assert [path.name for path in (tmp_path / "mask").iterdir()] == ["stream.json"]


def test_only_the_dead_ones_files_are_swept(tmp_path):
    store = FeatureStore.create(tmp_path, identity(), streams())
    living = store.writer("mask", 1)
    dead, file = open_temporary(tmp_path / "mask" / "000002.safetensors")
    file.close()
    assert (store.sweep(1, 2), store.sweep(0, 2)) == (0, 1)
    assert living.temp.exists()
    assert not dead.exists()


def test_a_store_travels_to_another_process(store):
    copy = pickle.loads(pickle.dumps(store))
    assert torch.equal(copy[3]["t0050-b05"], store[3]["t0050-b05"])


def test_one_screen_says_what_is_in_it(store):
    screen = store.describe()
    for word in ["toy_faces", "0f0f", "skin, eye", "t0150-b06", "9 × 4 × 2 fp16", "mask", "torch"]:
        assert word in screen


@pytest.mark.parametrize(
    ("pictures", "k"), [(1, 1), (30, 1), (100, 6), (1024, 64), (99_999, 64), (1_000_000, 256)]
)
def test_small_sets_still_split(pictures, k):
    assert pictures_per_shard(pictures) == k
