"""Shows how badly colour and position alone segment toy faces: their pixel ensemble's mIoU."""

import sys
import time

import torch
from torch import Tensor, nn

from diffdict.data.toy_faces import ToyFaces

MEMBERS, BATCH, EPOCHS, PATIENCE = 10, 64, 100, 50
GOAL = 0.45  # below this the set needs semantics


def table(split: str) -> tuple[Tensor, Tensor, int, list[str]]:
    """Every pixel of a split as (r, g, b, x, y) in [-1, 1], with its class."""
    pictures = ToyFaces(split=split)
    axis = torch.linspace(-1, 1, pictures.image_size)
    position = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))
    rows, labels = [], []
    for item in pictures:
        rows.append(torch.cat([item["image"], position]).flatten(1).T)
        labels.append(item["mask"].flatten())
    return torch.cat(rows), torch.cat(labels), pictures.num_classes, pictures.class_names


class Ensemble(nn.Module):
    """Ten D-128-32-C networks, ReLU then BatchNorm, as one product (Baranchuk et al. 2022)."""

    def __init__(self, inputs: int, classes: int):
        super().__init__()
        sizes = [(inputs, 128), (128, 32), (32, classes)]
        self.weights = nn.ParameterList(0.02 * torch.randn(MEMBERS, *size) for size in sizes)
        self.biases = nn.ParameterList(torch.zeros(MEMBERS, 1, size[1]) for size in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm1d(MEMBERS * width) for _, width in sizes[:2])

    def forward(self, rows: Tensor) -> Tensor:
        for weight, bias, norm in zip(self.weights, self.biases, [*self.norms, None], strict=True):
            rows = torch.baddbmm(bias, rows, weight)
            if norm is not None:
                members, batch, width = rows.shape
                flat = rows.relu().transpose(0, 1).reshape(batch, members * width)
                rows = norm(flat).view(batch, members, width).transpose(0, 1)
        return rows


def train(net: Ensemble, rows: Tensor, labels: Tensor) -> int:
    """Until every member went PATIENCE steps without a better batch, from epoch 4 on."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    best, waited = torch.full((MEMBERS,), 1e9), torch.zeros(MEMBERS)
    kept, step = [p.detach().clone() for p in net.state_dict().values()], 0
    running = torch.ones(MEMBERS, dtype=torch.bool)
    for epoch in range(EPOCHS):
        orders = torch.stack([torch.randperm(len(rows)) for _ in range(MEMBERS)])
        for batch in orders[:, : len(rows) // BATCH * BATCH].split(BATCH, dim=1):
            logits = net(rows[batch])
            losses = nn.functional.cross_entropy(
                logits.flatten(0, 1), labels[batch].flatten(), reduction="none"
            )
            losses = losses.view(MEMBERS, BATCH).mean(1)
            optimizer.zero_grad()
            losses.sum().backward()
            optimizer.step()
            step += 1
            if epoch < 4:
                continue
            better = losses.detach() < best
            best = torch.where(better, losses.detach(), best)
            waited = torch.where(better, 0, waited + 1)
            stopped = running & (waited > PATIENCE)
            if stopped.any():
                freeze(net, kept, stopped)
                running &= ~stopped
            if not running.any():
                break
        if not running.any():
            break
    freeze(net, kept, running)
    for ours, stored in zip(net.state_dict().values(), kept, strict=True):
        ours.copy_(stored)
    return step


def freeze(net: Ensemble, kept: list[Tensor], members: Tensor) -> None:
    """Keep what these members are now."""
    for ours, stored in zip(net.state_dict().values(), kept, strict=True):
        if ours.dim():
            per_member = (MEMBERS, -1)
            stored.view(per_member)[members] = ours.view(per_member)[members]


def vote(net: Ensemble, rows: Tensor) -> Tensor:
    """The members' majority for every row, ties to the smallest class."""
    net.eval()
    with torch.no_grad():
        parts = [net(part.expand(MEMBERS, -1, -1)).argmax(-1) for part in rows.split(16384)]
    return torch.cat(parts, dim=1).mode(dim=0).values


def main() -> None:
    torch.manual_seed(0)
    start = time.perf_counter()
    rows, labels, classes, names = table("train")
    net = Ensemble(rows.shape[1], classes)
    steps = train(net, rows, labels)
    rows, labels, _, _ = table("test")
    pairs = torch.bincount(labels * classes + vote(net, rows), minlength=classes**2)
    pairs = pairs.view(classes, classes)
    inter = pairs.diag()
    iou = inter / (1e-8 + pairs.sum(0) + pairs.sum(1) - inter)
    share = pairs.sum(1) / pairs.sum()
    for name, value, part in zip(names, iou.tolist(), share.tolist(), strict=True):
        print(f"{name:12} IoU {100 * value:5.1f} %   share {100 * part:5.2f} %")
    print(f"RGB + position, {steps} steps, {time.perf_counter() - start:.0f} s: ", end="")
    print(f"test mIoU {100 * iou.mean():.1f} %, goal < {100 * GOAL:.0f} %")
    sys.exit(int(iou.mean() >= GOAL))


if __name__ == "__main__":
    main()
