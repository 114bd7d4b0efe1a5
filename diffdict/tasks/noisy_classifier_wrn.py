"""`task=noisy_classifier_wrn`: a WideResNet from scratch that classifies noised pictures.

What a network does that is trained for nothing else, beside `task=noisy_classifier`, whose
features were learned without labels (Xiang et al. 2023). Its last.ckpt is a backbone too.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diffdict.backbones.base import Backbone, Block
from diffdict.backbones.wide_resnet import WideResNet
from diffdict.diffusion.objectives import Objective, draw_time
from diffdict.diffusion.process import noised_at
from diffdict.errors import UserError
from diffdict.tasks.noisy_classifier import NoisyClassifier

OUTPUT = "logits"  # what its answers are called where others name a block


class NoisyClassifierWrn(NoisyClassifier):
    """Learns the whole network, under timesteps of a chain or EDM's normal law of noise levels."""

    def __init__(
        self,
        net: Backbone,
        *,
        p_mean: int | float = -1.2,
        p_std: int | float = 1.2,
        **rest: object,
    ) -> None:
        """`p_mean` and `p_std`: of ln sigma in training along EDM's levels."""
        if not isinstance(net, WideResNet):
            raise UserError(
                f"task=noisy_classifier_wrn trains a WideResNet, got {net.name}: "
                "backbone=wide_resnet, or task=noisy_classifier for features of another network"
            )
        self.objective = Objective(p_mean=p_mean, p_std=p_std)
        super().__init__(net, **rest)

    def start(self) -> tuple[Block, int]:
        """The network learns from its first layer on."""
        net = self.passes.net
        if net.final_linear.out_features != len(self.class_names):
            raise UserError(
                f"{net.name} tells {net.final_linear.out_features} classes apart, and the pictures "
                f"have {len(self.class_names)}: backbone.num_classes={len(self.class_names)}"
            )
        self.net = net.requires_grad_(True).train()
        self.net.time_emb.requires_grad_(False)  # fixed random frequencies
        return OUTPUT, len(self.class_names)

    def logits(
        self, images: Float[Tensor, "batch 3 height width"], indices: Sequence[int], epoch: int
    ) -> Float[Tensor, "batch classes"]:
        """What it says of pictures, each at a random noise level of this epoch."""
        process = self.net.process
        draw = lambda generator: draw_time(self.objective, process, generator)  # noqa: E731
        t = self.draw(indices, epoch, draw).to(images.device)
        noise = self.epoch_noise(epoch).for_pictures(indices, tuple(images.shape[1:]))[0]
        x_t = process.noised(images, t, noise.to(images))
        timesteps = t if t.is_floating_point() else t + self.net.first_timestep
        return self.net(x_t, self.net.told(timesteps))

    def scores(
        self, images: Float[Tensor, "batch 3 height width"], indices: Sequence[int]
    ) -> Float[Tensor, "levels batch classes"]:
        """What it says at each timestep measured; the mean of its answers over draws of noise."""
        draws = self.noise.for_pictures(indices, tuple(images.shape[1:]))
        scores = []
        for level in self.passes.timesteps:
            inputs = [noised_at(self.net.process, images, level, noise) for noise in draws]
            scores.append(
                torch.stack([self.net(x_t, self.net.told(t)) for x_t, t in inputs]).mean(0)
            )
        return torch.stack(scores)

    @property
    def described(self) -> dict[str, object]:
        """What a checkpoint's network was learned on, in plain values."""
        return {"classes": self.class_names, "framework": self.passes.net.framework}
