"""Weights by name or path: fetched, verified, opened safely, fitted into a network, described."""

from diffdict.checkpoints.counters import ExactCounters
from diffdict.checkpoints.fit import load_into, load_strictly
from diffdict.checkpoints.last import KeepLastStep
from diffdict.checkpoints.names import Released, fetch, packaged, released, resolve, sha256_at_hand
from diffdict.checkpoints.read import Weights, config_of, load_state_dict
from diffdict.checkpoints.resume import KeptRun, check_resumable, facts_of, kept_run, restore
from diffdict.checkpoints.summary import Description, describe, inspect, verify
from diffdict.checkpoints.whole import WholeCheckpoints, save_whole

__all__ = [
    "Description",
    "ExactCounters",
    "KeepLastStep",
    "KeptRun",
    "Released",
    "Weights",
    "WholeCheckpoints",
    "check_resumable",
    "config_of",
    "describe",
    "facts_of",
    "fetch",
    "inspect",
    "kept_run",
    "load_into",
    "load_state_dict",
    "load_strictly",
    "packaged",
    "released",
    "resolve",
    "restore",
    "save_whole",
    "sha256_at_hand",
    "verify",
]
