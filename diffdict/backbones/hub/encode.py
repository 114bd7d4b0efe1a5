"""Texts into embeddings by a pipeline's encoders: once, kept by hash, and the encoders freed."""

import gc
import hashlib
from collections.abc import Callable
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


def encode(
    folder: Path, text: str | None, by: Callable[[object, str | None], Prompt], kept: Path
) -> Prompt:
    """The pipeline's embeddings of a text, out of `kept` where it has been encoded before.

    `by` asks the pipeline, as its family does; of a text None the pipeline decides.
    """
    index = folder / INDEX
    if not index.is_file():
        raise UserError(
            f"{folder} has no {INDEX} and so no text encoders, and its network is told a text: "
            "name the whole pipeline's folder, or give embeddings, backbone.prompt=FILE.npz"
        )
    path = kept / f"{_key(folder, text)}.safetensors"
    if path.is_file():
        return Prompt(**load_file(path))
    prompt = _encoded(folder, text, by)
    write_atomic(path, save(dict(as_arrays(prompt))))
    return prompt


def _encoded(folder: Path, text: str | None, by: Callable) -> Prompt:
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
            told = by(pipeline, text)
    except UserError:
        raise
    except Exception as error:  # what diffusers and transformers say of files has many types
        raise UserError(
            f"The text encoders in {folder} do not work ({one_line(error)[:200]}): save the "
            "pipeline there again, or give embeddings, backbone.prompt=FILE.npz"
        ) from error
    prompt = Prompt(*(None if x is None else x.detach().cpu().clone() for x in told))
    del pipeline, told
    gc.collect()
    return prompt


def _key(folder: Path, text: str | None) -> str:
    """What an encoding hangs on: the text, and the files of its encoders and tokenizers."""
    digest = hashlib.sha256(f"{text!r}\n".encode())
    parts = [*folder.glob("text_encoder*/*"), *folder.glob("tokenizer*/*")]
    for path in sorted(path for path in parts if path.is_file()):
        digest.update(f"{path.relative_to(folder)} {sha256(path)}\n".encode())
    digest.update((folder / INDEX).read_bytes())
    return digest.hexdigest()
