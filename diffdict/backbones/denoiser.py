"""What every denoising network offers: how it noises, what it can be given, edits of its maps."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, no_type_check

from jaxtyping import Bool, Float, Int
from torch import Tensor

from diffdict.backbones.autoencoders.latents import LatentEncoder
from diffdict.backbones.base import Backbone, Block, Timestep
from diffdict.diffusion.process import Process, noised_at
from diffdict.errors import UserError

Edit = Callable[[Tensor, Tensor], Tensor]  # (a block's map, timesteps [batch]) → its new map
Edits = Mapping[Block, Edit]


class Condition(NamedTuple):
    """What a network must be given; None: nothing of the kind."""

    classes: int | None = None  # a label, one of so many
    width: int | None = None  # a vector, so wide
    optional: bool = False  # whether it also works without the vector


class Given(NamedTuple):
    """What a network is given beside x_t and t."""

    label: Int[Tensor, " batch"] | None = None
    vector: Float[Tensor, "*batch width"] | None = None  # one alone serves all pictures
    augmentation: Float[Tensor, "batch labels"] | None = None  # what was done to it; None: nothing
    told: Bool[Tensor, " batch"] | None = None  # which pictures have their vector; None: all


class Denoiser(Backbone):
    """A network that tells noise from picture; the constructor of a subclass sets these."""

    process: Process
    predict: str  # what its output is: eps, x0 or v
    condition: Condition = Condition()
    augmentations: int = 0  # how many labels it can be told of what was done to its picture
    learned_with: Mapping[str, str] = MappingProxyType({})  # whose vectors, and how often none
    encoder: LatentEncoder | None = None  # the autoencoder of its latents
    decodes: bool = False  # whether it denoises latents, which `pictures` makes pictures of

    @property
    def drop(self) -> float:
        """The share of pictures that it learned without their vector; of released ones 0."""
        return float(self.learned_with.get("drop", 0))

    @abstractmethod
    def forward(
        self,
        x_t: Float[Tensor, "batch 3 height width"],
        t: Int[Tensor, " batch"],
        given: Given | Tensor | None = None,
        edits: Edits | None = None,
    ) -> Float[Tensor, "batch out height width"]:
        """The network's prediction at timesteps t.

        An edit is applied where its block's map is made, and all that follows goes on with it.
        """

    @no_type_check
    def forward_each(
        self,
        x_t: Tensor,
        t: Tensor,
        given: Given | Tensor | None = None,
        edits: Sequence[Edits | None] = (),
    ) -> list[Tensor]:
        """The prediction under each of several edits; what lies below them may be shared."""
        return [self(x_t, t, given, each) for each in edits]

    @property
    def num_timesteps(self) -> int:
        """The length of its process."""
        return self.process.steps

    @property
    def first_timestep(self) -> int:
        """What its process calls the least noisy step."""
        return int(self.process.timesteps[0])

    def noise_level(self, timestep: int | None) -> float | None:
        """The noise's deviation at a timestep for a signal of size 1."""
        if timestep is None:
            return None
        return float(self.process.noise_levels[timestep - self.first_timestep])

    def noised(
        self,
        images: Float[Tensor, "batch channels height width"],
        timestep: Timestep,
        noise: Float[Tensor, "..."] | None = None,
    ) -> tuple[Float[Tensor, "batch channels height width"], Int[Tensor, " batch"]]:
        """The pictures at a timestep, or at one each, once a picture; fresh noise for None."""
        several = isinstance(timestep, Tensor)
        for each in timestep.unique().tolist() if several else [timestep]:
            self.check_timestep(each)
        return noised_at(self.process, images, timestep, noise)

    def pictures(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 3 _ _"]:
        """What its process ends in, as pictures in [-1, 1]."""
        return x

    def check_given(self, given: Given | Tensor | None) -> Given:
        """What it is given, where that is what it takes; labels may come as they are."""
        given = Given(label=given) if isinstance(given, Tensor) else given or Given()
        for kind, value, wanted in (
            ("label", given.label, self.condition.classes),
            ("vector", given.vector, self.condition.width),
        ):
            if value is None and kind == "vector" and self.condition.optional:
                continue
            if (value is None) != (wanted is None):
                takes = f"no {kind}" if wanted is None else f"a {kind} ({wanted})"
                raise UserError(
                    f"{self.name} takes {takes}, got {'none' if value is None else 'one'}: "
                    f"give it Given({'' if wanted is None else f'{kind}=…'})"
                )
        width = self.condition.width if given.vector is None else given.vector.shape[-1]
        if width != self.condition.width:
            raise UserError(
                f"{self.name} takes vectors of width {self.condition.width}, got {width}: give it "
                "those of the representation that it learned with"
            )
        if given.augmentation is not None and given.augmentation.shape[1] != self.augmentations:
            raise UserError(
                f"{self.name} takes {self.augmentations} labels of an augmentation, got "
                f"{given.augmentation.shape[1]}: build it with augment_dim="
                f"{given.augmentation.shape[1]}, or give it none"
            )
        return given

    def check_edits(self, edits: Edits | None) -> Edits:
        """Edits of blocks that there are."""
        if unknown := [block for block in edits or () if block not in self.shapes]:
            names = ", ".join(map(str, self.shapes))
            raise UserError(f"{self.name} has no block {unknown[0]!r} to edit. Its blocks: {names}")
        return edits or {}


def edited(edit: Edit, h: Tensor, t: Tensor, block: Block) -> Tensor:
    """A block's map after its edit, which has the map's shape and dtype."""
    changed = edit(h, t)
    if changed.shape != h.shape:
        raise UserError(
            f"An edit answers with a map like the one it was given, {list(h.shape)} at block "
            f"{block}, got {list(changed.shape)}"
        )
    return changed.to(h.dtype)


def check_denoiser(net: Backbone, purpose: str, latents: bool = False) -> Denoiser:
    """The network, where it denoises pictures; `purpose` is what was to be done with it.

    `latents` will do where it makes pictures of them.
    """
    if not isinstance(net, Denoiser):
        raise UserError(
            f"{net.name} is no diffusion network, and {purpose}: backbone=guided_unet or "
            "backbone=toy_ddpm"
        )
    picture = (3, net.image_size, net.image_size)
    if net.noise_shape(picture) != picture and not (latents and net.decodes):
        shape = "×".join(map(str, net.noise_shape(picture)))
        decoder = "give the autoencoder of its latents, backbone.vae=FOLDER, or " * latents
        raise UserError(
            f"{net.name} denoises latents of {shape}, no pictures, and {purpose}: it offers "
            f"features; {decoder}take a network of pictures, such as backbone=guided_unet"
        )
    return net
