"""What a pipeline's scheduler says a timestep is: a step of a chain, or a share of noise."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch

from diffdict.backbones.hub.families.family import Family, diffusers_class
from diffdict.diffusion.flow import Flow
from diffdict.diffusion.pipeline import PipelineChain
from diffdict.diffusion.process import Process
from diffdict.diffusion.schedules import tables
from diffdict.errors import UserError

PREDICTS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}  # diffusers' words, and ours
FLOW = "FlowMatch"  # how the names of schedulers of straight lines begin


def process_of(config: Mapping, family: Family, predict: str, name: str) -> tuple[Process, str]:
    """The process of a scheduler's config, and what a network of it predicts.

    An empty config is diffusers' own default, linear betas.
    """
    kind = config.get("_class_name", "DDPMScheduler")
    scheduler = partial(_ready, family, kind, dict(config))
    if kind.startswith(FLOW):
        return Flow(config.get("num_train_timesteps", 1000), scheduler), "flow"
    prediction = PREDICTS.get(config.get("prediction_type", ""), predict)
    if prediction != predict:
        raise UserError(
            f"{name} learned to predict {prediction}, got predict={predict}: say "
            f"backbone.predict={prediction}"
        )
    betas = diffusers_class("DDPMScheduler").from_config(dict(config)).betas.double()
    return PipelineChain.of(tables(betas, torch.arange(len(betas))), scheduler), predict


def _ready(family: Family, kind: str, config: dict, steps: int, shape: Sequence[int]) -> object:
    """A fresh scheduler, for steps change its state."""
    scheduler = diffusers_class(kind).from_config(config)
    family.set_steps(scheduler, steps, shape)
    return scheduler
