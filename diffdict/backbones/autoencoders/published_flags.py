"""What no shape tells of PDAE's networks: usual values, and the config.yml beside their files."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from diffdict.errors import UserError

KEPT = {  # the published names of what no shape tells, and ours
    "num_heads": "num_heads",
    "head_channel": "num_head_channels",
    "use_new_attention_order": "use_new_attention_order",
    "dropout": "dropout",
}
USUAL = {  # of published networks
    "num_heads": 4,
    "num_head_channels": -1,
    "use_new_attention_order": False,
    "dropout": 0.0,
    "predict": "eps",
}
SHAPED = {  # those of what the shapes tell too
    "base_channel": "num_channels",
    "num_residual_blocks_of_a_block": "num_res_blocks",
    "channel_multiplier": "channel_mult",
    "attention_resolutions": "attention_resolutions",
    "learn_sigma": "learn_sigma",
}


def published_flags(path: str, found: Mapping, image_size: int) -> dict[str, object]:
    """What no shape tells, from a published config.yml whose other flags fit the shapes."""
    settings = published_settings(path)
    deepest = 2 ** (len(list_options(found["channel_mult"])) - 1)
    factors = sorted(settings["attention_resolutions"])  # sides fall as factors rise
    reached = [factor for factor in factors if factor <= deepest]
    settings["attention_resolutions"] = [image_size // factor for factor in reached]
    for published, ours in SHAPED.items():
        value = settings.get(published, False)
        if list_options(value) != list_options(found[ours]):
            raise UserError(
                f"{path} does not fit the weights: {published} makes {ours}={value}, and the file "
                f"has {found[ours]}. Give the config.yml that lies beside the frozen network"
            )
    return {ours: settings[published] for published, ours in KEPT.items()}


def published_settings(path: str) -> dict:
    """The denoise_fn_config of a published YAML, whole."""
    try:
        content = yaml.safe_load(Path(path).read_text())
    except OSError:
        raise UserError(
            f"No file {path}: flags names the config.yml that lies beside the frozen network's "
            "checkpoint"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise UserError(f"{path} is no YAML: give the config.yml as it was published") from None
    settings = content.get("denoise_fn_config") if isinstance(content, Mapping) else None
    wanted = [key for key in (*SHAPED, *KEPT) if key != "learn_sigma"]
    missing = [key for key in wanted if not isinstance(settings, Mapping) or key not in settings]
    if missing:
        raise UserError(
            f"{path} does not say {missing[0]} under denoise_fn_config: give the config.yml of the "
            "diffusion network, not of the run that trained its code"
        )
    numbers = settings["attention_resolutions"]
    if not isinstance(numbers, list) or not all(isinstance(n, int) and n > 0 for n in numbers):
        raise UserError(f"{path}: attention_resolutions are downsampling factors, got {numbers}")
    wrong = [key for key in KEPT if not isinstance(settings[key], int | float)]
    if wrong:
        raise UserError(f"{path}: {wrong[0]} is a number or a bool, got {settings[wrong[0]]!r}")
    return dict(settings)


def list_options(flag: object) -> object:
    """A flag's numbers, whether from a comma string or a list; anything else as it is."""
    flag = [n for n in flag.split(",") if n] if isinstance(flag, str) else flag
    try:
        return [float(number) for number in flag] if isinstance(flag, list) else flag
    except (TypeError, ValueError):
        return flag
