"""Fixtures that every test may use: the golden cases, one thread, and no network."""

import json
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from omegaconf import OmegaConf
from torch import Tensor, nn

settings.register_profile(  # no test times anything
    "house", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("house")
GOLDEN = Path(__file__).parent / "golden"
pytest_plugins = ["tests.isolation"]


class Golden(NamedTuple):
    """One golden case: what the original was given and what it answered."""

    facts: dict  # the JSON: config, state_dict, inputs, outputs
    arrays: dict[str, np.ndarray]  # the stored, sub-sampled outputs

    def fill(self, net: nn.Module) -> nn.Module:
        """Keys and shapes checked, then every float entry set by the case's weight rule."""
        state = net.state_dict()
        prefix = self.facts.get("weight_key_prefix", "")
        ours = {key: list(value.shape) for key, value in state.items()}
        theirs = {key: shape for key, shape, _ in self.facts["state_dict"]}
        assert ours == theirs
        with torch.no_grad():
            for key, value in state.items():
                if value.is_floating_point():
                    value.copy_(ruled_weight(prefix + key, tuple(value.shape)))
        for probe in self.facts.get("weight_probe", ()):
            first3 = state[probe["key"]].flatten()[:3]
            torch.testing.assert_close(first3, torch.tensor(probe["first3"])[: len(first3)])
        return net.eval()

    def weight(self, key: str, shape: tuple[int, ...]) -> Tensor:
        """What the case's rule gives to this key, whose prefix is part of it."""
        return ruled_weight(key, shape)

    def check(self, name: str, got: Tensor | np.ndarray) -> None:
        """The output of that name, against ours, under the case's own tolerance."""
        fact = next(output for output in self.facts["outputs"] if output["name"] == name)
        got = got.detach().cpu().numpy() if isinstance(got, Tensor) else np.asarray(got)
        assert list(got.shape) == fact["shape"], f"{name}: shape {got.shape}"
        ours, theirs = got.reshape(-1)[:: fact["stride"]], self.arrays[name]
        if not np.issubdtype(theirs.dtype, np.floating):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
            return
        np.testing.assert_allclose(
            ours,
            theirs,
            atol=fact["tolerance_atol"],
            rtol=fact.get("tolerance_rtol", 0.0),
            err_msg=name,
        )


def ruled_weight(key: str, shape: tuple[int, ...]) -> Tensor:
    """The weight that the golden rule gives to this key (see weight_rule in any case)."""
    a = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape, dtype=np.float32)
    if key.endswith("running_var"):
        a = 1 + np.float32(0.1) * np.abs(a)
    elif len(shape) == 1 and key.endswith("weight"):
        a = 1 + np.float32(0.1) * a
    elif len(shape) == 1:
        a = np.float32(0.1) * a
    elif shape:
        a = a / np.float32(math.sqrt(math.prod(shape) / shape[0]))
    return torch.from_numpy(np.asarray(a, dtype=np.float32))


@pytest.fixture(scope="session")
def golden():
    """`golden("gd_unet_tiny")` reads one case."""

    def read(name: str) -> Golden:
        facts = json.loads((GOLDEN / f"{name}.json").read_text())
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            return Golden(facts, dict(arrays))

    return read


def nested(settings: dict, into: dict) -> dict:
    """A copy of a config with these settings, whose keys may have points."""
    config = OmegaConf.create(into)
    for key, value in settings.items():
        OmegaConf.update(config, key, value)
    return OmegaConf.to_container(config)


@pytest.fixture
def sweep(tmp_path):
    """`sweep({"block": 3, "test/fvu": 0.1}, …)`: folders as the jobs of a sweep leave them.

    Keys with a slash are what was measured, all others what was typed.
    """

    def write(
        *jobs: dict,
        task="sae",
        name="sweep",
        classes=("sky", "sea"),
        maps=(),
        cells=(),
        **config,
    ):
        for number, job in enumerate(jobs):
            metrics = {key: value for key, value in job.items() if "/" in key}
            typed = {key: value for key, value in job.items() if "/" not in key}
            shared = {"dataset": {"name": "toy"}, "timestep": 50, "block": 6, "seed": 0, **config}
            results = {
                "format": 1,
                "door": "train",
                "task": task,
                "overrides": [f"{key}={value}".replace(" ", "") for key, value in typed.items()],
                "choices": {"sae": typed.get("sae", "topk")},
                "config": nested({key: v for key, v in typed.items() if key != "sae"}, shared),
                "facts": {"class_names": list(classes), "maps": list(maps)},
                "metrics": metrics,
                "tables": {"cells": list(cells)} if cells else {},
            }
            folder = tmp_path / name / str(number)
            (folder / ".hydra").mkdir(parents=True)
            (folder / "results.json").write_text(json.dumps(results))
        return tmp_path / name

    return write


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Two cores are shared by everything that runs: a test takes one."""
    torch.set_num_threads(1)
