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


class SwitchedLatent(NamedTuple):
    """What became of a latent that was switched on in drawing; None is shown as a dash."""

    rise: float  # of its own code, in deviations of real pictures
    rise_null: float | None  # along random directions
    p: float | None
    rank: int  # of the rise among the changes of all latents
    area: float | None  # change of its class's share of the picture
    area_null: float | None  # its mean size along random directions
    pixels: float
    pixels_null: float | None
    rises: bool  # beyond random directions
    pairs: Sequence[tuple[int, int]]  # places in `pictures`: off and on, from one noise


class SwitchedContent(NamedTuple):
    """What a page shows of latents that were switched on in drawing."""

    latents: Sequence[SwitchedLatent]  # in the order of the page's
    of: int  # so many latents' changes were ranked
    random: Sequence[tuple[int, int]]  # pairs along random directions of equal length


class PageContent(NamedTuple):
    """A dictionary's concepts: all that a page shows."""

    title: str
    key: str  # tells dictionaries apart: names given by hand are kept under it
    facts: Mapping[str, str | int | float | None]  # shown at the top in this order
    classes: Sequence[Class]
    latents: Sequence[Latent]
    pictures: Sequence[PagePicture]
    edges: Sequence[float]  # of the histograms' bins, one more than these, ascending
    switched: SwitchedContent | None = None
