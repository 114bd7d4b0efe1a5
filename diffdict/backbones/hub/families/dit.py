"""`DiTTransformer2DModel`: DiT of ImageNet's classes (Peebles & Xie 2023), as diffusers has it."""

from torch import Tensor

from diffdict.backbones.hub.families.family import Family, Setting, as_batch


class ClassTransformer(Family):
    """Told a class; features are those of the null class, which stands after the last one."""

    of = "DiTTransformer2DModel"
    modulated = "attn1"

    @property
    def classes(self) -> int | None:
        """ImageNet's 1000, unless told."""
        return self.config.get("num_embeds_ada_norm") or 1000

    def arguments(self, x_t: Tensor, t: Tensor, setting: Setting) -> dict[str, object]:
        """A label a picture."""
        return {
            "hidden_states": x_t,
            "timestep": as_batch(t, x_t),
            "class_labels": setting.label.to(x_t.device),
        }
