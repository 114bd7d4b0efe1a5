"""Texts into embeddings by a pipeline's encoders: once, kept by hash, and the encoders freed."""

import gc
import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from diffdict.backbones.hub.pipeline_folder import read_config
from diffdict.backbones.hub.prompt import Prompt, as_arrays
from diffdict.errors import UserError, one_line
from diffdict.files import sha256, write_atomic

INDEX = "model_index.json"
# what encoding does not need
UNNEEDED = ("unet", "transformer", "vae", "safety_checker", "feature_extractor", "image_encoder")


class TextEncoder:
    """A pipeline's encoders; in memory only while they encode what `kept` has not yet.

    `by` asks the pipeline, as its family does; of a text None the pipeline decides.
    """

    def __init__(
        self, folder: Path, by: Callable[[object, str | None], Prompt], kept: Path
    ) -> None:
        index = folder / INDEX
        if not index.is_file():
            raise UserError(
                f"{folder} has no {INDEX} and so no text encoders, and its network is told a text: "
                "name the whole pipeline's folder, or give embeddings, backbone.prompt=FILE.npz"
            )
        self.folder, self.by, self.kept = folder, by, kept

    def encode(self, texts: Sequence[str | None]) -> None:
        """All of these that are not kept, by encoders that are loaded once."""
        missing = [text for text in texts if not self._path(text).is_file()]
        if missing:
            for text, prompt in zip(missing, _encoded(self.folder, missing, self.by), strict=True):
                write_atomic(self._path(text), save(dict(as_arrays(prompt))))

    def prompt(self, text: str | None) -> Prompt:
        """The pipeline's embeddings of a text."""
        self.encode([text])
        return Prompt(**load_file(self._path(text)))

    def _path(self, text: str | None) -> Path:
        """What an encoding hangs on: the text, and the files of its encoders and tokenizers."""
        digest = hashlib.sha256(f"{text!r}\n".encode() + self._files)
        return self.kept / f"{digest.hexdigest()}.safetensors"

    @cached_property
    def _files(self) -> bytes:
        """Names and hashes of encoders and tokenizers, and the pipeline's own file."""
        parts = [*self.folder.glob("text_encoder*/*"), *self.folder.glob("tokenizer*/*")]
        files = sorted(path for path in parts if path.is_file())
        lines = [f"{path.relative_to(self.folder)} {sha256(path)}\n" for path in files]
        return "".join(lines).encode() + (self.folder / INDEX).read_bytes()


def _encoded(folder: Path, texts: Sequence[str | None], by: Callable) -> list[Prompt]:
    """The encoders live no longer than this call."""
    try:
        from diffusers import DiffusionPipeline
        from diffusers.utils import logging as progress
        from transformers.utils import logging as more_progress
    except ImportError as error:
        raise UserError(
            "A prompt is encoded by transformers, which is not here: pip install "
            "'diffdict[text]', or give embeddings, backbone.prompt=FILE.npz"
        ) from error
    progress.disable_progress_bar()
    more_progress.disable_progress_bar()
    without = {name: None for name in UNNEEDED if name in read_config(folder / INDEX)}
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            folder,
            **without,
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            torch_dtype=torch.float32,
        )
        with torch.no_grad():
            embeddings = [Prompt(*by(pipeline, text)) for text in texts]
    except UserError:
        raise
    except Exception as error:  # what diffusers and transformers say of files has many types
        raise UserError(
            f"The text encoders in {folder} do not work ({one_line(error)[:200]}): save the "
            "pipeline there again, or give embeddings, backbone.prompt=FILE.npz"
        ) from error
    prompts = [
        Prompt(*(None if x is None else x.detach().cpu().clone() for x in each))
        for each in embeddings
    ]
    del pipeline, embeddings
    gc.collect()
    return prompts
