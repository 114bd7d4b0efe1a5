"""A random pipeline of every family that backbone=hub knows, by diffusers' own classes."""

import inspect
from pathlib import Path
from typing import NamedTuple

import diffusers
import numpy as np
import torch

SIDE, FACTOR = 32, 4  # of pictures in pixels, over that of their latents
TOKENS, TEXT, POOLED = 5, 24, 12
VAE = {
    "block_out_channels": (8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 4,
    "scaling_factor": 0.7,
}
UNET = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": TEXT,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}
TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "num_layers": 3,
    "sample_size": 8,
    "patch_size": 2,
}
CHAIN = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


class Made(NamedTuple):
    """How a family is made."""

    network: str
    config: dict
    scheduler: str
    settings: dict
    pipeline: str
    vae: dict = {}  # noqa: RUF012 - read alone
    pooled: bool = False
    mask: bool = False
    autoencoder: str = "AutoencoderKL"


FAMILIES = {
    "sd": Made(
        "UNet2DConditionModel",
        UNET,
        "PNDMScheduler",
        {**CHAIN, "skip_prk_steps": True, "steps_offset": 1},
        "StableDiffusionPipeline",
    ),
    "sdxl": Made(
        "UNet2DConditionModel",
        {
            **UNET,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + POOLED,
            "transformer_layers_per_block": (1, 2),
            "use_linear_projection": True,
        },
        "EulerDiscreteScheduler",
        {**CHAIN, "steps_offset": 1},
        "StableDiffusionXLPipeline",
        pooled=True,
    ),
    "dit": Made(
        "DiTTransformer2DModel",
        {**TRANSFORMER, "out_channels": 8, "norm_elementwise_affine": False},
        "DDIMScheduler",
        {"clip_sample": False},
        "DiTPipeline",
    ),
    "pixart": Made(
        "PixArtTransformer2DModel",
        {**TRANSFORMER, "out_channels": 8, "cross_attention_dim": 16, "caption_channels": TEXT},
        "DPMSolverMultistepScheduler",
        {"beta_start": 0.0001, "beta_end": 0.02},
        "PixArtAlphaPipeline",
        mask=True,
    ),
    "sd3": Made(
        "SD3Transformer2DModel",
        {
            **TRANSFORMER,
            "out_channels": 4,
            "joint_attention_dim": TEXT,
            "caption_projection_dim": 16,
            "pooled_projection_dim": POOLED,
            "pos_embed_max_size": 16,
        },
        "FlowMatchEulerDiscreteScheduler",
        {"shift": 3.0},
        "StableDiffusion3Pipeline",
        {"shift_factor": 0.06},
        pooled=True,
    ),
    "flux": Made(
        "FluxTransformer2DModel",
        {
            "in_channels": 16,
            "num_layers": 2,
            "num_single_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": TEXT,
            "pooled_projection_dim": POOLED,
            "axes_dims_rope": (4, 4, 8),
        },
        "FlowMatchEulerDiscreteScheduler",
        {"shift": 1.0},
        "FluxPipeline",
        {"shift_factor": 0.1},
        pooled=True,
    ),
    "flux2": Made(
        "Flux2Transformer2DModel",
        {
            "in_channels": 16,
            "num_layers": 2,
            "num_single_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": TEXT,
            "timestep_guidance_channels": 16,
            "axes_dims_rope": (4, 4, 4, 4),
            "guidance_embeds": False,
        },
        "FlowMatchEulerDiscreteScheduler",
        {"use_dynamic_shifting": True},
        "Flux2KleinPipeline",
        {name: x for name, x in VAE.items() if name != "scaling_factor"},
        autoencoder="AutoencoderKLFlux2",
    ),
    "qwen": Made(
        "QwenImageTransformer2DModel",
        {
            "in_channels": 16,
            "out_channels": 4,
            "num_layers": 3,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": TEXT,
            "axes_dims_rope": (4, 6, 6),
        },
        "FlowMatchEulerDiscreteScheduler",
        {"use_dynamic_shifting": True},
        "QwenImagePipeline",
        {
            "base_dim": 8,
            "z_dim": 4,
            "dim_mult": [1, 1, 2],
            "num_res_blocks": 1,
            "temperal_downsample": [False, True],
            "latents_mean": [0.1, -0.2, 0.3, 0.0],
            "latents_std": [1.5, 0.5, 2.0, 1.0],
        },
        mask=True,
        autoencoder="AutoencoderKLQwenImage",
    ),
}


def latent_shape(family: str) -> tuple[int, int, int]:
    """Of a picture of `SIDE`; FLUX.2's autoencoder makes one place of 2 × 2."""
    side = SIDE // FACTOR
    return (16, side // 2, side // 2) if family == "flux2" else (4, side, side)


def component(family: str) -> str:
    """What a pipeline calls its network."""
    return "unet" if FAMILIES[family].network.startswith("UNet") else "transformer"


def save_pipeline(family: str, folder: Path) -> Path:
    """The family's network, autoencoder and scheduler, and words.npz: a text's embeddings."""
    made = FAMILIES[family]
    torch.manual_seed(0)
    network = getattr(diffusers, made.network)(**made.config)
    network.save_pretrained(folder / component(family))
    usual = VAE if made.autoencoder == "AutoencoderKL" else {}
    vae = getattr(diffusers, made.autoencoder)(**{**usual, **made.vae})
    if family == "flux2":  # as after training
        vae.bn.running_mean.normal_()
        vae.bn.running_var.uniform_(0.5, 2)
    vae.save_pretrained(folder / "vae")
    scheduler = getattr(diffusers, made.scheduler)(**made.settings)
    scheduler.save_pretrained(folder / "scheduler")
    save_words(family, folder / "words.npz")
    return folder


def words(family: str) -> dict[str, torch.Tensor]:
    """A text's embeddings and those of another, under diffusers' names."""
    made, told = FAMILIES[family], {}
    generator = torch.Generator().manual_seed(3)
    for sign in ("", "negative_"):
        told[f"{sign}prompt_embeds"] = torch.randn(1, TOKENS, TEXT, generator=generator)
        if made.pooled:
            told[f"{sign}pooled_prompt_embeds"] = torch.randn(1, POOLED, generator=generator)
        if made.mask:
            word = "prompt_embeds_mask" if family == "qwen" else "prompt_attention_mask"
            told[f"{sign}{word}"] = torch.tensor([[1, 1, 1, 0, 0]])
    return told


def save_words(family: str, path: Path) -> Path:
    """Those in a file."""
    np.savez(path, **{key: x.numpy() for key, x in words(family).items()})
    return path


def told(family: str, folder: Path) -> dict[str, str]:
    """What Hub takes beside its checkpoint: the embeddings, where the family reads a text."""
    return {} if family == "dit" else {"prompt": str(folder / "words.npz")}


def encoders(family: str) -> dict[str, object]:
    """Random text encoders and tokenizers of letters, under the pipeline's names."""
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel

    torch.manual_seed(1)
    if family == "sd":
        return {"text_encoder": clip(CLIPTextModel, TEXT), "tokenizer": clip_letters()}
    if family == "pixart":
        return {"text_encoder": t5(T5EncoderModel), "tokenizer": t5_letters()}
    if family == "flux":
        return {
            "text_encoder": clip(CLIPTextModel, POOLED),
            "tokenizer": clip_letters(),
            "text_encoder_2": t5(T5EncoderModel),
            "tokenizer_2": t5_letters(),
        }
    if family in ("flux2", "qwen"):
        return {"text_encoder": qwen(family), "tokenizer": qwen_letters()}
    first = CLIPTextModel if family == "sdxl" else CLIPTextModelWithProjection
    pooled = POOLED if family == "sdxl" else POOLED // 2
    both = {
        "text_encoder": clip(first, TEXT // 2, pooled),
        "tokenizer": clip_letters(),
        "text_encoder_2": clip(CLIPTextModelWithProjection, TEXT // 2, pooled),
        "tokenizer_2": clip_letters(),
    }
    third = {"text_encoder_3": t5(T5EncoderModel), "tokenizer_3": t5_letters()}
    return both if family == "sdxl" else both | third


LETTERS = [chr(code) for code in range(97, 123)]


def clip(kind: type, width: int, projection: int = POOLED) -> torch.nn.Module:
    """A CLIP of letters."""
    from transformers import CLIPTextConfig

    sizes = {"hidden_size": width, "intermediate_size": 16, "projection_dim": projection}
    depth = {"num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    return kind(CLIPTextConfig(**sizes, **depth, **ends, vocab_size=54, max_position_embeddings=9))


def clip_letters() -> object:
    """Its tokenizer: nine tokens a text."""
    from transformers import CLIPTokenizer

    every = [*LETTERS, *(f"{x}</w>" for x in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(every)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=9)


def t5(kind: type) -> torch.nn.Module:
    """A T5 of letters."""
    from transformers import T5Config

    sizes = {"d_model": TEXT, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return kind(T5Config(**sizes, vocab_size=32))


def t5_letters() -> object:
    """Its tokenizer."""
    from transformers import T5TokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in LETTERS]
    return T5TokenizerFast(vocab=pieces, extra_ids=0)


def qwen(family: str) -> torch.nn.Module:
    """A language model of letters: FLUX.2's, read at layers 9, 18 and 27, or Qwen-Image's."""
    import transformers

    sizes = {"intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    sizes |= {"vocab_size": 300}
    if family == "flux2":
        depth = {"num_hidden_layers": 28, "head_dim": 4}
        config = transformers.Qwen3Config(**sizes, **depth, hidden_size=TEXT // 3)
        return transformers.Qwen3ForCausalLM(config)
    rotation = {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 10000.0}
    told = {**sizes, "hidden_size": TEXT, "num_hidden_layers": 1, "rope_parameters": rotation}
    seen = {"depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": TEXT}
    config = transformers.Qwen2_5_VLConfig(text_config=told, vision_config=seen)
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def qwen_letters() -> object:
    """Their tokenizer: a token a byte, and a conversation's template."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    every = [*sorted(ByteLevel.alphabet()), "<|endoftext|>"]
    tokenizer = Qwen2Tokenizer(vocab={token: i for i, token in enumerate(every)}, merges=[])
    tokenizer.chat_template = "{% for each in messages %}{{ each.content }}{% endfor %}"
    return tokenizer


def save_with_encoders(family: str, folder: Path) -> diffusers.DiffusionPipeline:
    """The whole pipeline in the folder, and the pipeline itself."""
    save_pipeline(family, folder)
    parts = encoders(family)
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    made = pipeline_of(family, folder, **parts)
    made.save_pretrained(folder)
    return made


def pipeline_of(family: str, folder: Path, **more: object) -> diffusers.DiffusionPipeline:
    """diffusers' own pipeline of the folder's parts, without text encoders but for `more`."""
    made = FAMILIES[family]
    kind = getattr(diffusers, made.pipeline)
    parts = {
        component(family): getattr(diffusers, made.network).from_pretrained(
            folder / component(family), low_cpu_mem_usage=False
        ),
        "vae": getattr(diffusers, made.autoencoder).from_pretrained(
            folder / "vae", low_cpu_mem_usage=False
        ),
        "scheduler": getattr(diffusers, made.scheduler).from_pretrained(folder / "scheduler"),
        **more,
    }
    takes = inspect.signature(kind.__init__).parameters
    absent = {
        name: None
        for name, each in takes.items()
        if name not in (*parts, "self") and each.default is inspect.Parameter.empty
    }
    if family == "sd":
        absent["requires_safety_checker"] = False
    pipeline = kind(**parts, **absent)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
