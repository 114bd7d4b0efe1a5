"""What a run leaves for wandb, read back from its files; and that it never needs a server."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import wandb
from PIL import Image
from torch.utils.data import DataLoader

from diffdict.features.store import FeatureStore, Identity
from diffdict.metrics.concepts.findings import Together, findings_tables
from diffdict.reports.concepts.class_figure import concept_rows
from diffdict.reports.wandb_run import PACKAGE, WandbRun, class_pictures, git_state
from diffdict.results.naming import RunLabels
from diffdict.results.record import KeepResults
from diffdict.sae import saelens
from tests.reports.offline import offline_runs, records, table_rows, told
from tests.reports.world import CLASSES, Tested, World, build


def held(artifact):
    """The files of an artifact, where they wait."""
    return {one.path: Path(one.local_path) for one in artifact.manifest.contents}


class Learned(Tested):
    """Measures one figure, and knows its classes."""

    def __init__(self, data, **saes):
        super().__init__(data, **saes)
        united = [Together([i], 0.5, 0.25) for i in range(len(CLASSES))]
        self.findings = {n: f._replace(unions=united) for n, f in self.findings.items()}

    def test_step(self, batch, batch_idx):
        self.log("test/fvu", 0.25)

    def tables(self):
        return findings_tables(self.findings)


class Pictures(World):
    """The world, with a store."""

    def __init__(self, folder, **options):
        super().__init__(**options)
        said = ("world", "hash", "train", 5, 24, 4, CLASSES, 255, "net", "sha", None, "fp32", 1)
        self.store = FeatureStore.create(folder / "store", Identity(*said), [])

    def stores(self):
        return {"train": self.store}

    def test_dataloader(self):
        return DataLoader([0])


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No login, no server that answers, and nothing is left in the home folder."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staged"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    yield
    wandb.teardown()


def ran(folder, **options):
    """A test of a small dictionary that ends as a door does; the records, and the folder."""
    data, sae = Pictures(folder), build()
    module = Learned(data, sae=sae)
    saelens.export(sae, folder / "dictionary", {"about": "a test"})
    Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).save(folder / "grid.png")
    logger = WandbRun(save_dir=str(folder), group="a/sweep", tags=["small"], **options)
    logger.log_hyperparams({"sae": {"k": 2}})
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(default_root_dir=folder, logger=logger, **quiet)
    trainer.test(module, data, verbose=False)
    logger.keep_run(trainer, module)
    kept = logger.experiment.settings
    wandb.finish()
    wandb.teardown()  # the file is whole
    (file,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    assert str(file) == kept.sync_file
    return records(file), module, data


def test_an_offline_run_has_all_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    found, module, data = ran(tmp_path)
    (run,) = (each.run for each in found if each.HasField("run"))
    assert (run.project, run.run_group, list(run.tags)) == ("diffdict", "a/sweep", ["small"])
    config = told(run.config.update) | told(*(each.config.update for each in found))
    assert config["sae"] == {"k": 2}
    assert config["git"] == git_state(PACKAGE)
    shown = told(*(each.summary.update for each in found))
    assert shown["test/fvu"] == 0.25
    assert (shown["classes"]["_type"], shown["classes"]["nrows"]) == ("table-file", 4)
    assert (shown["latents"]["_type"], shown["latents"]["nrows"]) == ("table-file", 20)
    kept = {
        each.artifact.name.replace(f"-{run.run_id}", ""): each.artifact
        for each in found
        if each.HasField("artifact")
    }
    assert set(kept) == {"run-classes", "run-latents", "dictionary", "features-train"}
    table = held(kept["run-classes"])
    content = json.loads(table["classes.table.json"].read_text())
    lines = [dict(zip(content["columns"], line, strict=True)) for line in content["data"]]
    assert [line["class"] for line in lines] == list(CLASSES)
    assert [line["latent"] for line in lines[:3]] == [0, 1, 2]
    assert lines[0]["iou"] == pytest.approx(float(module.findings["sae"].best.test.iou[0]))
    assert lines[3]["picture"] is None, "the sun is in no test picture"
    files = next((tmp_path / "wandb").glob("offline-run-*/files"))
    assert shown["concepts"]["captions"] == list(CLASSES[:3])
    rows = concept_rows(module.evaluated["sae"], module.findings["sae"], data, None, 1)
    names = shown["concepts"]["filenames"]
    for line, name, row in zip(lines[:3], names, rows, strict=True):
        for path in (table[line["picture"]["path"]], files / name):
            assert (np.asarray(Image.open(path)) == row.groups[0][2]).all()
    (sheet,) = shown["figures/grid"]["filenames"]
    assert (np.asarray(Image.open(files / sheet)) == 200).all()
    assert set(held(kept["dictionary"]).values()) == set((tmp_path / "dictionary").iterdir())
    (reference,) = kept["features-train"].manifest.contents
    assert reference.ref == (tmp_path / "store" / "store.json").as_uri()
    known = json.loads(kept["features-train"].metadata)
    assert known["path"] == str(tmp_path / "store")
    assert known["identity"] == data.store.metadata["store"]


def test_what_is_no_number_is_missing_offline_too(tmp_path):
    logger = WandbRun(save_dir=str(tmp_path), offline=True)
    logger.log_hyperparams({"edge": float("inf"), "sae": {"scale": [float("nan"), 2]}})
    logger.log_metrics({"train/loss": float("nan"), "train/scale": float("-inf"), "l0": 2.0}, 1)
    wandb.finish()
    wandb.teardown()
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    found = records(file)
    updates = [each.config.update for each in found] + [each.run.config.update for each in found]
    config = told(*updates)
    assert (config["edge"], config["sae"]) == (None, {"scale": [None, 2]})
    shown = told(*(each.history.item for each in found))
    assert (shown["train/loss"], shown["train/scale"], shown["l0"]) == (None, None, 2.0)
    for path in file.parent.rglob("*"):
        assert path.is_dir() or not set(re.findall(rb"NaN|Infinity", path.read_bytes()))


@pytest.mark.parametrize("key", [None, "0123456789abcdef0123456789abcdef01234567"])
def test_without_a_login_or_a_server_a_run_goes_on_offline(tmp_path, monkeypatch, capsys, key):
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    found, *_ = ran(tmp_path, init_timeout=1)
    assert told(*(each.summary.update for each in found))["test/fvu"] == 0.25
    said = capsys.readouterr().err
    assert said.count("wandb is not reached (") == 1
    (kept,) = (tmp_path / "wandb").glob("offline-run-*")
    assert f"show it later by wandb sync {kept}\n" in said


class Several(Learned):
    """Two dictionaries, measured beside each other."""

    def test_step(self, batch, batch_idx):
        self.log_dict({"test/scale2/fvu": 0.25, "test/scale2p5_k3/fvu": 0.5, "test/loss": 7.0})


def ran_several(folder, **options):
    """A run of two dictionaries, with what is in its results; the runs that it left."""
    data = Pictures(folder)
    module = Several(data, scale2=build(), scale2p5_k3=build(k=3))
    logger = WandbRun(save_dir=str(folder), **options)
    logger.log_hyperparams(SEVERAL)
    kept = KeepResults("train", "sae", ["task=sae", "sae.scale=[2,2.5]", "seed=0"])
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(default_root_dir=folder, logger=logger, callbacks=[kept], **quiet)
    trainer.test(module, data, verbose=False)
    kept.write(trainer, module)
    logger.keep_run(trainer, module)
    wandb.finish()
    wandb.teardown()
    return offline_runs(folder)


SEVERAL = {
    "timestep": 50,
    "block": 6,
    "seed": 0,
    "sae": {"_target_": "diffdict.sae.topk.TopK", "scale": [2, 2.5], "k": [2, 3]},
    "model": {"sae": {"_target_": "diffdict.sae.topk.TopK", "scale": [2, 2.5], "k": [2, 3]}},
}


@pytest.mark.parametrize("typed", [{}, {"name": "mine", "group": "ours", "job_type": "trial"}])
def test_each_of_several_dictionaries_is_a_run(tmp_path, monkeypatch, typed):
    monkeypatch.setenv("WANDB_MODE", "offline")
    labels = RunLabels("t50 b6 ×2,2.5", "train sae", "a/run")
    whole, *own = ran_several(tmp_path, labels=labels, **typed)
    group = typed.get("group", "a/run")
    assert (whole.name, whole.group) == (typed.get("name", labels.name), group)
    assert whole.job_type == typed.get("job_type", "train sae")
    assert whole.config["sae"]["scale"] == [2, 2.5]
    assert [(run.group, run.job_type) for run in own] == [(group, "dictionary")] * 2
    names = ["t50 b6 ×2 seed=0", "t50 b6 ×2.5 seed=0 k=3"]
    assert [run.name for run in own] == (["mine scale2", "mine scale2p5_k3"] if typed else names)
    assert [run.config["sae"]["scale"] for run in own] == [2, 2.5]
    assert [run.config["model"]["sae"]["k"] for run in own] == [[2, 3], 3]
    assert all(run.config["git"] == git_state(PACKAGE) for run in own)
    assert [run.summary["test/fvu"] for run in own] == [0.25, 0.5]
    assert not any("test/loss" in run.summary for run in own)
    for run in own:
        rows = table_rows(run, "classes")
        assert [row["class"] for row in rows] == list(CLASSES)
        assert "dictionary" not in rows[0]
        assert run.summary["concepts"]["captions"] == list(CLASSES[:3])
        assert set(run.artifacts) == {f"run-{run.id}-classes"}


def test_a_run_that_goes_on_lists_no_dictionary_twice(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    first = ran_several(tmp_path / "run")
    both = ran_several(tmp_path / "run")
    other = ran_several(tmp_path / "other")
    ids = [run.id for run in both if run.job_type == "dictionary"]
    assert ids[:2] == ids[2:] == [run.id for run in first[1:]]
    assert len({*ids, *(run.id for run in other)}) == 5


def test_dictionaries_go_where_their_run_goes(tmp_path, capsys):
    """Without a login all of them stay on disk, and that is said once."""
    runs = ran_several(tmp_path, init_timeout=1)
    assert len(runs) == 3
    assert capsys.readouterr().err.count("wandb is not reached (") == 1


def test_variables_of_wandb_win_over_labels(monkeypatch):
    monkeypatch.setenv("WANDB_NAME", "theirs")
    monkeypatch.setenv("WANDB_RUN_GROUP", "their group")
    init = WandbRun(labels=RunLabels("ours", "train sae", "our group"))._wandb_init
    assert (init["name"], init["job_type"], init["group"]) == (None, "train sae", None)
    init = WandbRun(name="typed", group="b", labels=RunLabels("ours", None, "c"))._wandb_init
    assert (init["name"], init["job_type"], init["group"]) == ("typed", None, "b")


def test_several_dictionaries_have_a_picture_a_class_each(tmp_path):
    data = World()
    drawn = class_pictures(Tested(data, scale2=build(), scale4=build(k=3)), data)
    assert list(drawn) == [(name, one) for name in ("scale2", "scale4") for one in CLASSES[:3]]
    assert class_pictures(pl.LightningModule(), data) == {}


def test_the_code_is_told_by_its_commit(tmp_path):
    code = tmp_path / "code"
    code.mkdir()
    (code / "__init__.py").write_text("")
    assert git_state(code) is None

    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", "-C", code, *who, *words], check=True, capture_output=True)
        return done.stdout.decode().strip()

    git("init")
    assert git_state(code) is None, "a checkout that only surrounds it"
    git("add", "__init__.py")
    git("commit", "-m", "One")
    commit = git("rev-parse", "HEAD")
    assert git_state(code) == {"commit": commit, "dirty": False}
    (code / "__init__.py").write_text("changed = True\n")
    assert git_state(code) == {"commit": commit, "dirty": True}


def test_no_git_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) is None
