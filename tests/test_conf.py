"""conf/ says only what the code understands, and everything in it composes."""

import inspect
import re
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf, open_dict

from diffdict import checkpoints
from diffdict.cli.paths import folder
from diffdict.errors import UserError
from diffdict.run.instantiate import arguments, drop_unset

CONF = Path(folder("conf"))
GROUPS = [
    "backbone",
    "callbacks",
    "condition",
    "data",
    "dataset",
    "debug",
    "experiment",
    "hydra",
    "local",
    "logger",
    "paths",
    "report",
    "representation",
    "sae",
    "sampler",
    "task",
    "trainer",
]
HYDRA_KEYS = {"_target_", "_partial_", "_args_", "_recursive_", "_convert_", "defaults"}
TASKS = {
    "train": [
        "diffusion",
        "direction",
        "latent_diffusion",
        "linear_probe",
        "pdae",
        "pixel_mlp",
        "sae",
        "simclr",
        "simsiam",
    ],
    "extract": ["features", "invert", "latents", "samples", "steering"],
}
SWEEPS = sorted(Path(folder("sweeps"), "sweep").glob("*.yaml"))
takes = cache(arguments)  # asked thousands of times
RELEASED = ("mae", "swav", "swav_w2")  # with weights of every domain
DOMAINS = {
    "ade_bedroom_30": "lsun_bedroom",
    "bedroom_28": "lsun_bedroom",
    "cat_15": "lsun_cat",
    "celeba_19": "ffhq",
    "ffhq_34": "ffhq",
    "horse_21": "lsun_horse",
}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


SYNTHETIC = [name for name in options("dataset") if name.endswith(("_ddpm", "_gan"))]
LABELLED = sorted(set(options("dataset")) - set(SYNTHETIC))


def nodes(node):
    if OmegaConf.is_dict(node):
        if "_target_" in node:
            yield node
        for key in node:
            if not OmegaConf.is_interpolation(node, key) and not OmegaConf.is_missing(node, key):
                yield from nodes(node[key])
    elif OmegaConf.is_list(node):
        for child in node:
            yield from nodes(child)


def composed(door: str, *overrides: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(door, [*overrides, "hydra.runtime.output_dir=out"], return_hydra_config=True)


def check_keys(cfg, where):
    for node in nodes(cfg):
        parameters = takes(node._target_)
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            continue
        unknown = set(node) - HYDRA_KEYS - set(parameters)
        assert not unknown, f"{where}: {node._target_} takes {', '.join(parameters)}; not {unknown}"


def test_groups_are_these():
    assert sorted(path.name for path in CONF.iterdir() if path.is_dir()) == GROUPS


@pytest.mark.parametrize(
    "file", sorted(CONF.rglob("*.yaml")), ids=lambda f: str(f.relative_to(CONF))
)
def test_every_key_is_an_argument_of_its_target(file):
    check_keys(OmegaConf.load(file), file.relative_to(CONF))


@pytest.mark.parametrize(
    ("door", "task", "dataset", "backbone"),
    [
        (door, task, dataset, backbone)
        for door, tasks in TASKS.items()
        for task, dataset, backbone in product(tasks, LABELLED, options("backbone"))
        if task in ("sae", "features") or dataset == "toy_faces" or backbone == "toy_ddpm"
    ],
)
def test_every_task_dataset_and_backbone_compose(door, task, dataset, backbone):
    cfg = composed(door, f"dataset={dataset}", f"task={task}", f"backbone={backbone}")
    check_keys(cfg, f"{door} {task} {dataset} {backbone}")
    assert cfg.hydra.runtime.choices.task == task
    assert cfg.hydra.runtime.choices.backbone == backbone
    assert cfg.dataset.name
    own = OmegaConf.load(CONF / "backbone" / f"{backbone}.yaml")
    assert (cfg.timestep, cfg.block) == (own.timestep, own.block)
    if "image_size" in cfg.dataset:  # else it is that of the real pictures behind it
        OmegaConf.to_container(cfg.backbone, resolve=True, throw_on_missing=True)
    if backbone in RELEASED and task != "diffusion":
        assert (
            cfg.backbone.checkpoint
            == f"{backbone}_{DOMAINS.get(dataset.removesuffix('_drawn'), 'imagenet')}"
        )
        assert cfg.backbone.checkpoint in {*checkpoints.releases(), "mae_imagenet"}


@pytest.mark.parametrize("backbone", RELEASED)
@pytest.mark.parametrize("dataset", ["toy_faces", "folder", "synthetic"])
def test_the_way_out_of_a_domain_without_weights_composes(backbone, dataset):
    words = [f"dataset={dataset}", f"backbone={backbone}", "task=sae"]
    cfg = composed("train", *words, *([] if backbone == "mae" else ["domain=cars"]))
    with pytest.raises(UserError) as told:
        checkpoints.resolve(cfg.backbone.checkpoint)
    way_out = re.search(r"(domain=\S+) (dataset\.image_size=\S+)", str(told.value)).groups()
    mended = composed("train", *words, *way_out).backbone
    assert mended.checkpoint in checkpoints.releases()
    assert mended.get("img_size", mended.get("image_size")) == 256


PUBLISHED = ([50, 150, 250], [5, 6, 7, 8, 12])


@pytest.mark.parametrize(
    ("words", "places"),
    [
        ([], PUBLISHED),
        (["backbone=guided_unet", "backbone.checkpoint=my.pt"], PUBLISHED),
        (["backbone=ffhq"], PUBLISHED),
        (["dataset=folder", "dataset.path=pictures"], PUBLISHED),
        (["backbone=guided_unet", "timestep=10", "block=[3]"], (10, [3])),
        (["backbone=toy_ddpm"], (50, 4)),  # which has no block 12
        (["backbone=pixels"], (None, "pixels")),
    ],
)
def test_an_experiment_keeps_its_places_in_networks_of_one_kind(words, places):
    cfg = composed("train", "experiment=few_shot", *words)
    assert (cfg.timestep, cfg.block) == places


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_composes_and_says_its_command(experiment):
    head = (CONF / "experiment" / f"{experiment}.yaml").read_text()
    doors = [door for door in TASKS if f"python {door}.py experiment={experiment}" in head]
    assert doors, "the head of an experiment says its command"
    for door in doors:
        check_keys(composed(door, f"experiment={experiment}"), experiment)


@pytest.mark.parametrize("door", ["train", "extract"])
@pytest.mark.parametrize("debug", sorted(set(options("debug")) - {"default"}))
@pytest.mark.parametrize("trainer", options("trainer"))
def test_every_debug_and_trainer_compose(door, debug, trainer):
    cfg = composed(door, f"debug={debug}", f"trainer={trainer}")
    assert cfg.trainer._target_ == "pytorch_lightning.Trainer"


@pytest.mark.parametrize("dataset", options("dataset"))
def test_a_typed_dataset_reaches_evaluate(dataset):
    assert composed("evaluate", f"dataset={dataset}").dataset.name


@pytest.mark.parametrize(
    "word", [*(f"dataset={d}" for d in LABELLED), *(f"backbone={b}" for b in options("backbone"))]
)
def test_probes_are_swept_over_any_pictures_and_network(word):
    cfg = composed("evaluate", "task=probe_sweep", word)
    with open_dict(cfg):
        cfg.data = drop_unset(cfg.data)  # as a run does
    check_keys(cfg, word)
    group, _, name = word.partition("=")
    assert cfg.hydra.runtime.choices[group] == name
    assert (cfg.dataset.name is not None, cfg.block, len(cfg.timestep)) == (True, "all", 7)
    assert set(cfg.report) == {"heatmap"}


@pytest.mark.parametrize("word", ["dataset=cifar10", "dataset=npz", "backbone=ddae_small"])
def test_distances_are_fid_unless_another_network_is_typed(word):
    cfg = composed("evaluate", "task=fid", word)
    with open_dict(cfg):
        cfg.data = drop_unset(cfg.data)  # as a run does
    check_keys(cfg, word)
    place = (11, 6) if "backbone" in word else (None, 2048)
    assert (cfg.timestep, cfg.block, cfg.data.test_split) == (*place, "train")
    chosen = word.partition("backbone=")[2] or "inception"
    assert cfg.hydra.runtime.choices.backbone == chosen


@pytest.mark.parametrize("dataset", ["cifar10", "npz", "tiny_imagenet"])
@pytest.mark.parametrize("task", ["noisy_classifier", "noisy_classifier_wrn"])
def test_noisy_pictures_of_any_set_are_classified(task, dataset):
    cfg = composed("train", f"task={task}", f"dataset={dataset}")
    check_keys(cfg, f"{task} {dataset}")
    assert (cfg.timestep, cfg.data.val_share, cfg.dataset.name) == (None, None, dataset)
    whole = task.endswith("wrn")
    assert (cfg.backbone.name == "wide_resnet", cfg.block is None) == (whole, whole)
    assert composed("train", f"task={task}", "backbone=ddae_small").backbone.name == "ddae_small"


def test_what_is_typed_wins_over_what_a_probe_sweep_brings():
    cfg = composed("evaluate", "task=probe_sweep", "report=table", "timestep=null", "block=[3,4]")
    assert (cfg.dataset.name, cfg.backbone.name) == ("toy_faces", "toy_ddpm")
    assert (cfg.timestep, cfg.block, set(cfg.report)) == (None, [3, 4], {"table"})


@pytest.mark.parametrize("dataset", options("dataset"))
def test_a_dataset_brings_its_backbone_and_that_its_place(dataset):
    cfg = composed("extract", f"dataset={dataset}")
    chosen = cfg.hydra.runtime.choices.backbone
    assert chosen in options("backbone")
    assert set(cfg.noise) == {"shared", "seed", "draws", "device"}
    own = OmegaConf.load(CONF / "backbone" / f"{chosen}.yaml")
    assert (cfg.timestep, cfg.block) == (own.timestep, own.block)
    assert not {"timestep", "block"} & set(OmegaConf.load(CONF / "dataset" / f"{dataset}.yaml"))


@pytest.mark.parametrize("backbone", options("backbone"))
def test_a_typed_place_and_domain_win(backbone):
    words = ["dataset=horse_21", f"backbone={backbone}", "timestep=7", "block=[3,late]"]
    cfg = composed("train", *words, "task=sae", "domain=lsun_cat")
    assert (cfg.timestep, cfg.block) == (7, [3, "late"])
    if backbone in RELEASED:
        assert cfg.backbone.checkpoint == f"{backbone}_lsun_cat"


@pytest.mark.parametrize(("backbone", "key"), [("pixels", "image_size"), ("mae", "img_size")])
def test_a_synthetic_set_has_the_size_of_its_real_one(backbone, key):
    words = ["dataset=synthetic", f"backbone={backbone}"]
    for own, size in ([], 64), (["dataset.real.image_size=32"], 32), (["dataset/real=folder"], 256):
        assert composed("train", *words, *own).backbone[key] == size


@pytest.mark.parametrize("dataset", SYNTHETIC)
def test_a_published_synthetic_set_is_tested_on_its_real_one(dataset):
    cfg = composed("train", f"dataset={dataset}", "dataset.real.test_pictures=3")
    check_keys(cfg, dataset)
    ours = cfg.dataset
    real = OmegaConf.load(CONF / "dataset" / "real" / f"{dataset.rpartition('_')[0]}.yaml")
    assert OmegaConf.to_container(ours.real) == OmegaConf.to_container(real) | {"test_pictures": 3}
    assert (cfg.dataset.name, cfg.dataset.filter, cfg.dataset.max_data) == (
        dataset,
        "published",
        50000,
    )
    assert cfg.dataset.archive.folder == cfg.dataset.path


@pytest.mark.parametrize("task", ["deeplab", "deeplab_modern"])
def test_a_segmenter_learns_from_any_pictures(task):
    for dataset in (*LABELLED, SYNTHETIC[0]):
        cfg = composed("train", f"task={task}", f"dataset={dataset}")
        check_keys(cfg, f"{task} {dataset}")
        assert cfg.data.dataset == cfg.dataset
    assert composed("train", "task=deeplab_modern", "model.decay=cosine").model.decay == "cosine"


def test_the_filter_is_swept():
    cfg = composed("train", "+sweep=filter_portion", f"dataset={SYNTHETIC[0]}", "model.depth=50")
    check_keys(cfg, "filter_portion")
    assert (cfg.dataset.name, cfg.dataset.filter) == (SYNTHETIC[0], "portion")
    assert set(cfg.hydra.sweeper.params) == {"dataset.filter_portion"}


def test_any_real_set_may_stand_behind_ones_own_synthetic_pictures():
    for real in options("dataset/real"):
        cfg = composed("train", "dataset=synthetic", f"dataset/real={real}")
        assert (cfg.dataset.real.name, cfg.dataset.name) == (real, f"{real}_ddpm")
        assert cfg.dataset.path == f"{cfg.paths.samples}/{real}_ddpm"


@pytest.mark.parametrize("sae", options("sae"))
@pytest.mark.parametrize("words", [["task=sae"], ["experiment=sae_toy"]])
def test_every_sae_composes_with_its_task_and_in_experiments(words, sae):
    ranked = "k" in OmegaConf.load(CONF / "sae" / f"{sae}.yaml")
    words = words if ranked or "task=sae" in words else [*words, "~sae.k"]
    for typed in ([*words, f"sae={sae}"], [f"sae={sae}", *words]):
        cfg = composed("train", *typed, "sae.scale=[3,5]")
        check_keys(cfg, f"{typed}")
        assert cfg.model.sae == cfg.sae
        assert cfg.sae.scale == [3, 5]
        assert cfg.hydra.runtime.choices.sae == sae


@pytest.mark.parametrize("sae", options("sae"))
def test_a_sae_says_all_that_it_takes_with_its_defaults(sae):
    node = composed("train", "task=sae", f"sae={sae}").sae
    plain = inspect.Parameter.KEYWORD_ONLY
    defaults = {k: p.default for k, p in arguments(node._target_).items() if p.kind is plain}
    assert set(node) - HYDRA_KEYS == set(defaults)
    for key in set(defaults) - {"seed"}:
        said = list(node[key]) if OmegaConf.is_list(node[key]) else node[key]
        assert said == (list(defaults[key]) if isinstance(said, list) else defaults[key]), key


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_composes_and_says_its_command(sweep):
    doors = [d for d in TASKS if f"python {d}.py -m +sweep={sweep.stem}" in sweep.read_text()]
    assert len(doors) == 1, "the head of a sweep says its command"
    cfg = composed(doors[0], f"+sweep={sweep.stem}")
    check_keys(cfg, sweep.stem)
    assert cfg.hydra.mode.name == "MULTIRUN"
    params = cfg.hydra.sweeper.params
    first = [f"{key}={str(values).partition(',')[0]}" for key, values in params.items()]
    composed(doors[0], f"+sweep={sweep.stem}", *(word for word in first if "range(" not in word))


@pytest.mark.parametrize("file", sorted(Path(folder("sweeps"), "wandb").glob("*.yaml")))
def test_every_sweep_of_wandb_composes(file):
    sweep = yaml.safe_load(file.read_text())
    assert set(sweep) == {"program", "method", "metric", "parameters", "command"}
    known = {
        key: one.get("values", [one.get("min")])[0] for key, one in sweep["parameters"].items()
    }
    typed = [word for word in sweep["command"] if "=" in word]
    typed += [f"{key}={value}" for key, value in known.items()]
    cfg = composed(sweep["program"].removesuffix(".py"), *typed)
    check_keys(cfg, file.stem)
    assert "wandb" in cfg.logger


@pytest.mark.parametrize("dataset", DOMAINS)
@pytest.mark.parametrize("backbone", [None, *RELEASED])
def test_few_shot_segmentation_is_the_published_one(dataset, backbone):
    words = ["experiment=few_shot", f"dataset={dataset}"]
    words += [f"backbone={backbone}"] if backbone else []
    for typed in (words, words[::-1]):
        cfg = composed("train", *typed)
        check_keys(cfg, f"{typed}")
        model, data = cfg.model, cfg.data
        assert (cfg.dataset.name, model.members, data.members) == (dataset, 10, 10)
        assert (data.batch_size, cfg.trainer.max_epochs, model.optimizer.lr) == (64, 100, 1e-3)
        assert (model.patience, model.patience_from, model.vote) == (50, 4, "majority")
        if backbone:
            assert cfg.backbone.checkpoint == f"{backbone}_{DOMAINS[dataset]}"
        else:
            assert (cfg.timestep, cfg.block) == ([50, 150, 250], [5, 6, 7, 8, 12])


@pytest.mark.parametrize("sweep", sorted(Path(folder("sweeps"), "sweep").glob("few_shot_*.yaml")))
def test_every_sweep_of_segmenters_composes(sweep):
    cfg = composed("train", f"+sweep={sweep.stem}")
    check_keys(cfg, sweep.stem)
    assert f"python train.py -m +sweep={sweep.stem}" in sweep.read_text()
    assert cfg.hydra.runtime.choices.task == "pixel_mlp"
    assert cfg.hydra.sweeper.params
