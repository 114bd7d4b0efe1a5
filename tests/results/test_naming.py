"""Names by which runs are told apart where many are listed."""

from pathlib import Path

import pytest

from diffdict.results.folders import Finished
from diffdict.results.naming import (
    RunLabels,
    labels_of_dictionary,
    labels_of_report,
    labels_of_run,
    run_name,
    typed_keys,
)

CONFIG = {
    "dataset": {"name": "horse_21", "train_pictures": 5},
    "backbone": {"name": "lsun_horse"},
    "timestep": 150,
    "block": 6,
    "seed": 3,
    "sae": {"_target_": "diffdict.sae.topk.TopK", "scale": 20, "latents": None, "k": 32},
    "model": {"optimizer": {"lr": 0.0003}, "vote": "soft"},
}


def sae(**settings):
    return CONFIG | {"sae": CONFIG["sae"] | settings}


@pytest.mark.parametrize(
    ("task", "config", "typed", "name"),
    [
        ("sae", CONFIG, ["sae.scale", "timestep", "block", "task"], "t150 b6 ×20"),
        ("sae", sae(scale=[2, 2.5]), ["sae.scale"], "t150 b6 ×2,2.5"),
        ("sae", sae(latents=512), ["sae.latents"], "t150 b6 512 latents"),
        ("sae", sae(_target_="diffdict.sae.relu.Gated"), [], "t150 b6 Gated ×20"),
        ("sae", CONFIG, ["sae.k", "seed", "sae.k"], "t150 b6 ×20 k=32 seed=3"),
        ("sae", CONFIG, ["model.optimizer.lr", "model.optimizer"], "t150 b6 ×20 lr=0.0003"),
        ("sae", CONFIG, ["dataset.train_pictures", "data.batch_size"], "t150 b6 ×20"),
        ("sae", CONFIG | {"timestep": None, "block": "late"}, [], "late ×20"),
        ("features", CONFIG | {"timestep": [50, 150], "block": "all"}, [], "horse_21 t50,150 all"),
        ("features", CONFIG | {"block": None}, [], "horse_21 t150"),
        ("pixel_mlp", CONFIG | {"block": [5, 6]}, [], "horse_21 t150 b5,6"),
        ("pixel_mlp", CONFIG, ["dataset.train_pictures"], "horse_21 t150 b6 train_pictures=5"),
        ("pixel_mlp", CONFIG, ["model.vote"], "horse_21 t150 b6 vote=soft"),
        ("deeplab", CONFIG, ["seed"], "horse_21 seed=3"),
        ("samples", CONFIG, [], "lsun_horse"),
        ("theirs", {}, [], "theirs"),
    ],
)
def test_a_name_says_what_a_run_is(task, config, typed, name):
    assert run_name(task, config, typed) == name


def test_no_name_is_longer_than_wandb_takes():
    config = CONFIG | {"dataset": {"name": "a" * 500}}
    assert run_name("deeplab", config) == "a" * 128
    about = {"door": "train", "task": "sae", "overrides": [], "config": CONFIG}
    assert len(labels_of_run(about, Path("/", "a" * 90, "b" * 90)).group) == 128


def test_a_run_is_labelled_by_its_door_task_and_folder():
    words = ["task=sae", "sae.k=16,32", "+model.vote=soft", "~sae.sparsity", "seed=3"]
    assert typed_keys(words) == ["task", "sae.k", "model.vote", "sae.sparsity", "seed"]
    about = {"door": "train", "task": "sae", "overrides": words, "config": CONFIG}
    name = "t150 b6 ×20 k=32 vote=soft seed=3"
    labels = labels_of_run(about, "/home/me/outputs/2026-01-31/12-00-00")
    assert labels == RunLabels(name, "train sae", "outputs/2026-01-31/12-00-00")


def test_one_of_several_dictionaries_is_named_by_its_own_numbers():
    own = labels_of_dictionary(sae(scale=4, k=16), ["sae.k", "sae.scale", "sae.k"], "a/sweep")
    assert own == RunLabels("t150 b6 ×4 k=16", "dictionary", "a/sweep")


def finished(folder, logger):
    return Finished(Path(folder), {"config": {"logger": logger}})


def test_a_report_joins_the_one_group_of_its_runs():
    ours = [finished(f"multirun/where/{job}", {"wandb": {"group": "a/where"}}) for job in range(2)]
    other = finished("multirun/else/0", {"wandb": {"group": "a/else"}})
    unseen = [finished("outputs/csv", {"csv": {}}), finished("outputs/none", None)]
    odd = [finished("outputs/list", ["wandb"]), finished("outputs/word", {"wandb": "yes"})]
    joined = RunLabels("heatmap of a/where", "evaluate heatmap", "a/where")
    assert labels_of_report(["heatmap"], [*unseen, *ours, *odd]) == joined
    assert labels_of_report(["table", "curve"], [*ours, other]) == RunLabels(
        "table curve", "evaluate table curve", None
    )
    assert labels_of_report(["heatmap"], unseen).group is None


def test_a_run_that_is_no_sweeps_is_found_by_its_folder():
    run = finished("/home/me/outputs/demo", {"wandb": {"group": None}})
    assert labels_of_report(["heatmap"], [run]).group == "me/outputs/demo"
