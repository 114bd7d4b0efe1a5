"""Any U-Net of pictures that diffusers has saved in a folder, with the schedule beside it."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffdict import checkpoints
from diffdict.backbones.base import Block, Timestep
from diffdict.backbones.denoiser import Denoiser, Edit, Edits, Given, edited
from diffdict.diffusion.schedules import Schedule, tables
from diffdict.errors import UserError

PREDICTS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}  # diffusers' words, and ours
# of attention layers: names until diffusers 0.17, and since then
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class Hub(Denoiser):
    """Blocks are numbers, 0 the deepest: the residual blocks of the way up, as in guided-diffusion.

    A block's map is what it hands on: after its attention and, at a level's end, enlarged.
    """

    def __init__(
        self,
        checkpoint: str | None = None,
        image_size: int | None = None,
        *,
        predict: str = "eps",
        name: str = "hub",
    ) -> None:
        """`checkpoint` is a U-Net's folder or a pipeline's; image_size=None: what it was made for.

        `predict` says what the output is, as the folder's schedule does where there is one.
        """
        super().__init__()
        if checkpoint is None:
            raise UserError(
                "backbone=hub needs a folder that diffusers saved: backbone.checkpoint=…"
            )
        weights = checkpoints.load_state_dict(checkpoint)
        folder = weights.path.parent
        config = _json(folder / "config.json")
        self.name, self.image_size = name, image_size or config.get("sample_size")
        self._check(config, folder)
        self.unet = _made(config)
        checkpoints.load_strictly(self.unet, _renamed(weights.state), weights.path)
        self._file_sha256 = weights.sha256
        self.predict = predict
        self.process = self._schedule(folder)
        self.shapes = self._shapes(config)

    def forward(
        self,
        x_t: Float[Tensor, "batch 3 height width"],
        t: Int[Tensor, " batch"],
        given: Given | Tensor | None = None,
        edits: Edits | None = None,
    ) -> Float[Tensor, "batch out height width"]:
        """The network's prediction at timesteps t; edits by hooks, for this pass alone."""
        self.check_given(given)
        ends, hooks = _ends(self.unet), []
        for block, edit in self.check_edits(edits).items():
            hooks.append(ends[block].register_forward_hook(partial(_edited, edit, t, block)))
        try:
            return self.unet(x_t.to(self.unet.dtype), t, return_dict=False)[0].to(x_t.dtype)
        finally:
            for hook in hooks:
                hook.remove()

    def features(
        self,
        images: Float[Tensor, "batch 3 height width"],
        timestep: Timestep = None,
        blocks: Sequence[Block] | None = None,
        noise: Float[Tensor, "..."] | None = None,
    ) -> dict[Block, Float[Tensor, "batch _ _ _"]]:
        """Blocks of one pass over images noised to the timestep, which ends with the last one."""
        wanted = self.chosen(blocks)
        return _seen(self.unet, *self.noised(images, timestep, noise), wanted)

    def _check(self, config: Mapping, folder: Path) -> None:
        """Whether this network can look at pictures noised by a chain of timesteps."""
        kind, channels = config.get("_class_name"), config.get("in_channels")
        smallest = 2 ** (len(config.get("block_out_channels") or [0]) - 1)
        if kind != "UNet2DModel":
            what = f"a {kind}; backbone=hub takes a UNet2DModel, which needs no prompt"
        elif channels != 3:
            what = f"a U-Net of {channels} channels; pictures have 3"
        elif config.get("class_embed_type") or config.get("num_class_embeds"):
            what = "a class-conditional U-Net; there are no classes to give it"
        elif config.get("time_embedding_type", "positional") != "positional":
            what = "a score network, told noise levels; backbone=hub tells timesteps"
        elif not isinstance(self.image_size, int) or self.image_size % smallest:
            what = f"of pictures whose sides are divisible by {smallest}, got {self.image_size}"
        else:
            return
        raise UserError(f"{folder} is {what}: choose another folder or dataset.image_size")

    def _schedule(self, folder: Path) -> Schedule:
        """The pipeline's, beside the U-Net; without one diffusers' own default, linear betas."""
        from diffusers import DDPMScheduler

        places = (folder.parent / "scheduler", folder / "scheduler", folder)
        files = [place / "scheduler_config.json" for place in places]
        known = next((_json(file) for file in files if file.is_file()), {})
        said = PREDICTS.get(known.get("prediction_type", ""), self.predict)
        if said != self.predict:
            raise UserError(
                f"{self.name} learned to predict {said}, got predict={self.predict}: "
                f"say backbone.predict={said}"
            )
        betas = DDPMScheduler.from_config(known).betas.double()
        return tables(betas, torch.arange(len(betas)))

    def _shapes(self, config: Mapping) -> dict[Block, tuple[int, int, int]]:
        """Seen in a pass that computes nothing."""
        with torch.device("meta"):
            twin, size = _made(config), self.image_size
            t = torch.zeros(1, dtype=torch.int64)
            wanted = range(len(_ends(twin)))
            maps = _seen(twin, torch.empty(1, 3, size, size), t, wanted)
        return {block: tuple(x.shape[1:]) for block, x in maps.items()}


class _Enough(Exception):
    """Ends a pass after the last block asked for."""


def _seen(unet: nn.Module, x_t: Tensor, t: Tensor, wanted: Sequence[int]) -> dict[Block, Tensor]:
    """The maps of these blocks, caught as the network makes them."""
    maps: dict[Block, Tensor] = {}

    def keep(block: int, module: nn.Module, inputs: tuple, output: Tensor | tuple) -> None:
        maps[block] = output if isinstance(output, Tensor) else output[picture_stream(output)]
        if block == wanted[-1]:
            raise _Enough

    ends = _ends(unet)
    hooks = [ends[block].register_forward_hook(partial(keep, block)) for block in wanted]
    try:
        unet(x_t.to(unet.dtype), t)
    except _Enough:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return maps


def _edited(
    edit: Edit, t: Tensor, block: int, module: nn.Module, inputs: tuple, output: Tensor | tuple
) -> Tensor | tuple:
    """What the layer hands on instead."""
    if isinstance(output, Tensor):
        return edited(edit, output, t, block)
    place = picture_stream(output)
    return (*output[:place], edited(edit, output[place], t, block), *output[place + 1 :])


def picture_stream(output: tuple) -> int:
    """Where the picture stands in what a layer hands on.

    Blocks of two streams (SD3's and Flux's) answer (text, picture), both [batch, tokens, width],
    the text None in the last one; a U-Net's layers answer the map, then what belongs to it.
    """
    two = len(output) == 2 and isinstance(output[1], Tensor) and output[1].ndim == 3
    return 1 if two and (output[0] is None or output[0].ndim == 3) else 0


def _ends(unet: nn.Module) -> list[nn.Module]:
    """The layer that hands on each block's map: upsampler, attention or residual block."""
    ends = []
    for level in unet.up_blocks:
        attentions = getattr(level, "attentions", None) or []
        last = [attentions[i] if i < len(attentions) else x for i, x in enumerate(level.resnets)]
        if getattr(level, "upsamplers", None):
            last[-1] = level.upsamplers[-1]
        ends += last
    return ends


def _made(config: Mapping) -> nn.Module:
    """The network of a config, its weights fresh."""
    try:
        from diffusers import UNet2DModel
    except ImportError as error:
        raise UserError(
            "backbone=hub needs diffusers, which is not here: pip install 'diffdict[diffusers]'"
        ) from error
    return UNet2DModel.from_config(config)


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under today's names."""
    now = {}
    for key, value in state.items():
        *above, layer, kind = key.split(".")
        attends = "attentions" in above
        now[".".join([*above, RENAMED.get(layer, layer) if attends else layer, kind])] = value
    return now


def _json(path: Path) -> dict:
    """A config that diffusers wrote."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} is missing or damaged: backbone.checkpoint names a folder as diffusers saves "
            "it, with config.json beside the weights"
        ) from error
