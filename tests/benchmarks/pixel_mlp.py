"""The ensemble of pixel classifiers against the published way: learning, and labelling a picture.

Learning: ten members, batches of 64, the same rows of pixels for both; the ensemble in its trainer,
the members one after the other in plain PyTorch (nn.Sequential, Adam as it comes). At 8448 channels
three quarters of the ensemble's time are two products that both ways need, at the speed of the
processor: there the way to more is trainer.precision=bf16-mixed. The last line also lets the
ensemble gather its pixels from maps; the members have their rows for nothing.
Labelling: one picture at 256², 8448 channels; the published way upsamples all maps, concatenates
them and takes every row through every member. Seconds are those of the CPU, one thread.
Targets: learning ≥ 2×; labelling ≥ 12×, the same labels on 99.99 %, memory ≤ 1/10.
"""

import multiprocessing
import resource
import statistics
import time
import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F

from diffdict.bilinear.maps import NativeMaps
from diffdict.classifiers.pixel_ensemble import Ensemble, Norm
from diffdict.features.pixels.data_module import PixelBatch, PixelLoader
from diffdict.tasks.pixel_mlp import PixelMLP

MEMBERS, BATCH, CLASSES, REPEATS = 10, 64, 21, 3
PUBLISHED = [(1024, 32), (512, 32), (512, 32), (512, 64), (256, 128)] * 3  # channels, side
TOY = [(96, 32), (64, 64), (64, 64)] * 2


class Setting(NamedTuple):
    """A network's maps and how long is measured."""

    name: str
    blocks: list[tuple[int, int]]
    size: int
    steps: int


SETTINGS = (Setting("8448 channels", PUBLISHED, 256, 12), Setting("448 channels", TOY, 64, 150))


def noise(setting: Setting, pictures: int) -> NativeMaps:
    """Maps of so many pictures, in fp16."""
    widths, sides = zip(*setting.blocks, strict=True)
    size = (setting.size, setting.size)
    grids = [(side, side) for side in sides]
    maps = NativeMaps.empty(pictures, widths, grids, size, torch.float16)
    for room in maps.maps:
        room.normal_()
    return maps


# ---------------------------------------------------------------- learning


class Rows:
    """The same few batches again and again."""

    def __init__(self, batches: list[PixelBatch], steps: int) -> None:
        self.batches, self.steps = batches, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self):
        return (self.batches[i % len(self.batches)] for i in range(self.steps))

    def only(self, members: list[int]) -> None:
        """All of them."""


class Clock(pl.Callback):
    """Seconds of the CPU for all but the first steps."""

    seconds = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step == 3:
            self.start = time.process_time()
        self.seconds = time.process_time() - getattr(self, "start", 0.0)


def sequential_rate(batches: list[PixelBatch], steps: int) -> float:
    """Pixels a second of ten members, one after the other."""
    seconds = 0.0
    for member in range(MEMBERS):
        net = classifier(batches[0].features.shape[2])
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        rows = [(batch.features[member], batch.labels[member]) for batch in batches]
        for step in range(steps + 3):
            if step == 3:
                start = time.process_time()
            x, y = rows[step % len(rows)]
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
        seconds += time.process_time() - start
    return steps * MEMBERS * BATCH / seconds


def classifier(d_in: int) -> nn.Sequential:
    """The published one."""
    first = [nn.Linear(d_in, 128), nn.ReLU(), nn.BatchNorm1d(128)]
    second = [nn.Linear(128, 32), nn.ReLU(), nn.BatchNorm1d(32)]
    return nn.Sequential(*first, *second, nn.Linear(32, CLASSES))


def ensemble_rate(d_in: int, loader: object, steps: int, precision: str = "32-true") -> float:
    """Pixels a second of the task, in its trainer."""
    adam = partial(torch.optim.Adam, lr=1e-3, fused=True)
    task, clock = PixelMLP(adam, d_in, CLASSES, members=MEMBERS, patience=None), Clock()
    quiet = dict.fromkeys(
        ("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False
    )
    run = {"max_steps": steps + 3, "callbacks": [clock], "precision": precision}
    trainer = pl.Trainer(accelerator="cpu", **run, **quiet)
    trainer.fit(task, loader)
    return steps * MEMBERS * BATCH / clock.seconds


def learning(setting: Setting) -> None:
    maps = noise(setting, pictures=2)
    labels = torch.randint(CLASSES, (2, setting.size, setting.size))
    loader = PixelLoader(maps, labels, None, BATCH, MEMBERS)
    taken = loader.batches(0, 0)
    batches = [next(taken) for _ in range(3)]
    batches = [PixelBatch(batch.features.clone(), batch.labels) for batch in batches]
    rows, steps = Rows(batches, 10**9), setting.steps
    runs = [
        (
            sequential_rate(batches, steps),
            ensemble_rate(maps.channels, rows, steps),
            ensemble_rate(maps.channels, rows, steps, "bf16-mixed"),
            ensemble_rate(maps.channels, loader, steps),
        )
        for _ in range(REPEATS)
    ]
    print(f"learning, {setting.name}, {MEMBERS} members, batches of {BATCH}")
    for i, name in enumerate(
        ("one after the other", "ensemble", "ensemble, bf16-mixed", "ensemble, from maps")
    ):
        rate = statistics.median(run[i] for run in runs)
        ratio = statistics.median(run[i] / run[0] for run in runs)
        target = "   (target ≥ 2)" if i == 1 else ""
        print(f"  {name:<21} {rate:8.0f} pixels/s, ratio {ratio:4.2f}{target}")


# ---------------------------------------------------------------- labelling


class Labelled(NamedTuple):
    """A picture's labels, and what they cost."""

    labels: Tensor
    uncertainty: float
    seconds: float
    extra: int  # bytes at the peak, beyond maps and members


def members() -> Ensemble:
    """Ten that have seen something."""
    ensemble = Ensemble(MEMBERS, sum(width for width, _ in PUBLISHED), CLASSES)
    for layer in ensemble.layers:
        if isinstance(layer, Norm):
            layer.running_mean.uniform_(0, 1)
            layer.running_var.uniform_(0.5, 2)
        elif hasattr(layer, "bias"):
            layer.bias.data.normal_(0, 0.3)
    return ensemble.eval()


@torch.no_grad()
def published_way(maps: NativeMaps, ensemble: Ensemble) -> tuple[Tensor, Tensor]:
    """As predict_labels of ddpm-segmentation does it, on features that collect_features made."""
    images = [image.float() for image in maps.images()]
    upsampled = [F.interpolate(image, maps.size, mode="bilinear") for image in images]
    features = torch.cat(upsampled, dim=1)[0]
    rows = features.view(len(features), -1).permute(1, 0)
    mean, entropies, labels = 0, [], []
    for i in range(MEMBERS):
        net = classifier(maps.channels).eval()
        state = ensemble.member(i)
        net.load_state_dict({key.removeprefix("layers."): x for key, x in state.items()})
        logits = net(rows)
        entropies.append(Categorical(logits=logits).entropy())
        mean = mean + logits.softmax(1)
        labels.append(logits.log_softmax(1).argmax(1).reshape(maps.size))
    doubt = Categorical(mean / MEMBERS).entropy() - torch.stack(entropies).mean(0)
    return torch.stack(labels, -1).mode(2).values, doubt.sort()[0][-len(doubt) // 10 :].mean()


def our_way(maps: NativeMaps, ensemble: Ensemble) -> tuple[Tensor, Tensor]:
    found = ensemble.predict(maps)
    doubt = found.uncertainty.flatten()
    return found.majority, doubt.topk(len(doubt) // 10).values.mean()


def measured(way: object, queue: multiprocessing.Queue) -> None:
    """In a process of its own, so that its peak is its own."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    maps, ensemble = noise(SETTINGS[0], pictures=1), members()
    before, start = resident(), time.process_time()
    labels, doubt = way(maps, ensemble)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    queue.put((labels.numpy(), float(doubt), seconds, peak - before))


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def labelling() -> None:
    context, found = multiprocessing.get_context("spawn"), {}
    for way in (published_way, our_way):
        runs = []
        for _ in range(1 if way is published_way else REPEATS):
            queue = context.Queue()
            process = context.Process(target=measured, args=(way, queue))
            process.start()
            runs.append(queue.get())
            process.join()
        labels, doubt, _, extra = runs[0]
        seconds = statistics.median(run[2] for run in runs)
        found[way] = Labelled(torch.from_numpy(labels), doubt, seconds, extra)
    plain, ours = found[published_way], found[our_way]
    same = 100 * float((plain.labels == ours.labels).double().mean())
    print(f"labelling one picture at 256², {MEMBERS} members, 8448 channels")
    for name, one in (("the published way", plain), ("ensemble", ours)):
        print(
            f"  {name:<21} {one.seconds:6.2f} s, {one.extra / 1e9:5.2f} GB beyond maps and members"
        )
    print(f"  ratio                 {plain.seconds / ours.seconds:6.1f}   (target ≥ 12)")
    print(f"  memory                {f'1/{plain.extra / ours.extra:.0f}':>6}   (target ≤ 1/10)")
    print(f"  the same labels       {same:7.3f} % of pixels   (target ≥ 99.99)")
    print(f"  uncertainty           {plain.uncertainty:.6f} and {ours.uncertainty:.6f}")


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    labelling()
    for setting in SETTINGS:
        learning(setting)


if __name__ == "__main__":
    main()
