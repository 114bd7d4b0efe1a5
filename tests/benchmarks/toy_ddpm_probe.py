"""What the packaged diffusion model knows: logistic regression on one block, and RGB + position.

Twenty labelled training pictures, one linear layer a (timestep, block); the place is chosen on the
validation pictures and measured on the hundred test pictures, mIoU over the whole set.
"""

import argparse
from collections.abc import Callable

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.nn import functional as F

from diffdict.backbones.base import Backbone
from diffdict.backbones.pixels import Pixels
from diffdict.cli.paths import folder
from diffdict.data.toy_faces import ToyFaces

TIMESTEPS = (10, 50, 100, 200, 300, 400)


def pictures(split: str) -> tuple[Tensor, Tensor]:
    faces = ToyFaces(split=split)
    samples = [faces[i] for i in range(len(faces))]
    return torch.stack([s["image"] for s in samples]), torch.stack([s["mask"] for s in samples])


@torch.no_grad()
def seen(net: Backbone, images: Tensor, timestep: int | None) -> dict[object, Tensor]:
    """Every block's native maps; one noise for all pictures."""
    noise = torch.randn(1, *images.shape[1:], generator=torch.Generator().manual_seed(0))
    parts = [net.features(part, timestep, noise=noise) for part in images.split(20)]
    return {block: torch.cat([part[block] for part in parts]) for block in parts[0]}


def pixels(maps: Tensor, side: int) -> Tensor:
    """[pictures × side², channels], bilinear."""
    return F.interpolate(maps.float(), (side, side), mode="bilinear").movedim(1, 3).flatten(0, 2)


def regression(x: Tensor, y: Tensor, classes: int) -> Callable[[Tensor], Tensor]:
    """Multinomial logistic regression on standardised features, by L-BFGS."""
    mean, scale = x.mean(0), x.std(0).clamp(min=1e-4)
    linear = nn.Linear(x.shape[1], classes)
    nn.init.zeros_(linear.weight)
    x = (x - mean) / scale
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(linear(x), y) + 1e-4 * linear.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return lambda maps: linear((maps - mean) / scale).argmax(1)


def miou(predicted: Tensor, truth: Tensor, classes: int) -> float:
    """Intersections and unions summed over the set, mean over classes."""
    counts = torch.bincount(truth * classes + predicted, minlength=classes**2)
    counts = counts.view(classes, classes).double()
    inter = counts.diagonal()
    return 100 * float((inter / (counts.sum(0) + counts.sum(1) - inter + 1e-8)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="toy_ddpm")
    parser.add_argument("--timesteps", type=int, nargs="+", default=TIMESTEPS)
    options = parser.parse_args()
    data = {split: pictures(split) for split in ("train", "val", "test")}
    faces = ToyFaces(split="test")
    side, classes = faces.image_size, faces.num_classes
    with initialize_config_dir(folder("conf"), version_base="1.3"):
        cfg = compose("extract", [f"backbone.checkpoint={options.checkpoint}"])
    net = instantiate(cfg.backbone).eval()
    scores: dict[object, tuple[float, float]] = {}
    for backbone, timestep in [(Pixels(side), None), *((net, t) for t in options.timesteps)]:
        maps = {split: seen(backbone, images, timestep) for split, (images, _) in data.items()}
        for block in maps["train"]:
            predict = regression(
                pixels(maps["train"][block], side), data["train"][1].flatten(), classes
            )
            scores[timestep, block] = tuple(
                miou(predict(pixels(maps[split][block], side)), data[split][1].flatten(), classes)
                for split in ("val", "test")
            )
            val, test = scores[timestep, block]
            print(f"timestep {timestep} block {block}: val {val:.1f} test {test:.1f}", flush=True)
    floor = scores.pop((None, "pixels"))[1]
    (timestep, block), (_, best) = max(scores.items(), key=lambda item: item[1][0])
    print(f"RGB + position {floor:.1f} mIoU; timestep {timestep} block {block} {best:.1f}")
    print(f"ahead by {best - floor:.1f} points (goal 20)")


if __name__ == "__main__":
    main()
