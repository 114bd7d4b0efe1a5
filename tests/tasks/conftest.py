"""A small store of tokens, sums of a few known directions, and short trainings on it."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from diffdict.features.noise import Noise
from diffdict.features.store import FeatureStore, Identity, store_path
from diffdict.features.store.shards import Stream
from diffdict.features.tokens import TokenDataModule
from diffdict.sae.topk import TopK
from diffdict.tasks.sae import Dictionaries

WIDTH, SIDE, PICTURES = 8, 4, 26  # 416 tokens; 24 pictures to learn from are 6 batches of 64


class Seen(pl.Callback):
    """The loss of every batch, and every figure as it is logged."""

    def __init__(self):
        self.losses, self.logged, self.figures = [], [], {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())
        self.logged.append({k: float(v) for k, v in trainer.logged_metrics.items()})


def write(root, split, seed, width=WIDTH, pictures=PICTURES):
    """A finished store of timestep 50, block 2: three of 24 directions a token, off the origin."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(24, width, generator=generator)
    generator.manual_seed(seed)
    weights = torch.rand(pictures * SIDE * SIDE, 24, generator=generator)
    weights *= torch.rand(weights.shape, generator=generator) < 3 / 24
    maps = (weights @ directions + 2).view(pictures, SIDE * SIDE, width)
    streams = [Stream(width, SIDE, SIDE, "fp32", 50, 2)]
    identity = Identity(
        dataset="sums",
        dataset_hash="0",
        split=split,
        pictures=pictures,
        image_size=SIDE,
        num_classes=0,
        class_names=[],
        ignore_label=None,
        backbone="net",
        backbone_sha256="0",
        noise=Noise().facts(),
        compute="fp32",
        pictures_per_shard=pictures,
    )
    store = FeatureStore.create(store_path(root, "sums", "net", split), identity, streams)
    writer = store.writer(streams[0].name, 0)
    for picture in maps:
        writer.add(picture)
    writer.finish()


@pytest.fixture
def logged_steps(monkeypatch):
    """`logged_steps(task, "train/lr")`: fills with the steps at which the task logs that figure."""

    def watch(task, figure):
        steps, log = [], task.log

        def noted(name, *args, **options):
            if name == figure:
                steps.append(task.global_step)
            return log(name, *args, **options)

        monkeypatch.setattr(task, "log", noted)
        return steps

    return watch


# every how many of seven steps → the steps that are logged, counted from 0
LOGGED = {0: [], 1: [0, 1, 2, 3, 4, 5, 6], 3: [2, 5], 7: [6], 8: []}


@pytest.fixture(params=LOGGED)
def logging(request):
    """`log_every_n_steps`, and which of seven steps it logs."""
    return request.param, LOGGED[request.param]


@pytest.fixture(scope="session")
def features(tmp_path_factory):
    """The folder of the stores."""
    root = tmp_path_factory.mktemp("features")
    write(root, "train", 1)
    write(root, "test", 2, pictures=4)
    return root


@pytest.fixture(scope="session")
def tokens(features):
    """`tokens(batch_size=64)`: the data module of that store."""

    def make(root=features, **options):
        asked = {"block": 2, "batch_size": 64, "window": 128, "strip": 16, "val_pictures": 2}
        names = {"dataset_name": "sums", "backbone_name": "net", "root": str(root)}
        return TokenDataModule(**{**names, **asked, **options})

    return make


@pytest.fixture(scope="session")
def task(tokens):
    """`task(Relu, {"sparsity": 0.1}, warmup_steps=4)`: the module with what the data knows."""

    def make(variant=TopK, sae=None, lr=1e-2, optimizer=torch.optim.Adam, data=None, **options):
        facts = (data or tokens()).facts
        known = {key: facts[key] for key in ("d_in", "mean", "scale")}
        chosen = {"scale": 3.0, **({"k": 2} if variant is TopK else {}), **(sae or {})}
        return Dictionaries(
            partial(variant, **chosen), partial(optimizer, lr=lr), **known, **options
        )

    return make


@pytest.fixture(scope="session")
def fit(tokens):
    """`fit(folder, steps, task)`: trains it, and says what was seen on the way."""

    def train(folder, steps, task, data=None, resume=None, every=100, **options):
        seen = Seen()
        keep = pl.callbacks.ModelCheckpoint(
            folder,
            filename="{step}",
            every_n_train_steps=every,
            save_top_k=-1,
            save_last=True,
            save_on_exception=True,
        )
        machine = {"accelerator": "cpu", "limit_val_batches": 0, "log_every_n_steps": 1}
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        trainer = pl.Trainer(
            max_steps=steps,
            callbacks=[seen, keep, *options.pop("callbacks", [])],
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
            **{**machine, **quiet, **options},
        )
        trainer.fit(task, data or tokens(), ckpt_path=resume, weights_only=True)
        seen.figures = {key: float(value) for key, value in trainer.callback_metrics.items()}
        return seen

    return train
