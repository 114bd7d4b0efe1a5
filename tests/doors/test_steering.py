"""A dictionary learned, tested, steered and put in the network's place, through the real doors."""

import json

import numpy as np
import pytest
import torch

from tests.doors import FACES, SAE, TOKENS, open_door
from tests.tasks.test_samples import FLAGS, network

NET = [f"backbone.{key}={str(value).replace(' ', '')}" for key, value in FLAGS.items()]
TRAIN = [*SAE, *NET, *TOKENS, *FACES, "data.source=live", "data.dtype=fp32", "block=1"]
CHAIN = ["data.number=3", "data.shard_size=2", "data.batch_size=2", "sampler.respacing=ddim2"]
QUIET = ["trainer=cpu", "callbacks.progress=null"]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A folder with a run of task=sae and the test of its concepts."""
    folder = tmp_path_factory.mktemp("steered")

    class Mute:
        def readouterr(self):
            return self

        err = ""

    torch.save(network().state_dict(), folder / "net.pt")
    words = [*TRAIN, f"backbone.checkpoint={folder}/net.pt", "trainer.max_steps=12", "test=false"]
    assert open_door("train", [*words, "hydra.run.dir=run"], folder, Mute()).code == 0
    test = ["ckpt_path=run/last.ckpt", *QUIET, "hydra.run.dir=run/concepts"]
    assert open_door("evaluate", test, folder, Mute()).code == 0
    return folder


def test_a_class_is_steered_by_run_checkpoint_and_export_alike(learned, capfd):
    tables = json.loads((learned / "run/concepts/results.json").read_text())["tables"]
    concept = next(row["class"] for row in tables["classes"] if row["excess"])
    made = {}
    for place in ("run", "run/last.ckpt", "run/dictionary"):
        folder = f"made_{place.replace('/', '_')}"
        words = ["task=steering", f"dictionary={place}", f"concept={concept}", f"folder={folder}"]
        closed = open_door("extract", [*QUIET, *CHAIN, *words], learned, capfd)
        assert closed.code == 0, closed.lines
        shards = [np.load(path) for path in sorted((learned / folder).glob("*.npz"))]
        made[place] = {key: np.concatenate([one[key] for one in shards]) for key in ("off", "on")}
        assert (learned / folder / "sheet.png").is_file()
    for other in ("run/last.ckpt", "run/dictionary"):
        assert np.array_equal(made["run"]["off"], made[other]["off"])
        gap = made["run"]["on"].astype(int) - made[other]["on"].astype(int)
        assert np.abs(gap).max() <= 1
    assert not np.array_equal(made["run"]["on"][:, 0], made["run"]["off"])


def test_pictures_are_steered_that_there_are(learned, capfd):
    words = ["task=steering", "dictionary=run", "latents=[0,1,2,3]", "pictures=test", *FACES]
    words += ["data.shard_size=2", "sampler.respacing=ddim4", "folder=pictures", "level=800"]
    closed = open_door("extract", [*QUIET, *words], learned, capfd)
    assert closed.code == 0, closed.lines
    shard = next((learned / "pictures").glob("*.npz"))
    with np.load(shard) as arrays:
        assert {"picture", "off", "on", "psnr", "rmse"} <= set(arrays.files)
        assert arrays["picture"].shape == (2, 16, 16, 3)
    again = open_door("extract", [*QUIET, *words[:-1], "level=500"], learned, capfd)
    assert again.code == 2
    assert "holds other samples" in again.lines[-1]


def test_what_studies_a_dictionary_takes_its_facts(learned, capfd):
    for task in ("substitution", "lifetimes", "sparse_probe"):
        words = [f"task={task}", "dictionary=run", *FACES, "data.num_workers=0"]
        words += [f"hydra.run.dir={task}"] + (["draws=2"] if task == "lifetimes" else [])
        closed = open_door("evaluate", [*QUIET, *words], learned, capfd)
        assert closed.code == 0, closed.lines
        results = json.loads((learned / task / "results.json").read_text())
        assert results["config"]["block"] == 1
        assert results["config"]["timestep"] == 50
        name = "timesteps" if task == "lifetimes" else task
        assert results["tables"][name][0].get("timestep", 50) == 50
        assert (learned / task / f"{name}.csv").is_file()


def test_concatenated_timesteps_say_in_which_one_their_latents_live(learned, capfd):
    words = [word for word in TRAIN if not word.startswith("timestep=")]
    words += [f"backbone.checkpoint={learned}/net.pt", "trainer.max_steps=12", "timestep=[50,300]"]
    closed = open_door("train", [*words, "hydra.run.dir=both"], learned, capfd)
    assert closed.code == 0, closed.lines
    found = json.loads((learned / "both/results.json").read_text())
    assert {"test/fvu_t0050", "test/fvu_t0300", "test/one_timestep"} <= set(found["metrics"])
    for row in found["tables"]["latents"]:
        assert row["share_t0050"] + row["share_t0300"] == pytest.approx(1)
    assert {"share_t0050", "share_t0300"} <= set(found["tables"]["classes"][0])
    steer = ["task=steering", "dictionary=both", "latents=[0,1]", "folder=concat"]
    closed = open_door("extract", [*QUIET, *CHAIN, *steer], learned, capfd)
    assert closed.code == 2
    assert "concatenated maps cannot encode" in closed.lines[-1]
    closed = open_door("extract", [*QUIET, *CHAIN, *steer, "how=add"], learned, capfd)
    assert closed.code == 0, closed.lines
