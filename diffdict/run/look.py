"""`evaluate.py ckpt_path=… picture=PATH`: applies a trained module to one picture."""

import inspect
import os
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig

from diffdict import checkpoints, files
from diffdict.features.normalisation import normalisation
from diffdict.features.one_picture import open_picture, see
from diffdict.reports.subjects import LooksAtPictures, require
from diffdict.results.folders import tables_beside
from diffdict.results.record import write_results
from diffdict.results.tables import print_rows
from diffdict.run.build import describe_run
from diffdict.run.instantiate import make
from diffdict.run.validate import validate_config


def look(cfg: DictConfig) -> None:
    """Applies a trained module to the picture at `picture=PATH`, without any dataset."""
    validate_config(cfg, "evaluate")
    os.environ["DIFFDICT_CHECKPOINTS"] = str(cfg.paths.checkpoints)
    way_out = f"give another than ckpt_path={cfg.ckpt_path}"
    require(get_object(cfg.model._target_), LooksAtPictures, "picture=", way_out)
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    facts, start = checkpoints.facts_of(cfg.ckpt_path), time.perf_counter()
    image = open_picture(cfg.picture, facts["image_size"])
    parameters = inspect.signature(get_object(cfg.model._target_).look).parameters
    net = instantiate(cfg.backbone) if "maps" in parameters else None
    model = checkpoints.restore(cfg.ckpt_path, make(cfg.model, facts)).eval()
    cpu = cfg.trainer.accelerator == "cpu" or not torch.cuda.is_available()
    device = torch.device("cpu" if cpu else "cuda")
    folder = files.unused(Path(HydraConfig.get().runtime.output_dir) / "picture")
    arguments = {"tables": tables_beside(cfg.ckpt_path)}  # of a test of the same run
    if net is not None:
        where = cfg.timestep, cfg.block, cfg.noise, facts.get("backbone_sha256")
        done = normalisation(
            cfg.data.get("normalise") or "none", cfg.data.get("drop_channels") or ()
        )
        arguments["maps"] = see(image, net, *where, device, done)
    arguments = {key: value for key, value in arguments.items() if key in parameters}
    rows = model.to(device).look(image.to(device), folder=folder, **arguments)
    write_results(folder, describe_run(cfg), {"picture": rows}, time.perf_counter() - start)
    print_rows(rows)
    print(f"picture: {folder}")
