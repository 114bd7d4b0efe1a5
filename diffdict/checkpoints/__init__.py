"""Weights by name or path: fetched, verified, opened safely, fitted into a network, described."""

from diffdict.checkpoints.architecture import (
    GUIDED_UNET,
    PDAE,
    PDAE_FACTS,
    Architecture,
    infer_architecture,
)
from diffdict.checkpoints.description import Description, describe, inspect, verify
from diffdict.checkpoints.load import load_into, load_strictly
from diffdict.checkpoints.read import Weights, config_of, load_state_dict
from diffdict.checkpoints.released import (
    WEIGHTS,
    Released,
    check_domain,
    fetch,
    packaged,
    releases,
    resolve,
    sha256_at_hand,
)
from diffdict.checkpoints.resume import KeptRun, check_resumable, facts_of, kept_run, restore
from diffdict.checkpoints.write import save_whole

__all__ = [
    "GUIDED_UNET",
    "PDAE",
    "PDAE_FACTS",
    "WEIGHTS",
    "Architecture",
    "Description",
    "KeptRun",
    "Released",
    "Weights",
    "check_domain",
    "check_resumable",
    "config_of",
    "describe",
    "facts_of",
    "fetch",
    "infer_architecture",
    "inspect",
    "kept_run",
    "load_into",
    "load_state_dict",
    "load_strictly",
    "packaged",
    "releases",
    "resolve",
    "restore",
    "save_whole",
    "sha256_at_hand",
    "verify",
]
