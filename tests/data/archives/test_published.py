"""Published sets as their authors pack them: fetched from a server, found, read, and refused.

ddpm-segmentation unpacks datasets.tar.gz into datasets/ and reads datasets/horse_21/real/train,
…/real/test and (what the DDPM drew and people labelled) …/ddpm; bedroom_28.tar.gz and its kind
into synthetic_datasets/ddpm/, where it reads bedroom_28/samples_256x256x3.npz.
"""

import re
import shutil
import tarfile
import threading
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from diffdict.cli.paths import folder
from diffdict.data.folder import FolderDataset
from diffdict.errors import UserError
from diffdict.run.instantiate import arguments

CONF = Path(folder("conf"))
REAL = ("ade_bedroom_30", "bedroom_28", "cat_15", "celeba_19", "ffhq_34", "horse_21")
DRAWN = {"bedroom_28": (40, 20), "cat_15": (30, 20), "ffhq_34": (20, 20), "horse_21": (30, 30)}
PLACES = {"train": "ddpm", "val": "real/train", "test": "real/test"}  # of a drawn set's splits
PARTS = {"real/train": 1, "real/test": 2, "ddpm": 3}  # of a set, and their pictures' grey and label


class Files(SimpleHTTPRequestHandler):
    """A file server that remembers what it was asked for."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        super().do_GET()

    def log_message(self, *_) -> None:
        """Nothing on the screen."""


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A server of what lies in tmp_path/remote."""
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "remote").mkdir()
    files = partial(Files, directory=tmp_path / "remote")
    with ThreadingHTTPServer(("127.0.0.1", 0), files) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def write_set(path: Path) -> Path:
    """A published set, its pictures smaller and fewer."""
    for part in PARTS:
        (path / part).mkdir(parents=True)
        for number in range(2):
            grey = np.full((8, 8, 3), PARTS[part], np.uint8)
            Image.fromarray(grey).save(path / part / f"{number}.png")
            np.save(path / part / f"{number}.npy", np.full((8, 8), PARTS[part], np.uint8))
    return path


def pack(tmp_path, root="") -> Path:
    """datasets.tar.gz on the server, two of its sets in it, below `root`."""
    packed = tmp_path / "remote" / "datasets.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        for name in ("cat_15", "horse_21"):
            tar.add(write_set(tmp_path / "made" / name), f"{root}{name}")
    return packed


@cache
def composed(dataset: str) -> str:
    """The config of the word, once: composing takes long."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_yaml(compose("extract", [f"dataset={dataset}"]))


def opened(tmp_path, remote, dataset="horse_21", split="train", **options):
    """The dataset that the word makes, its archive on our server, as if typed so."""
    cfg = OmegaConf.create(composed(dataset))
    cfg.paths.data = str(tmp_path / "data")
    for node in (cfg.dataset, cfg.dataset.get("real")):
        if node is None:
            continue
        name = Path(node.archive.url).name
        node.archive.url = f"http://127.0.0.1:{remote.server_port}/{name}"
        few = {"image_size": 8, "train_pictures": 2, "test_pictures": 2}
        node.update({key: number for key, number in few.items() if key in node})
    cfg.dataset.update(options)
    return instantiate(cfg.dataset, _convert_="all")(split=split)


def seen(data) -> list[tuple[int, int]]:
    """Grey and label of each picture."""
    greys = [round(float((data[i]["image"][0, 0, 0] + 1) * 127.5)) for i in range(len(data))]
    return [(grey, int(data[i]["mask"].unique())) for i, grey in enumerate(greys)]


@pytest.mark.parametrize("root", ["", "./", "datasets/", "some/where/else/"])
def test_an_archive_is_fetched_once_and_found_wherever_its_root_lies(tmp_path, remote, root):
    pack(tmp_path, root)
    for word, train in (("horse_21", 1), ("horse_21_drawn", 3), ("cat_15", 1)):
        for split, grey in (("train", train), ("test", 2)):
            data = opened(tmp_path, remote, word, split, download=True)
            assert (data.name, seen(data)) == (word, [(grey, grey)] * 2)
    assert remote.asked == ["/datasets.tar.gz"]
    assert len(opened(tmp_path, remote, split="val")) == 0


@pytest.mark.parametrize("root", ["", "datasets/"])
@pytest.mark.parametrize("kept", ["horse_21", "datasets/horse_21"])
def test_a_folder_that_is_unpacked_already_is_used(tmp_path, remote, root, kept):
    write_set(tmp_path / "data" / "ddpm-segmentation" / f"{root}horse_21")
    path = f"{tmp_path}/data/ddpm-segmentation/{kept}"  # as older configs have it, too
    assert seen(opened(tmp_path, remote, path=path, download=True)) == [(1, 1)] * 2
    assert remote.asked == []


def test_half_an_archive_leaves_nothing_that_is_taken_for_whole(tmp_path, remote):
    packed = pack(tmp_path)
    whole = packed.read_bytes()
    packed.write_bytes(whole[: len(whole) // 2])
    here = tmp_path / "data"
    for _ in range(2):
        with pytest.raises(UserError, match=r"data/datasets.tar.gz is damaged.*fetch it again"):
            opened(tmp_path, remote, download=True)
        assert [path.name for path in here.iterdir()] == ["datasets.tar.gz"]
    write_set(here / "ddpm-segmentation.0123.tmp" / "horse_21")  # of a process that was killed
    with pytest.raises(UserError, match=r"dataset\.download=true fetches it"):
        opened(tmp_path, remote)
    (here / "datasets.tar.gz").unlink()
    packed.write_bytes(whole)
    assert opened(tmp_path, remote, download=True).path == here / "ddpm-segmentation/horse_21"


def test_what_is_not_there_says_where_it_is(tmp_path, remote):
    with pytest.raises(
        UserError,
        match=r"No pictures of horse_21 in .*/ddpm-segmentation/.*horse_21\. .*datasets\.tar\.gz "
        r"\(47 MB, six sets; annotations: none stated.*\): dataset\.download=true fetches it",
    ):
        opened(tmp_path, remote)
    own = {"path": str(tmp_path / "mine"), "download": True}
    with pytest.raises(UserError, match=r"No folder .*mine .*left out, it is found in .*data"):
        opened(tmp_path, remote, **own)
    write_set(tmp_path / "data" / "ddpm-segmentation" / "cat_15")
    with pytest.raises(UserError, match=r"no folder in it is called horse_21: move it away"):
        opened(tmp_path, remote, download=True)
    assert remote.asked == []
    write_set(tmp_path / "mine")
    assert seen(opened(tmp_path, remote, **own)) == [(1, 1)] * 2


@pytest.mark.parametrize("root", ["horse_21", ".", "synthetic_datasets/ddpm/horse_21"])
@pytest.mark.parametrize(
    ("dataset", "latents"), [("horse_21_ddpm", ()), ("horse_21_gan", (np.zeros((320, 2)),))]
)
def test_one_word_fetches_a_synthetic_set_and_its_real_one(
    tmp_path, remote, dataset, latents, root
):
    shape, made = (320, 8, 8), tmp_path / "synthetic"
    images, masks = np.full((*shape, 3), 9, np.uint8), np.full(shape, 4, np.uint8)
    made.mkdir()
    np.savez(made / "samples_256x256x3.npz", images, masks, *latents, np.arange(320.0))
    with tarfile.open(tmp_path / "remote" / "horse_21.tar.gz", "w:gz") as tar:
        tar.add(made, root)
    pack(tmp_path)
    for split, grey in (("train", (9, 4)), ("val", (1, 1)), ("test", (2, 2))):
        data = opened(tmp_path, remote, dataset, split, download=True)
        assert (data.name, set(seen(data))) == (dataset, {grey})
        assert (split == "train") == (len(data) == 320 - 30 - 2)
    assert sorted(remote.asked) == ["/datasets.tar.gz", "/horse_21.tar.gz"]
    shutil.rmtree(tmp_path / "data" / "synthetic-datasets")
    with pytest.raises(UserError, match=rf"{dataset} in .*7 GB.*dataset\.download=true"):
        opened(tmp_path, remote, dataset)


@pytest.mark.parametrize(("name", "numbers"), DRAWN.items())
def test_drawn_pictures_teach_and_real_ones_test(name, numbers):
    """Paths and numbers of experiments/NAME/datasetDDPM.json."""
    real, drawn = (OmegaConf.create(composed(f"{name}{end}")) for end in ("", "_drawn"))
    own = {"name": f"{name}_drawn", "folders": PLACES}
    assert OmegaConf.to_container(drawn.dataset) == OmegaConf.to_container(real.dataset) | own
    assert (drawn.dataset.train_pictures, drawn.dataset.test_pictures) == numbers
    assert (drawn.backbone, drawn.domain) == (real.backbone, real.domain)


def test_the_way_from_drawn_pictures_is_the_published_one():
    """Steps and blocks of experiments/NAME/datasetDDPM.json, of which the table's figures are."""
    head = (CONF / "experiment" / "dataset_ddpm.yaml").read_text()
    commands = re.findall(r"^#   python (\w+)\.py (.+)$", head, re.MULTILINE)
    assert [door for door, _ in commands] == ["extract", "train", "extract", "train"]
    for door, words in commands:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose(door, words.replace("outputs/…", "outputs").split())
        if cfg.dataset.name == "horse_21_drawn":
            assert (cfg.timestep, cfg.block) == ([50, 150, 250], [5, 6, 7, 8, 12])


@pytest.mark.parametrize("name", [*REAL, "folder"])
def test_a_folder_of_pictures_has_all_keys(name):
    node = OmegaConf.load(CONF / "dataset" / "real" / f"{name}.yaml")
    assert set(arguments(node._target_)) - set(node) == {"split"}
    assert node._target_.endswith(FolderDataset.__name__)
