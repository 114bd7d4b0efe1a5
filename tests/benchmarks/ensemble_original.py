"""The published ensemble's loop beside task=pixel_mlp: do both learn segmenters as good?

On one side the loop of ddpm-segmentation (Baranchuk et al. 2022): members one after the other,
torch's own shuffle, nn.Sequential, Adam, the stop by the losses of single batches. On the other the
task in its trainer, as conf/task/pixel_mlp.yaml has it, on the same pixels. Each seed gives an
ensemble a side, with nothing in common. Expected: the mean mIoU of members and of ensembles equal
within two standard errors, and so the steps after which members stop (one comparison in twenty is
not, by chance). --same start and --same order give the original's loop what the task has, one thing
at a time. Ten seeds take half an hour of one core:

    python tests/benchmarks/ensemble_original.py --seeds 10
    python tests/benchmarks/ensemble_original.py --seeds 10 dataset=folder dataset.path=… \\
        dataset.image_size=64 dataset.train_pictures=12 backbone=toy_ddpm timestep=50 block=3
"""

import argparse
import logging
import statistics
import warnings
from itertools import islice, pairwise
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from diffdict.classifiers.pixel_ensemble import Ensemble, majority
from diffdict.cli.paths import folder
from diffdict.features.pixels import PixelDataModule
from diffdict.features.whole_pictures import LabelledPicture
from diffdict.metrics.segmentation import Segmentation
from diffdict.run.instantiate import drop_unset, make
from diffdict.seeds import permutation
from diffdict.tasks.pixel_mlp import PixelMLP

WORDS = ["task=pixel_mlp", "data.source=live", "data.dtype=fp32"]
FACES = ["dataset=toy_faces", "timestep=50", "block=3"]
SEEDS, TEST_PICTURES, BATCH = 3, 40, 64
VOTES = ("majority", "soft")


class Learned(NamedTuple):
    """An ensemble, and the step after which each member stopped."""

    ensemble: Ensemble
    steps: list[int]


class Result(NamedTuple):
    """mIoU in percent: of the ensemble by each vote, and of each member."""

    votes: dict[str, float]
    members: list[float]
    steps: list[int]


class Pixels(Dataset):
    """All labelled pixels in memory, read by a batch of indices at a time."""

    def __init__(self, data: PixelDataModule) -> None:
        loader = data.train_dataloader()
        self.x, self.y = loader.read(loader.kept)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return self.x[indices], self.y[indices]


# ---------------------------------------------------------------- the original


def classifier(ensemble: Ensemble) -> nn.Sequential:
    """The published network, with its own start from torch's global generator."""
    sizes, layers = [ensemble.d_in, *ensemble.hidden], []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.BatchNorm1d(outputs)]
    net = nn.Sequential(*layers, nn.Linear(sizes[-1], ensemble.num_classes))
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    return net


def train(net: nn.Sequential, pixels: Pixels, order: object) -> int:
    """The published loop; the step that it stopped after."""
    loader = DataLoader(pixels, sampler=order, batch_size=None)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    net.train()
    iteration, best_loss, break_count = 0, 10_000_000.0, 0
    for epoch in range(100):
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            iteration += 1
            if epoch > 3:
                if loss.item() < best_loss:
                    best_loss, break_count = loss.item(), 0
                else:
                    break_count += 1
                if break_count > 50:
                    return iteration
    return iteration


class OurOrder:
    """The batches of one member of the task, in place of torch's own."""

    def __init__(self, count: int, seed: int, member: int) -> None:
        self.count, self.seed, self.member, self.epoch = count, seed, member, 0

    def __iter__(self):
        order = permutation(self.count, self.seed, self.epoch, self.member)
        self.epoch += 1
        return iter(order[: self.count // BATCH * BATCH].view(-1, BATCH).tolist())


def original(net: Ensemble, pixels: Pixels, seed: int, same: list[str]) -> Learned:
    """An ensemble as published; `same`: what of the task's, its start or its order, it takes."""
    torch.manual_seed(seed)
    steps = []
    for i, member in enumerate([net.member(i) for i in range(net.members)]):
        one = classifier(net)
        if "start" in same:
            one.load_state_dict({key.removeprefix("layers."): x for key, x in member.items()})
        order = BatchSampler(RandomSampler(pixels), BATCH, drop_last=True)
        if "order" in same:
            order = OurOrder(len(pixels), seed, i)
        steps.append(train(one, pixels, order))
        state = {f"layers.{key}": x for key, x in one.state_dict().items()}
        net.set_member(i, state, "the original's loop")
    return Learned(net, steps)


# ---------------------------------------------------------------- the task


def make_task(cfg: DictConfig, data: PixelDataModule, seed: int) -> PixelMLP:
    """As it begins with this seed."""
    cfg.seed = data.seed = seed
    return make(cfg.model, data.facts)


def task(model: PixelMLP, data: PixelDataModule, epochs: int) -> Learned:
    """An ensemble of task=pixel_mlp."""
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "logger": False}
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        enable_model_summary=False,
        use_distributed_sampler=False,
        **quiet,
    )
    trainer.fit(model, data)
    return Learned(model.net, model.net.steps.tolist())


# ---------------------------------------------------------------- what they are worth


@torch.no_grad()
def measure(learned: Learned, pictures: list[LabelledPicture], ignored: int | None) -> Result:
    """On pictures that neither has seen."""
    ensemble, steps = learned
    metrics = [Segmentation(ensemble.num_classes, ignored) for _ in (*VOTES, *steps)]
    for maps, mask, *_ in pictures:
        logits = torch.cat([part for _, part in ensemble.pixels(maps)], 1)
        labels = logits.argmax(-1)
        votes = majority(labels, ensemble.num_classes), logits.softmax(-1).mean(0).argmax(-1)
        for metric, found in zip(metrics, (*votes, *labels), strict=True):
            metric.update(found.view_as(mask), mask)
    figures = [100 * metric.compute().miou() for metric in metrics]
    return Result(dict(zip(VOTES, figures, strict=False)), figures[len(VOTES) :], steps)


def mean(values: list[float]) -> tuple[float, float, float]:
    """Mean, standard deviation and standard error."""
    spread = statistics.stdev(values)
    return statistics.fmean(values), spread, spread / len(values) ** 0.5


def compare(name: str, theirs: list[float], ours: list[float]) -> None:
    """A line: both, and whether they differ by more than two standard errors."""
    (their_mean, their_sd, their_error), (our_mean, our_sd, our_error) = mean(theirs), mean(ours)
    difference, error = our_mean - their_mean, (their_error**2 + our_error**2) ** 0.5
    verdict = "equal within two" if abs(difference) <= 2 * error else "DIFFERENT by more than two"
    print(
        f"{name:<18} original {their_mean:8.2f} ± {their_error:.2f} (sd {their_sd:6.2f})"
        f"   task {our_mean:8.2f} ± {our_error:.2f} (sd {our_sd:6.2f})"
        f"   difference {difference:+6.2f} ± {error:.2f}: {verdict} standard errors"
    )


def figures(results: list[Result]) -> dict[str, list[float]]:
    return {
        "members": [figure for result in results for figure in result.members],
        **{f"{vote} vote": [result.votes[vote] for result in results] for vote in VOTES},
        "steps": [float(steps) for result in results for steps in result.steps],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="dataset=… and what else a command would have")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--test-pictures", type=int, default=TEST_PICTURES)
    parser.add_argument("--same", action="append", default=[], choices=["start", "order"])
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    words = asked.words or FACES
    with initialize_config_dir(folder("conf"), version_base="1.3"):
        cfg = compose("train", [*WORDS, *words])
    data = make(drop_unset(cfg.data))
    data.setup("fit")
    pictures, pixels = list(islice(data.labelled("test"), asked.test_pictures)), Pixels(data)
    ignored, found = data.facts["ignore_label"], {"original": [], "task": []}
    batches = len(pixels) // BATCH
    print(" ".join(words), f"{data.facts['d_in']} channels, {batches} batches an epoch, seeds:")
    for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
        start = make_task(cfg, data, seed).net
        learned = (
            original(start, pixels, seed, asked.same),
            task(make_task(cfg, data, seed), data, cfg.trainer.max_epochs),
        )
        for side, one in zip(found, learned, strict=True):
            result = measure(one, pictures, ignored)
            found[side].append(result)
            print(
                f"  {seed} {side:<9} {statistics.fmean(result.members):.2f}",
                *(f"{vote} {figure:.2f}" for vote, figure in result.votes.items()),
                f"steps {min(result.steps)}–{max(result.steps)}",
                flush=True,
            )
    theirs, ours = figures(found["original"]), figures(found["task"])
    for name in theirs:
        compare(name, theirs[name], ours[name])


if __name__ == "__main__":
    main()
