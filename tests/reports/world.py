"""A small labelled world with a dictionary that is right about it, and all that a test finds."""

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from diffdict.bilinear.maps import NativeMaps
from diffdict.features.whole_pictures import LabelledPicture, SeenPicture
from diffdict.metrics.concepts.activations import Activations
from diffdict.metrics.concepts.assignment import choose, match, report
from diffdict.metrics.concepts.findings import Findings
from diffdict.metrics.concepts.overlap import Concepts
from diffdict.metrics.concepts.pre_activations import pre_of
from diffdict.metrics.concepts.ranking import TopLabels, rank, token_labels
from diffdict.reports.concepts.heights import token_maps
from diffdict.reports.subjects import MeasuredDictionary
from diffdict.sae.topk import BatchTopK, TopK

WIDTH, GRID, SIDE, PICTURES = 12, 6, 24, 5
CLASSES = ("sky", "sea", "ship", "sun")  # the sun never shines in the test pictures
PALETTE = [(90, 160, 250), (10, 60, 120), (200, 90, 30), (250, 220, 40)]


def build(variant=TopK, **options):
    """Latents 0 … 3 are the classes' directions, the others lie anywhere."""
    torch.manual_seed(0)
    chosen = {"k": 2, "latents": 20, "standardise": False, **options}
    sae = variant(WIDTH, **chosen).eval()
    with torch.no_grad():
        sae.W_enc[:4] = torch.eye(WIDTH)[:4]
        sae.W_dec[:4] = torch.eye(WIDTH)[:4]
        sae.W_enc[4:] = 0.3 * F.normalize(torch.randn(16, WIDTH), dim=1)
    if variant is BatchTopK:
        sae.threshold.fill_(0.4)
    return sae


class World(pl.LightningDataModule):
    """A data module of labelled pictures whose features are their classes' directions, blurred."""

    def __init__(self, labelled=True, at_hand=True, streams=1, dataset="world"):
        super().__init__()
        names = ["t0050-b04", "t0150-b04"][:streams]
        dims = [{"timestep": 50 + 100 * i, "block": 4} for i in range(streams)]
        self.facts = {
            "dataset": dataset,
            "backbone": "net",
            "class_names": CLASSES,
            "palette": PALETTE,
            "num_classes": 4,
            "labelled": labelled,
            "maps": names,
            "dims": dims,
            "ignore_label": 255,
        }
        self.at_hand, self.streams = at_hand, streams

    def mask(self, split, index):
        generator = torch.Generator().manual_seed(index + 100 * (split == "test"))
        mask = torch.zeros(SIDE, SIDE, dtype=torch.int64)
        mask[SIDE // 2 :] = 1
        x, y = torch.randint(2, SIDE - 12, (2,), generator=generator).tolist()
        mask[y : y + 10, x : x + 8] = 2
        if split == "train":
            mask[:6, :6] = 3
        mask[-1] = 255
        return mask

    def maps(self, split, index):
        mask = self.mask(split, index)
        shown = F.one_hot(mask.clamp(max=4), WIDTH).permute(2, 0, 1).float()
        small = F.avg_pool2d(shown, SIDE // GRID)
        generator = torch.Generator().manual_seed(index)
        small += 0.05 * torch.randn(small.shape, generator=generator)
        held = NativeMaps.empty(
            1, [WIDTH] * self.streams, [(GRID, GRID)] * self.streams, (SIDE, SIDE), torch.float32
        )
        for room in held.maps:
            room[0] = small.flatten(1).T
        return held

    def labelled(self, split):
        every = range(PICTURES)
        return [LabelledPicture(self.maps(split, i), self.mask(split, i), i) for i in every]

    def seen(self, split):
        known = self.facts["labelled"]
        return [
            SeenPicture(one.maps, one.mask if known else None, one.index)
            for one in self.labelled(split)
        ]

    def picture(self, split, index):
        shape = torch.full((3, SIDE, SIDE), index / PICTURES - 0.5)
        return shape if self.at_hand else None

    def picture_name(self, split, index):
        return f"world/{split}/{index:05d}"


def tokens_of(maps):
    """As `pre_of` takes them."""
    return token_maps(maps.images(), WIDTH)[0].permute(1, 2, 0)[None]


def measure_world(sae, data, levels=(0.0, 0.3, 0.6)):
    """As a test on labels does, in small."""
    ranked = sae.k if type(sae) is TopK else None
    floor = 0.0 if ranked else float(sae.threshold)
    floors = torch.full((sae.latents,), floor)
    seen = {
        split: [
            (pre_of(sae.pre, tokens_of(item.maps)), item.mask[None])
            for item in data.labelled(split)
        ]
        for split in ("train", "test")
    }
    activity = Activations(floors, ranked=ranked)
    for pre, _ in seen["test"]:
        activity.update(pre)
    thresholds = activity.compute().quantiles(list(levels))
    counts, purity = {}, None
    for split, items in seen.items():
        metric = Concepts(CLASSES, thresholds, ranked=ranked, ignore_label=255)
        tops = TopLabels(CLASSES, floors, ranked=ranked)
        for pre, mask in items:
            metric.update(pre, mask)
            tops.update(pre, token_labels(mask, (GRID, GRID), CLASSES, 255))
        counts[split], purity = metric.compute(), tops.compute()
    train, test = counts["train"], counts["test"]
    best = report(choose(train), train, test)
    return Findings(
        class_names=CLASSES,
        thresholds=thresholds,
        ranked=ranked,
        train=train,
        test=test,
        best=best,
        zero=report(choose(train, threshold=0), train, test),
        matched=report(match(train), train, test),
        second=choose(train, place=1),
        unions=[],
        activity=activity.compute(),
        ranking=rank(train, test, purity),
        baselines={"random": report(choose(train, place=2), train, test)},
        excess=[[0] for _ in CLASSES],
    )


class Tested(pl.LightningModule):
    """A task that has been tested."""

    __test__ = False  # for pytest, which looks for such names

    def __init__(self, data, **saes):
        super().__init__()
        self.evaluated = nn.ModuleDict(saes)
        labelled = data.facts["labelled"]
        self.findings = {n: measure_world(sae, data) for n, sae in saes.items() if labelled}

    def dictionaries(self):
        found = self.findings
        return {
            name: MeasuredDictionary(sae, found.get(name)) for name, sae in self.evaluated.items()
        }
