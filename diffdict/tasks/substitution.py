"""`task=substitution`: what a network loses where a block's map is what a dictionary makes of it.

One noised picture is denoised with the block as it is, its reconstruction, its mean, zero, and with
a random error as long as the dictionary's: changes of the loss are paired.
"""

from collections.abc import Callable, Mapping
from functools import partial

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from diffdict.backbones.base import Backbone, Block
from diffdict.backbones.denoiser import Given
from diffdict.diffusion.objectives import Objective, interpret
from diffdict.diffusion.samplers import own_noise
from diffdict.diffusion.schedules import Schedule
from diffdict.errors import UserError, at_least
from diffdict.features.codes.studied_dictionary import StudiedDictionary, open_studied
from diffdict.features.locations import Timesteps, listed
from diffdict.metrics.substitution import VARIANTS, Substitution, SubstitutionFigures
from diffdict.results.tables import Row
from diffdict.tasks.interventions.chains import check_picture_size

QUANTITIES = ("eps", "x0")
MEAN, RANDOM = 1, 2  # after the seed: whose noise


class MapSubstitution(pl.LightningModule):
    """Measures; it learns nothing."""

    def __init__(
        self,
        net: Backbone,
        dictionary: str,
        *,
        name: str | None = None,
        block: Block | None = None,
        timestep: Timesteps = None,
        mean_pictures: int = 16,
        label: int | None = None,
        image_size: int | None = None,
        seed: int = 0,
    ) -> None:
        """`timestep`: None is the dictionary's own. `mean_pictures`: that mean maps are made of.

        `image_size` is that of the pictures.
        """
        super().__init__()
        at_least(1, "model", mean_pictures=mean_pictures)
        self.studied = open_studied(dictionary, net, name, block, latents=True)
        check_picture_size(image_size, net.image_size, net.name)
        self.net = self.studied.net.requires_grad_(False).eval()
        self.sae, self.mean_pictures = self.studied.sae, mean_pictures
        self.seed, self.label = seed, label
        check_encoding(self.studied, "task=substitution")
        if not isinstance(self.net.process, Schedule):
            raise UserError(
                f"task=substitution noises pictures along a chain of timesteps, and {net.name} "
                "has noise levels: choose a dictionary of a network of a chain"
            )
        self.timesteps = self.studied.timesteps if timestep is None else listed(timestep)
        for each in self.timesteps:
            self.net.check_timestep(each)
        self.objective = Objective(self.net.predict, "fixed_small")
        self.measured = nn.ModuleDict(
            {
                f"t{t:04d}": nn.ModuleDict({q: Substitution() for q in QUANTITIES})
                for t in self.timesteps
            }
        )
        self.means: dict[int, Tensor] = {}
        self.found: dict[int, dict[str, SubstitutionFigures]] = {}

    def on_test_start(self) -> None:
        """The mean map of every timestep, from the first pictures: the same on every rank."""
        for metrics in self.measured.values():
            for metric in metrics.values():
                metric.reset()
        data = self.trainer.datamodule
        pictures = data.split(data.test_split)
        number = min(self.mean_pictures, len(pictures))
        sums = dict.fromkeys(self.timesteps, 0.0)
        for index in range(number):
            image = self.net.prepared(pictures[index]["image"][None].to(self.device))
            noise = own_noise(self.seed + MEAN, [index], image.shape[1:])
            for t in self.timesteps:
                maps = self.net.features(image, t, [self.studied.block], noise(t).to(image))
                sums[t] = sums[t] + maps[self.studied.block].double().mean((0, 2, 3))
        self.means = {t: total / number for t, total in sums.items()}

    def test_step(self, batch: Mapping, batch_idx: int) -> None:
        """One batch of pictures at every timestep."""
        images, indices = batch["image"], batch["index"].tolist()
        given = Given(label=self._labels(batch["index"]))
        for t in self.timesteps:
            losses = self.losses(images, indices, t, given)
            for quantity, metric in self.measured[f"t{t:04d}"].items():
                metric.update(losses[quantity])

    @torch.no_grad()
    def losses(
        self, images: Float[Tensor, "batch 3 h w"], indices: list[int], t: int, given: Given
    ) -> dict[str, dict[str, Float[Tensor, " batch"]]]:
        """Every picture's loss under every variant, by what is predicted."""
        images = self.net.prepared(images)
        noise = own_noise(self.seed, indices, images.shape[1:])(t).to(images)
        x_t, steps = self.net.noised(images, t, noise)
        edits = [
            None if change is None else self.studied.edit(change)
            for change in self.changes(indices, t)
        ]
        outputs = self.net.forward_each(x_t, steps, given, edits)
        losses = {quantity: {} for quantity in QUANTITIES}
        place = steps - self.net.first_timestep
        for variant, output in zip(VARIANTS, outputs, strict=True):
            guess = interpret(self.objective, self.net.process, output, x_t, place)
            for quantity, estimate, truth in (("eps", guess.eps, noise), ("x0", guess.x0, images)):
                error = (estimate.double() - truth.double()).square().flatten(1).mean(1)
                losses[quantity][variant] = error
        return losses

    def changes(self, indices: list[int], t: int) -> list[Callable | None]:
        """The edit of each variant, in the order of VARIANTS."""
        mean, reconstruction = self.means[t].float(), Reconstruction(self.studied)
        direction = own_noise(self.seed + RANDOM, indices, self.net.shapes[self.studied.block])(t)
        return [
            None,
            lambda x, _: reconstruction(x),
            lambda x, _: mean.to(x)[None, :, None, None].expand_as(x),
            lambda x, _: torch.zeros_like(x),
            partial(_random_error, reconstruction, direction),
        ]

    def _labels(self, indices: Int[Tensor, " batch"]) -> Int[Tensor, " batch"] | None:
        classes = self.net.condition.classes
        if classes is None:
            return None
        return indices % classes if self.label is None else torch.full_like(indices, self.label)

    def on_test_epoch_end(self) -> None:
        """Logs what is recovered, and what each variant costs."""
        self.found = {
            t: {q: metric.compute() for q, metric in self.measured[f"t{t:04d}"].items()}
            for t in self.timesteps
        }
        for t, figures in self.found.items():
            recovery = figures["eps"]
            self.log(f"test/t{t:04d}/recovered", recovery.recovered)
            self.log(f"test/t{t:04d}/loss", recovery.loss["as_it_is"])
        for quantity, key in (("eps", "recovered"), ("x0", "recovered_x0")):
            values = torch.tensor([each[quantity].recovered for each in self.found.values()])
            self.log(f"test/{key}", values.nanmean())
        excess = torch.tensor([each["eps"].excess for each in self.found.values()])
        self.log("test/error_excess", excess.nanmean())

    def tables(self) -> dict[str, list[Row]]:
        """A row a timestep and quantity: changes first, then what is recovered."""
        rows = []
        for t, figures in self.found.items():
            for quantity, recovery in figures.items():
                row = {"timestep": t, "block": self.studied.block, "of": quantity}
                row |= {"loss": recovery.loss["as_it_is"]}
                row |= {f"change_{name}": recovery.change[name] for name in VARIANTS[1:]}
                row |= {f"error_{name}": recovery.error[name] for name in VARIANTS[1:]}
                row |= {"recovered": recovery.recovered, "recovered_zero": recovery.recovered_zero}
                rows.append({**row, "error_excess": recovery.excess})
        return {"substitution": rows}


def check_encoding(studied: StudiedDictionary, task: str) -> None:
    """Refuses a dictionary that no single pass gives codes of."""
    if not studied.encodes:
        raise UserError(
            f"{task} encodes single passes, and this dictionary takes concatenated maps: learn one "
            "with data.mix=stack, or at one timestep and block"
        )


@torch.no_grad()
def reconstructed(studied: StudiedDictionary, x: Tensor) -> Tensor:
    """A map as the dictionary gives it back."""
    tokens = x.permute(0, 2, 3, 1).flatten(0, 2)
    with torch.autocast(x.device.type, enabled=False):
        given_back = studied.sae.decode(studied.sae.encode_sparse(tokens))
    size = (len(x), *x.shape[2:])
    return given_back.unflatten(0, size).permute(0, 3, 1, 2).to(x.dtype)


class Reconstruction:
    """A map as the dictionary gives it back; of the same map once."""

    def __init__(self, studied: StudiedDictionary) -> None:
        self.studied, self.known = studied, None

    def __call__(self, x: Tensor) -> Tensor:
        if self.known is None or self.known[0] is not x:
            self.known = x, reconstructed(self.studied, x)
        return self.known[1]


def _random_error(
    reconstruction: Reconstruction, direction: Tensor, x: Tensor, _: Tensor
) -> Tensor:
    """The map with an error of random direction, at each token as long as the dictionary's."""
    lengths = (reconstruction(x) - x).float().norm(dim=1, keepdim=True)
    return x + (F.normalize(direction.to(x).float(), dim=1) * lengths).to(x.dtype)
