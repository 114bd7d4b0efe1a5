"""Closed-form probes against trained ones: do they rank timesteps and blocks alike, and how fast?

Toy faces, the packaged diffusion model, twenty labelled training pictures, a hundred to test on. On
one side task=probe_sweep, on the other a logistic regression a cell by L-BFGS.
"""

import argparse
import time
from functools import partial

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from scipy.stats import spearmanr
from toy_ddpm_probe import miou, pictures, pixels, regression, seen

from diffdict.backbones.base import Backbone
from diffdict.cli.paths import folder
from diffdict.data.toy_faces import ToyFaces
from diffdict.features.probes import ProbePictures
from diffdict.tasks.probe_sweep import ProbeSweep

Cells = dict[tuple[int, int], float]


def closed_form(net: Backbone, timesteps: list[int]) -> Cells:
    """Of every cell the mIoU on the test pictures."""
    data = ProbePictures(
        dataset=partial(ToyFaces), backbone=net, source="live", timestep=timesteps, block="all"
    )
    facts = data.facts
    task = ProbeSweep(facts["num_classes"], facts["cells"])
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", **quiet)
    trainer.test(task, data, verbose=False)
    rows = task.tables()["cells"]
    return {(row["timestep"], row["block"]): 100 * row["miou"] for row in rows}


def trained(net: Backbone, timesteps: list[int]) -> tuple[Cells, float]:
    """The same by gradient, and the seconds that the network took of it."""
    data = {split: pictures(split) for split in ("train", "test")}
    side, classes = data["test"][1].shape[-1], ToyFaces(split="test").num_classes
    labels = {split: masks.flatten() for split, (_, masks) in data.items()}
    scores, looked = {}, 0.0
    for timestep in timesteps:
        start = time.process_time()
        maps = {split: seen(net, images, timestep) for split, (images, _) in data.items()}
        looked += time.process_time() - start
        for block in maps["train"]:
            x = {split: pixels(maps[split][block], side) for split in maps}
            predicted = regression(x["train"], labels["train"], classes)(x["test"])
            scores[timestep, block] = miou(predicted, labels["test"], classes)
            print(f"  timestep {timestep} block {block}: {scores[timestep, block]:.1f}", flush=True)
    return scores, looked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timesteps", type=int, nargs="+", default=[50, 250, 500])
    timesteps = parser.parse_args().timesteps
    torch.set_num_threads(1)
    with initialize_config_dir(folder("conf"), version_base="1.3"):
        net = instantiate(compose("extract").backbone).eval()
    start = time.process_time()
    ours = closed_form(net, timesteps)
    middle = time.process_time()
    theirs, looked = trained(net, timesteps)
    fast, slow = middle - start, time.process_time() - middle
    rank = spearmanr([ours[cell] for cell in theirs], list(theirs.values())).statistic
    print(f"{len(ours)} cells, rank correlation {rank:.3f} (Spearman)")
    print(f"closed form {fast:.0f} s, trained {slow:.0f} s of one core, ratio {slow / fast:.1f}")
    fits = (slow - looked) / (fast - looked)
    print(f"of which the network {looked:.0f} s; without it, ratio {fits:.1f}")
    for name, cells in (("closed form", ours), ("training", theirs)):
        timestep, block = max(cells, key=cells.get)
        best = theirs[timestep, block]
        print(f"best by {name}: timestep {timestep} block {block}, trained {best:.1f} mIoU")


if __name__ == "__main__":
    main()
