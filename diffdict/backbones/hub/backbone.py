"""Any network of pictures that diffusers has saved in a folder, as its pipeline uses it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffdict import checkpoints
from diffdict.backbones.autoencoders.latents import LatentEncoder
from diffdict.backbones.base import Block, Timestep, combined_sha256
from diffdict.backbones.denoiser import Condition, Denoiser, Edits, Given, edited
from diffdict.backbones.hub.families.family import Setting
from diffdict.backbones.hub.families.registry import family_of
from diffdict.backbones.hub.families.unet2d import renamed_state
from diffdict.backbones.hub.memory import plain_memory_errors, require_memory
from diffdict.backbones.hub.pipeline_folder import (
    load_network,
    network_folder,
    open_folder,
    pipeline_folder,
    read_config,
    scheduler_config,
)
from diffdict.backbones.hub.prompt import Prompt
from diffdict.backbones.hub.scheduler import process_of
from diffdict.backbones.hub.taps import caught_maps, check_taps, hooked, taps_of, tree
from diffdict.backbones.hub.texts import Texts
from diffdict.backbones.offload import OFFLOADS, change_at_home, offload_weights
from diffdict.errors import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
EDITED = ("both", "prompt", "negative")


class Hub(Denoiser):
    """A network of one of the families beside it, under its pipeline's own name: unet, transformer.

    Blocks have the names that diffusers gives them; those of a U-Net of pixels are numbers, 0 the
    deepest. Features are the prompt's alone; `guidance` is what predictions are pushed by.
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        image_size: int | None = None,
        *,
        predict: str = "eps",
        name: str = "hub",
        revision: str | None = None,
        vae: str | None = None,
        posterior: str = "mean",
        prompt: str = "",
        negative: str | None = None,
        guidance: float | int = 1.0,
        edited: str = "both",
        taps: str = "output",
        words: Sequence[str] = (),
        dtype: str = "fp32",
        offload: str = "none",
        prompts: str = "checkpoints/prompts",
    ) -> None:
        """`checkpoint` is a network's folder, a pipeline's or a name on the hub; see conf/.

        image_size=None: what it was made for. `predict` says what the output is, as the folder's
        schedule does where there is one. `prompt` and `negative` are texts, or .npz of embeddings;
        negative=None is the pipeline's own. `prompts` keeps what was encoded. Of each of the
        prompt's `words` there is a block more at every block, its attention: BLOCK.cross.WORD.
        `offload` keeps weights off the device while they do not compute: whole, or by layers.
        """
        super().__init__()
        if checkpoint is None:
            raise UserError(
                "backbone=hub needs a folder that diffusers saved: backbone.checkpoint=…"
            )
        _check_words(dtype, posterior, edited, offload, guidance)
        path = open_folder(checkpoint, revision)
        folder = network_folder(path)
        if not folder.is_dir() or not (folder / "config.json").is_file():
            checkpoints.resolve(checkpoint)  # says what it is instead
        config = read_config(folder / "config.json")
        self.family = family_of(config, folder)
        self.name, self.guidance, self.edited = name, guidance, edited
        check_taps(taps, words, self.family)
        self.offload = offload
        self.encoder = self._autoencoder(vae, folder, posterior)
        self.decodes = self.encoder is not None
        self.image_size = image_size or self._native_size()
        self._check_size(folder)
        self.process, self.predict = self._process(folder, predict)
        self.condition = Condition(classes=self.family.classes)
        self.texts = Texts(self.family, folder, prompt, negative, Path(prompts))
        if self._guided and self.family.text is not None:
            self.texts.encode_negative()
        files_sha256 = self._load(path, folder, dtype)
        looks = self._looks(taps)
        self._file_sha256 = combined_sha256(files_sha256, *looks) if looks else files_sha256
        tokens = self.texts.word_tokens(words)
        self.taps = taps_of(self.network, self.family, taps, tokens)
        self.shapes = self._shapes(taps, tokens)

    @property
    def network(self) -> nn.Module:
        """diffusers' own network."""
        return getattr(self, self.family.component)

    def forward(
        self,
        x_t: Float[Tensor, "batch channels height width"],
        t: Int[Tensor, " batch"] | Float[Tensor, " batch"],
        given: Given | Tensor | None = None,
        edits: Edits | None = None,
    ) -> Float[Tensor, "batch out height width"]:
        """The network's prediction at timesteps t; edits by hooks, for this pass alone.

        With guidance: led away from the negative one, in what is no variance.
        """
        if self.texts.captions is not None:
            raise UserError(
                f"{self.texts.captions.path} tells {self.name} of pictures that it looks at, and a "
                "sample has none: backbone.prompt=TEXT"
            )
        edits = self.check_edits(edits)
        if place := next((block for block in edits if self.taps[block].attends), None):
            raise UserError(
                f"{self.name} shows its attention at {place}, which cannot be edited: edit a "
                "block's output, backbone.taps=output"
            )
        label = self._label(given, x_t)
        sides = {
            side: edits if self.edited in ("both", side) else {} for side in ("prompt", "negative")
        }
        prediction = self._predicted(
            x_t, t, self._setting(self.texts.prompt, label), sides["prompt"]
        )
        if not self._guided:
            return prediction
        null = self._setting(self.texts.negative, self._null(x_t))
        none = self._predicted(x_t, t, null, sides["negative"])
        mean, rest = prediction[:, : x_t.shape[1]], prediction[:, x_t.shape[1] :]
        away = none[:, : x_t.shape[1]]
        return torch.cat([self.family.guided(mean, away, self.guidance), rest], dim=1)

    def features(
        self,
        images: Float[Tensor, "batch channels height width"],
        timestep: Timestep = None,
        blocks: Sequence[Block] | None = None,
        noise: Float[Tensor, "..."] | None = None,
    ) -> dict[Block, Float[Tensor, "batch _ _ _"]]:
        """Blocks of one pass over images noised to the timestep, which ends with the last one.

        `images` are pictures in [-1, 1], or their latents.
        """
        wanted = self.chosen(blocks)
        x_t, t = self.noised(self.prepared(images), timestep, noise)
        setting = self._setting(self.texts.of_batch(x_t), self._null(x_t))
        arguments = self.family.arguments(self._input(x_t), t, setting)
        taps = {block: self.taps[block] for block in wanted}
        with plain_memory_errors(self.name, self.network.dtype, len(x_t)):
            maps = caught_maps(self.network, arguments, taps, x_t.shape[2:])
        return {block: maps[block] for block in wanted}

    @property
    def captioned(self) -> bool:
        """Whether it is told a text of each picture."""
        return self.texts.captions is not None

    def of_pictures(self, names: Sequence[str] | None) -> AbstractContextManager[None]:
        """Passes within are told the captions of these pictures."""
        return self.texts.of_pictures(names)

    def prepared(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch latents _ _"]:
        """Pictures as latents, where it looks at those; latents are left as they are."""
        if self.encoder is None or images.shape[1] == self.family.channels:
            return images
        return self.encoder(images)

    def pictures(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 3 _ _"]:
        """Latents as the autoencoder's pictures."""
        return x if self.encoder is None else self.encoder.decoded(x)

    def noise_shape(self, picture: tuple[int, int, int]) -> tuple[int, int, int]:
        """That of the picture's latents, where it looks at those."""
        if self.encoder is None or picture[0] == self.family.channels:
            return picture
        _, height, width = picture
        factor = self.encoder.factor
        return self.family.channels, height // factor, width // factor

    def chosen(self, blocks: Block | Sequence[Block] | None) -> list[Block]:
        """The blocks asked for; None: those that stand in no other."""
        if blocks is None:
            return [block for block in self.shapes if self.family.outer(block)]
        names = [blocks] if isinstance(blocks, (int, str)) else blocks
        unknown = [block for block in names if block not in self.shapes and block != "all"]
        if unknown and not isinstance(next(iter(self.shapes)), int):
            raise UserError(
                f"{self.name} has no block {unknown[0]!r}. Its blocks: {tree(self.shapes)}"
            )
        return super().chosen(blocks)

    @property
    def _guided(self) -> bool:
        conditional = self.family.text is not None or self.family.classes is not None
        return self.guidance != 1 and conditional and not self.family.config.get("guidance_embeds")

    def _predicted(self, x_t: Tensor, t: Tensor, setting: Setting, edits: Edits) -> Tensor:
        """One pass's answer, edited."""
        taps = {block: self.taps[block] for block in edits}
        arguments = self.family.arguments(self._input(x_t), t, setting)
        with (
            hooked(taps, x_t.shape[2:], lambda block, h: edited(edits[block], h, t, block)),
            plain_memory_errors(self.name, self.network.dtype, len(x_t)),
        ):
            output = self.network(**arguments, return_dict=False)[0]
        return self.family.prediction(output, x_t).to(x_t.dtype)

    def _input(self, x_t: Tensor) -> Tensor:
        """In the network's precision, where its device has that."""
        dtype = self.network.dtype
        if dtype == torch.float16 and x_t.device.type == "cpu":
            raise UserError("A CPU has no half precision of convolutions: backbone.dtype=bf16")
        return x_t.to(dtype)

    def _setting(self, prompt: Prompt | None, label: Tensor | None) -> Setting:
        return Setting(prompt, label, self.image_size, float(self.guidance))

    def _null(self, x: Tensor) -> Int[Tensor, " batch"] | None:
        """The null class once a picture, where it knows classes."""
        classes = self.family.classes
        return None if classes is None else torch.full((len(x),), classes, device=x.device)

    def _label(self, given: Given | Tensor | None, x_t: Tensor) -> Tensor | None:
        """The classes that it was given, or the null class."""
        given = Given(label=given) if isinstance(given, Tensor) else given or Given()
        if given.label is None:
            given = given._replace(label=self._null(x_t))
        return self.check_given(given).label

    def _load(self, path: Path, folder: Path, dtype: str) -> str:
        """The network into its place; the hash of its files."""
        if not self.family.latent:
            weights = checkpoints.load_state_dict(path)
            network, digest = self.family.made(), weights.sha256
            network = network if dtype == "fp32" else network.to(DTYPES[dtype])
            checkpoints.load_strictly(network, renamed_state(weights.state), weights.path)
        else:
            require_memory(self.family, folder, DTYPES[dtype])
            network, digest = load_network(self.family, folder, DTYPES[dtype])
        offload_weights(network, self.offload)
        setattr(self, self.family.component, network.eval())
        return digest

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Hub":
        """As ever, but weights that are offloaded go to no device."""
        if self.offload == "none":
            return super()._apply(fn, recurse)
        change_at_home(self.network, fn)
        return self

    def _looks(self, taps: str) -> list[str]:
        """Hashes and words of all beside its weights that changes a feature."""
        looks = [] if self.encoder is None else [self.encoder.view_sha256]
        texts_sha256 = self.texts.sha256
        looks += [] if texts_sha256 is None else [texts_sha256]
        looks += [] if taps == "output" else [taps]
        guided = self.family.config.get("guidance_embeds")
        return looks + ([str(float(self.guidance))] if guided else [])

    def _autoencoder(self, vae: str | None, folder: Path, posterior: str) -> LatentEncoder | None:
        """The pipeline's own, unless another is named."""
        if not self.family.latent:
            return None
        beside = pipeline_folder(folder) / "vae"
        if vae is None and not beside.is_dir():
            raise UserError(
                f"{folder} stands in no pipeline with an autoencoder (no {beside}), and a "
                f"{self.family.kind} looks at its latents: name the pipeline's folder, or "
                "backbone.vae=FOLDER"
            )
        offloaded = self.offload != "none"
        return LatentEncoder(str(vae or beside), self.family.channels, posterior, offloaded)

    def _native_size(self) -> int | None:
        """Of pictures, in pixels."""
        side = self.family.native_size
        return side if side is None or self.encoder is None else side * self.encoder.factor

    def _check_size(self, folder: Path) -> None:
        """Pictures become whole latents, and those whole patches and levels."""
        factor = 1 if self.encoder is None else self.encoder.factor
        smallest = self.family.divisor * factor
        if not isinstance(self.image_size, int) or self.image_size % smallest:
            raise UserError(
                f"{folder} is of pictures whose sides are divisible by {smallest}, got "
                f"{self.image_size}: choose another folder or dataset.image_size"
            )

    def _process(self, folder: Path, predict: str) -> tuple:
        config = scheduler_config(folder)
        if config is None and self.family.latent:
            raise UserError(
                f"{folder} has no scheduler beside it, which says what a timestep is: name the "
                "pipeline's folder, with scheduler/scheduler_config.json"
            )
        return process_of(config or {}, self.family, predict, self.name)

    def _shapes(
        self, taps: str, tokens: Mapping[str, Sequence[int]]
    ) -> dict[Block, tuple[int, int, int]]:
        """Seen in a pass that computes nothing, in the order in which they are made."""
        factor = 1 if self.encoder is None else self.encoder.factor
        side = self.image_size // factor
        with torch.device("meta"):
            twin = self.family.made().eval()
            x = torch.empty(1, self.family.channels, side, side)
            t = torch.zeros(1, dtype=torch.int64)
            prompt = None if self.texts.prompt is None else self.texts.prompt.to("meta")
            arguments = self.family.arguments(x, t, self._setting(prompt, self._null(x)))
            meta = taps_of(twin, self.family, taps, tokens)
            maps = caught_maps(twin, arguments, meta, (side, side))
        return {block: tuple(x.shape[1:]) for block, x in maps.items()}


def _check_words(
    dtype: str, posterior: str, edited: str, offload: str, guidance: float | int
) -> None:
    """The words that backbone.* knows."""
    for key, value, choices in (
        ("dtype", dtype, tuple(DTYPES)),
        ("posterior", posterior, ("mean", "sample")),
        ("edited", edited, EDITED),
        ("offload", offload, OFFLOADS),
    ):
        if value not in choices:
            raise UserError(f"backbone.{key} is one of {', '.join(choices)}, got {value!r}")
    if not 0 <= guidance < float("inf"):
        raise UserError(
            f"backbone.guidance is a weight from 0 on, got {guidance}: 1.0 is the plain network, "
            "7.5 usual of Stable Diffusion"
        )
