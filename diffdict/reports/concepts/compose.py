"""What a dictionary's page shows, out of what was measured and what streamed by."""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from diffdict.metrics.concepts.assignment import NONE, best_class
from diffdict.metrics.concepts.findings import Findings
from diffdict.metrics.concepts.overlap import fit
from diffdict.reports.concepts.album import Album
from diffdict.reports.concepts.page import Class, Latent, PageContent, TopPicture
from diffdict.reports.concepts.strongest import Strongest
from diffdict.sae.base import Sae
from diffdict.sae.grid import ALONE

Fact = str | int | float | None
OPTIONS = ("k", "sparsity")  # of a dictionary, those worth a word
MEASURED = {"FVU": "fvu", "L0": "l0", "mAP": "map"}  # what a page calls some of a test's figures


def compose(
    sae: Sae,
    facts: Mapping[str, Fact],
    strongest: Strongest,
    findings: Findings | None,
    album: Album,
) -> PageContent:
    """All of the page; `facts` are shown at its top."""
    bins, shown = used_bins(strongest), shown_pictures(strongest)
    places = {picture: place for place, picture in enumerate(shown)}
    return PageContent(
        title=f"Concepts of {facts['dataset']}",
        key=key_of(sae),
        facts=facts,
        classes=page_classes(findings, album.palette),
        latents=page_latents(strongest, findings, bins, places),
        pictures=[album.picture(picture) for picture in shown],
        edges=strongest.edges[bins.start : bins.stop + 1].tolist(),
    )


def page_facts(
    sae: Sae, strongest: Strongest, album: Album, metrics: Mapping[str, Tensor], name: str
) -> dict[str, Fact]:
    """What the page says of a dictionary."""
    data, place = album.facts, "test/" if name == ALONE else f"test/{name}/"
    steps = dict.fromkeys(each["timestep"] for each in data["dims"])
    blocks = dict.fromkeys(each["block"] for each in data["dims"])
    options = {key: value for key, value in sae.options.items() if key in OPTIONS}
    figures = {
        label: metrics[place + key] for label, key in MEASURED.items() if place + key in metrics
    }
    return {
        "dataset": data["dataset"],
        "test pictures": album.looked,
        "backbone": data["backbone"],
        "timestep": ", ".join(str(step) for step in steps if step is not None) or None,
        "block": ", ".join(map(str, blocks)),
        "dictionary": sae.architecture.replace("_", " "),
        **options,
        "latents": sae.latents,
        "never active": int((strongest.density == 0).sum()),
        **{label: float(value) for label, value in figures.items()},
        **album.missing,
    }


def key_of(sae: Sae) -> str:
    """Tells a dictionary apart from every other: of its weights, wherever they lie."""
    digest = hashlib.sha256(sae.architecture.encode())
    for weight in (sae.W_enc, sae.b_enc, sae.W_dec):
        digest.update(weight.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def page_classes(findings: Findings | None, palette: Sequence[Sequence[int]]) -> list[Class]:
    """Each class with the latent that was chosen for it on the training pictures."""
    if findings is None:
        return []
    random, channels = (_test_iou(findings, name) for name in ("random", "channels"))
    absent = set(findings.best.absent_test)
    return [
        Class(
            name=row.name,
            colour=palette[place],
            latent=None if row.latent == NONE else row.latent,
            iou_train=float(row.train.iou),
            iou_test=float(row.test.iou),
            iwm=float(row.test.iwm),
            precision=float(row.test.precision),
            random=random[place],
            channel=channels[place],
            absent=row.name in absent,
        )
        for place, row in enumerate(findings.best.rows)
    ]


def _test_iou(findings: Findings, baseline: str) -> list[float | None]:
    """Of a baseline's choice for each class, where it was measured."""
    if baseline not in findings.baselines:
        return [None] * len(findings.class_names)
    return findings.baselines[baseline].test.iou.tolist()


def page_latents(
    strongest: Strongest, findings: Findings | None, bins: slice, places: Mapping[int, int]
) -> list[Latent]:
    """Every latent's figures and top pictures; `places` says where a picture is on the page."""
    classes, before, after = _own_classes(findings, len(strongest.sums))
    counts = strongest.counts[:, bins].numpy()
    figures = zip(strongest.density.tolist(), strongest.mean.tolist(), strict=True)
    return [
        Latent(
            number=number,
            density=density,
            mean=mean,
            best_class=classes[number],
            iou_train=before[number],
            iou_test=after[number],
            histogram=counts[number],
            top=[
                TopPicture(places[picture], maximum, levels.numpy())
                for picture, maximum, levels in strongest.top(number)
            ],
        )
        for number, (density, mean) in enumerate(figures)
    ]


def _own_classes(
    findings: Findings | None, latents: int
) -> tuple[list[int | None], list[float | None], list[float | None]]:
    """The class that each latent fits best on the training pictures, and its IoU on both splits."""
    if findings is None:
        return [None] * latents, [None] * latents, [None] * latents
    best = best_class(findings.train)
    has_class = (best.classes != NONE).tolist()
    test = _pairs_iou(findings, best.classes.clamp(min=0), best.thresholds)
    columns = best.classes.tolist(), best.score.tolist(), test.tolist()
    return tuple(
        [value if has else None for value, has in zip(column, has_class, strict=True)]
        for column in columns
    )


def _pairs_iou(
    findings: Findings, classes: Int64[Tensor, " latents"], thresholds: Int64[Tensor, " latents"]
) -> Float64[Tensor, " latents"]:
    """On the test pictures, of each latent with one class, at one of its thresholds."""
    every = torch.arange(len(classes), device=classes.device)
    both = findings.test.intersections[thresholds, classes, every]
    active = findings.test.active[thresholds, every]
    return fit(both, active, findings.test.pixels[classes]).iou


def used_bins(strongest: Strongest) -> slice:
    """From the first bin of the histograms that holds anything to the last."""
    used = strongest.counts.sum(0).nonzero()[:, 0].tolist()
    return slice(used[0], used[-1] + 1) if used else slice(0, 1)


def shown_pictures(strongest: Strongest) -> list[int]:
    """Those that are among the strongest of any latent, in ascending order."""
    every = (strongest.top(latent) for latent in range(len(strongest.sums)))
    return sorted({picture for top in every for picture, _, _ in top})
