"""PDAE's frozen diffusion networks from their files, with flags read off the shapes."""

from diffdict import checkpoints
from diffdict.backbones.autoencoders.published_flags import USUAL, published_flags
from diffdict.backbones.guided_unet import GuidedUNet
from diffdict.errors import UserError


def open_dpm(
    image_size: int,
    checkpoint: str | None,
    *,
    num_heads: int | None = None,
    num_head_channels: int | None = None,
    use_new_attention_order: bool | None = None,
    dropout: int | float | None = None,
    flags: str | None = None,
    name: str = "dpm",
) -> GuidedUNet:
    """A plain U-Net that predicts eps; null is what is usual of them.

    `flags` is the config.yml beside the file; it takes the place of the settings.
    """
    if checkpoint is None:
        raise UserError(
            f"The flags of {name} are read off its weights, got backbone.checkpoint=null: name its "
            "file, or take backbone=guided_unet for fresh weights"
        )
    weights = checkpoints.load_state_dict(checkpoint)
    shapes = {key: tuple(value.shape) for key, value in weights.state.items()}
    kind, architecture = checkpoints.infer_architecture(shapes, image_size)
    plain = "num_channels" in architecture and "ssl_dim" not in architecture
    if kind != checkpoints.GUIDED_UNET or not plain:
        raise UserError(
            f"{weights.path} holds {f'a {kind}' if kind else 'a network of unknown kind'}, not one "
            "of PDAE's diffusion networks: choose the backbone that the file was made for"
        )
    settings = {
        "num_heads": num_heads,
        "num_head_channels": num_head_channels,
        "use_new_attention_order": use_new_attention_order,
        "dropout": dropout,
    }
    settings = {key: value for key, value in settings.items() if value is not None}
    if flags is not None:
        settings |= published_flags(flags, architecture, image_size)
    return GuidedUNet(
        image_size, **architecture, **USUAL | settings, name=name, checkpoint=checkpoint
    )
