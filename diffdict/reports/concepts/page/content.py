"""What a page of concepts shows: plain figures and bytes, computed elsewhere."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8


class PagePicture(NamedTuple):
    """One picture of the page, embedded once however many latents show it."""

    name: str  # said under it
    data: bytes  # of a PNG or JPEG file
    mask: UInt8[np.ndarray, "height width"] | None = None  # places in `classes`; others are ignored


class TopPicture(NamedTuple):
    """One of a latent's top pictures."""

    picture: int  # place in `pictures`
    maximum: float  # activation that 255 stands for
    map: UInt8[np.ndarray, "h w"]  # activations at native resolution; one h × w on a page


class Latent(NamedTuple):
    """A latent's figures; None, like NaN, is shown as a dash."""

    number: int  # in the dictionary; #latent-<number> leads here
    density: float  # share of tokens in which it is active
    mean: float | None  # activation where it is active
    best_class: int | None  # place in `classes`, chosen on the training pictures
    iou_train: float | None  # with that class
    iou_test: float | None
    histogram: Int[np.ndarray, " bins"]  # active tokens by activation, between `edges`
    top: Sequence[TopPicture] = ()  # strongest first


class Class(NamedTuple):
    """A class and the latent that was chosen for it on the training pictures."""

    name: str
    colour: Sequence[int]  # red, green, blue, 0 to 255
    latent: int | None  # number of the best one
    iou_train: float | None
    iou_test: float | None
    iwm: float | None  # on test, like all that follows: share of the mask that is covered
    precision: float | None  # share of the active area that is mask
    random: float | None = None  # IoU of the best of as many random directions
    channel: float | None = None  # IoU of the best raw channel
    absent: bool = False  # from the test pictures: left out of the mean


class PageContent(NamedTuple):
    """A dictionary's concepts: all that a page shows."""

    title: str
    key: str  # tells dictionaries apart: names given by hand are kept under it
    facts: Mapping[str, str | int | float | None]  # shown at the top in this order
    classes: Sequence[Class]
    latents: Sequence[Latent]
    pictures: Sequence[PagePicture]
    edges: Sequence[float]  # of the histograms' bins, one more than these, ascending
