"""A CLIP from a folder as the scorer of names (Radford et al. 2021); nothing is fetched."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from diffdict.errors import UserError, one_line

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
KEPT = "preprocessor_config.json"


class Clip:
    """The cosine of a crop's and a text's embeddings."""

    def __init__(self, folder: str, template: str = "a photo of a {}", device: str = "cpu") -> None:
        """`folder`: as transformers saves a CLIPModel and its tokenizer, in safetensors."""
        if "{}" not in template:
            raise UserError(
                f"scorer.template has a place for the name, got {template!r}: 'a photo of a {{}}'"
            )
        self.model, self.tokenizer = _open(Path(folder))
        self.model.to(device)
        self.template, self.device = template, device
        self.side = self.model.config.vision_config.image_size
        self.mean, self.std = _statistics(Path(folder) / KEPT)

    @torch.no_grad()
    def __call__(
        self, crops: Float[Tensor, "n 3 h w"], texts: Sequence[str]
    ) -> Float[Tensor, "n texts"]:
        """Crops in [-1, 1], at CLIP's own size."""
        size = (self.side, self.side)
        pixels = interpolate(crops.float(), size, mode="bicubic", antialias=True)
        pixels = ((pixels.clamp(-1, 1) + 1) / 2 - self.mean) / self.std
        words = [self.template.format(text) for text in texts]
        tokens = self.tokenizer(words, padding=True, truncation=True, return_tensors="pt")
        answer = self.model(pixel_values=pixels.to(self.device), **tokens.to(self.device))
        image_embeds, text_embeds = (
            normalize(answer.image_embeds, dim=1),
            normalize(answer.text_embeds, dim=1),
        )
        return (image_embeds @ text_embeds.T).cpu()


def _open(folder: Path) -> tuple:
    try:
        from transformers import CLIPModel, CLIPTokenizer
    except ImportError as error:
        raise UserError(
            "A CLIP as scorer needs transformers, which is not here: pip install 'diffdict[text]'"
        ) from error
    if not folder.is_dir():
        raise UserError(
            f"scorer.folder={folder} is no folder: name one that transformers saved, such as a "
            "copy of openai/clip-vit-base-patch32"
        )
    try:
        model = CLIPModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        return model.eval(), CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # what transformers says of files has many types
        raise UserError(
            f"{folder} holds no whole CLIPModel with its tokenizer ({one_line(error)[:200]}): save "
            "both there with save_pretrained"
        ) from error


def _statistics(path: Path) -> tuple[Tensor, Tensor]:
    """Of the pixels in [0, 1] that it learned from: the folder's, or OpenAI's."""
    settings = json.loads(path.read_text()) if path.is_file() else {}
    shape = (3, 1, 1)
    mean, std = settings.get("image_mean") or MEAN, settings.get("image_std") or STD
    return torch.tensor(mean).view(shape), torch.tensor(std).view(shape)
