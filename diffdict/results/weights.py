"""The average network as a small file of its own, whenever it is better than before."""

import hashlib
from pathlib import Path

import pytorch_lightning as pl
import torch
from safetensors.torch import save
from torch import Tensor, nn

from diffdict import files
from diffdict.errors import UserError


class KeepWeights(pl.Callback):
    """`<run>/<name>.safetensors`: the best average network so far, in half precision."""

    def __init__(self, name: str, monitor: str = "val/loss", about: str = "") -> None:
        """`about`: what the file says of itself, besides step and score."""
        self.name, self.monitor, self.about = name, monitor, about
        self.best = float("inf")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes if the monitored figure is lower than ever."""
        if trainer.sanity_checking:
            return
        if self.monitor not in trainer.callback_metrics:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise UserError(
                f"KeepWeights watches {self.monitor}, which was not logged; logged: {logged}"
            )
        score = float(trainer.callback_metrics[self.monitor])
        if not score < self.best:
            return
        self.best = score
        if not trainer.is_global_zero:
            return
        facts = {
            "network": self.name,
            "about": self.about,
            "objective": str(pl_module.objective),  # what the network's output means
            "step": str(trainer.global_step),
            self.monitor: f"{score:.6g}",
        }
        path = Path(trainer.default_root_dir) / f"{self.name}.safetensors"
        net, flags = pl_module.exported()
        export_weights(net, path, facts | flags)

    def state_dict(self) -> dict[str, float]:
        """The best score: a resumed run does not put a worse network in its place."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Go on from the best score."""
        self.best = state_dict["best"]


def export_weights(net: nn.Module, path: str | Path, facts: dict[str, str]) -> Path:
    """The network's weights in fp16 safetensors, with its flags and these facts as metadata."""
    state = {key: half_precision(key, value) for key, value in net.state_dict().items()}
    flags = files.json_text(net.flags._asdict(), default=sorted)
    digest = hashlib.sha256(flags.encode()).hexdigest()
    metadata = {"format": "pt", **facts, "flags": flags, "flags_sha256": digest}
    return files.write_atomic(path, save(state, metadata))


def half_precision(key: str, value: Tensor) -> Tensor:
    """A float tensor in half precision, unless that cannot hold it."""
    if not value.is_floating_point():
        return value.detach().cpu().contiguous()
    half = value.detach().to("cpu", torch.float16).contiguous()
    if not half.isfinite().all():
        raise UserError(f"{key} does not fit half precision: the training has diverged")
    return half
