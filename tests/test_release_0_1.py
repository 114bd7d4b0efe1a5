"""What 0.1.0 left on disk is read, evaluated and gone on with as 0.1.0 did it."""

import csv
import json
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from hydra.utils import get_object
from safetensors.torch import load_file

from diffdict import checkpoints
from diffdict.dictionary import Dictionary
from diffdict.features.store import FeatureStore
from tests.doors import QUIET, open_door

PACKED = Path(__file__).parent / "golden" / "release_0_1" / "runs.tar.xz"
NO_WORKERS = [*QUIET, "data.num_workers=0"]
TASKS = ("sae", "pixel_mlp", "diffusion", "deeplab")
# callbacks, reports and loggers are of the run at hand: evaluate.py brings its own
NOT_KEPT = ("diffdict.reports", "diffdict.checkpoints.last")
WITH_WORKERS = ("diffusion", "deeplab")  # whose data modules read with processes of their own


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder in which 0.1.0 worked."""
    folder = tmp_path_factory.mktemp("release_0_1")
    with tarfile.open(PACKED) as packed:
        packed.extractall(folder, filter="data")
    return folder


@pytest.fixture
def copy(runs, tmp_path):
    """A copy to work in."""
    return Path(shutil.copytree(runs, tmp_path / "runs"))


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


def losses(folder: Path) -> list[float]:
    with (folder / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def figures(folder: Path) -> dict[str, float]:
    metrics = results(folder)["metrics"]
    return {name: value for name, value in metrics.items() if name.startswith("test/")}


def quiet(task: str) -> list[str]:
    return NO_WORKERS if task in WITH_WORKERS else QUIET


@pytest.mark.parametrize("task", TASKS)
def test_a_checkpoint_is_evaluated(task, runs, capfd):
    words = [*quiet(task), f"ckpt_path={task}/last.ckpt", f"hydra.run.dir=now/{task}"]
    assert open_door("evaluate", words, runs, capfd).code == 0
    assert figures(runs / "now" / task) == pytest.approx(
        figures(runs / "evaluated" / task), rel=1e-4, abs=1e-6
    )


@pytest.mark.parametrize("task", TASKS)
def test_a_training_goes_on(task, copy, capfd):
    before = copy / f"{task}_resumed"
    words = [*results(before)["overrides"], *quiet(task), f"hydra.run.dir=on/{task}"]
    assert f"ckpt_path={task}/last.ckpt" in words
    assert open_door("train", words, copy, capfd).code == 0
    assert len(losses(before)) > 2
    assert losses(copy / "on" / task) == pytest.approx(losses(before), rel=1e-4)
    assert figures(copy / "on" / task) == pytest.approx(figures(before), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_a_checkpoint_says_what_it_is(task, runs):
    path = runs / task / "last.ckpt"
    assert task in checkpoints.describe(path)
    kept = [node["_target_"] for node in nodes(checkpoints.config_of(path)) if "_target_" in node]
    assert len(kept) > 3
    for target in kept:
        if not target.startswith(NOT_KEPT):
            get_object(target)


def nodes(node: object) -> list[dict]:
    """Every mapping in a config."""
    if isinstance(node, list):
        return [inner for item in node for inner in nodes(item)]
    if not isinstance(node, dict):
        return []
    return [node, *(inner for item in node.values() for inner in nodes(item))]


def test_a_store_is_whole_and_is_not_made_again(runs, capfd):
    store = runs / "features" / "toy_faces" / "small" / "train"
    assert "every bit" in FeatureStore.open(store).verify()
    shards = {path: path.stat().st_mtime_ns for path in store.rglob("*.safetensors")}
    config = results(runs / "sae")["overrides"]
    words = [word for word in config if word.startswith(("backbone", "dataset", "timestep"))]
    assert open_door("extract", [*words, *NO_WORKERS, "block=1"], runs, capfd).code == 0
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    assert (store / "attributes").is_dir()  # which 0.1.0 did not store


def test_what_the_network_sees_is_what_was_stored(runs, capfd):
    words = results(runs / "sae")["overrides"]
    words = [word for word in words if word.startswith(("backbone", "dataset", "timestep"))]
    again = [*words, *NO_WORKERS, "block=1", "paths.features=again"]
    assert open_door("extract", again, runs, capfd).code == 0
    for path in (runs / "features" / "toy_faces").rglob("*.safetensors"):
        theirs = load_file(path)
        ours = load_file(runs / "again" / path.relative_to(runs / "features"))
        assert ours.keys() == theirs.keys()
        for key in ("x", "image"):  # and xxh3 of their bits, which another CPU rounds otherwise
            torch.testing.assert_close(ours[key], theirs[key], rtol=2e-3, atol=2e-3, equal_nan=True)


def test_a_dictionary_is_one_whatever_it_is_read_from(runs, monkeypatch):
    monkeypatch.chdir(runs)
    picture = torch.linspace(-1, 1, 3 * 16 * 16).view(3, 16, 16)
    codes = [
        Dictionary.load(path).encode(picture).maps
        for path in ("sae", "sae/dictionary", "sae/last.ckpt")
    ]
    assert codes[0].count_nonzero()
    for other in codes[1:]:  # an export sorts its latents by how often they are active
        torch.testing.assert_close(
            other.flatten(1).sum(1).sort().values,
            codes[0].flatten(1).sum(1).sort().values,
            rtol=1e-4,
            atol=1e-4,
        )


def test_a_sweep_is_collected(runs, capfd):
    words = ["runs=sweep", "report=table", "hydra.run.dir=now/table"]
    assert open_door("evaluate", words, runs, capfd).code == 0
    tables = list((runs / "now" / "table").glob("*.csv"))
    assert len(tables) == 1
    with tables[0].open() as file:
        assert len(list(csv.DictReader(file))) == 2


def test_labelled_samples_are_a_data_set(runs, capfd):
    words = ["task=deeplab", "dataset=synthetic", "dataset.path=labelled", *NO_WORKERS]
    few = ["dataset.image_size=16", "dataset.filter=null", "model.depth=50", "model.width=0.0625"]
    faces = [
        f"dataset.real.{key}" for key in ("image_size=16", "val_pictures=4", "test_pictures=4")
    ]
    run = ["trainer.max_steps=1", "data.batch_size=2", "hydra.run.dir=now/synthetic"]
    assert open_door("train", [*words, *few, *faces, *run], runs, capfd).code == 0


def test_classifiers_are_measured(runs, capfd):
    words = results(runs / "pixel_mlp")["overrides"]
    words = [word for word in words if not word.startswith(("hydra", "trainer"))]
    words += ["model.classifiers=pixel_mlp/classifiers", "hydra.run.dir=now/classifiers"]
    assert open_door("train", [*words, *QUIET], runs, capfd).code == 0
    assert figures(runs / "now" / "classifiers") == pytest.approx(
        figures(runs / "evaluated" / "pixel_mlp"), rel=1e-4, abs=1e-6
    )
