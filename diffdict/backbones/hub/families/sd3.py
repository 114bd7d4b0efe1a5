"""`SD3Transformer2DModel`: Stable Diffusion 3 and 3.5, streams of text and picture side by side.

Esser et al. 2024.
"""

from torch import Tensor

from diffdict.backbones.hub.families.family import Family, Setting, as_batch, rows
from diffdict.backbones.hub.prompt import Prompt


class JointTransformer(Family):
    """Told the states of three encoders and one vector; a timestep is a thousandth of noise."""

    of = "SD3Transformer2DModel"
    cross, modulated, tokenizers = "attn", "attn", ("tokenizer", "tokenizer_3")

    @property
    def text(self) -> int | None:
        """Of the encoders' states, T5's width."""
        return self.config["joint_attention_dim"]

    @property
    def pooled(self) -> int | None:
        """Both CLIPs' vectors, one after the other."""
        return self.config["pooled_projection_dim"]

    def arguments(self, x_t: Tensor, t: Tensor, setting: Setting) -> dict[str, object]:
        """The text's states and its vector."""
        return {
            "hidden_states": x_t,
            "encoder_hidden_states": rows(setting.prompt.states, x_t),
            "pooled_projections": rows(setting.prompt.pooled, x_t),
            "timestep": as_batch(t, x_t),
        }

    def attends(self, keys: int, places: int) -> tuple[slice, slice]:
        """Joint layers: the picture first, then the text."""
        return slice(0, places), slice(places, None)

    def encode(self, pipeline: object, text: str | None) -> Prompt:
        """By two CLIPs and T5, without which the pipeline puts zeros."""
        words = {"prompt": text or "", "prompt_2": None, "prompt_3": None}
        states, _, pooled, _ = pipeline.encode_prompt(
            **words, do_classifier_free_guidance=False, device="cpu"
        )
        return Prompt(states, pooled)
