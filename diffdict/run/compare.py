"""Makes reports on finished runs side by side: no torch, no checkpoint and no picture is read."""

import sys

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from diffdict.errors import UserError
from diffdict.reports.sweeps.collected import Collected, CollectsRuns
from diffdict.results.folders import find_runs
from diffdict.results.naming import labels_of_report
from diffdict.run.instantiate import make


def compare(cfg: DictConfig) -> None:
    """The reports on the finished runs that `runs` names."""
    nodes = [node for node in (cfg.report or {}).values() if node is not None]
    collecting = [issubclass(get_object(node._target_), CollectsRuns) for node in nodes]
    if not nodes or not all(collecting):
        reports = "report=none" if not nodes else f"report={' and '.join(map(str, cfg.report))}"
        raise UserError(
            f"runs={cfg.runs} is shown by report=heatmap, table or curve, not by {reports}: "
            "a single run is shown by ckpt_path="
        )
    runs = find_runs(OmegaConf.to_object(cfg.runs) if OmegaConf.is_config(cfg.runs) else cfg.runs)
    collected = [instantiate(node, _convert_="all").collect(runs) for node in nodes]
    names = [one.name for one in collected if isinstance(one, Collected)]
    labels = {"labels": labels_of_report(names, runs.finished)}
    loggers = [make(node, labels) for node in (cfg.logger or {}).values() if node is not None]
    for one in collected:
        one.log(loggers)
    if "wandb" in sys.modules and sys.modules["wandb"].run is not None:
        sys.modules["wandb"].finish()
