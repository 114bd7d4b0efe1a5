"""Every released weight by name: where it lies, its licence, and proof that it has not changed."""

import difflib
import json
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

from diffdict.checkpoints.diffusers import sees_pixels, unet_weights
from diffdict.errors import UserError
from diffdict.files import download, json_text, sha256, write_atomic

OPENAI = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021"
YANDEX = "https://storage.yandexcloud.net/yandex-research/ddpm-segmentation/models"
META = "https://dl.fbaipublicfiles.com"
PACKAGED = Path(__file__).parent.parent / "weights"
BY_DOMAIN = ("mae", "swav_w2", "swav")  # networks whose weights are named after their pictures
PYTORCH_FID = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights"
PDAE_DPMS = "https://drive.google.com/drive/folders/1mU6zgo8WYjNmUtLXZAcsXzv8RghWN9zv"
FID_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
VISSL = "classy_state_dict.base_model.model"  # where its files keep trunk and heads
WEIGHTS = (".ckpt", ".pt", ".pth", ".safetensors")  # how files of weights end
CC_BY_NC = "CC BY-NC 4.0: non-commercial use only"


class Released(NamedTuple):
    """One file of weights that somebody published."""

    url: str
    licence: str
    layout: str | None  # how the file is opened; None: found out
    sha256: str | None  # pinned by us; None: its authors published none, the first sight counts
    size: int | None  # bytes; None: the server says it before the download starts
    note: str  # what it is
    inside: str | None = None  # its place in a folder that no program can fetch from: the url's

    @property
    def suffix(self) -> str:
        """.pt, .pth or .pth.tar"""
        return "".join(Path(self.inside or self.url).suffixes)


@cache
def releases() -> dict[str, Released]:
    """Name → released weights."""
    sets = {"lsun_bedroom": "LSUN bedroom", "ffhq": "FFHQ", "lsun_cat": "LSUN cat"}
    sets["lsun_horse"] = "LSUN horse"
    table = {}
    for name, what in sets.items():
        unet = f"guided-diffusion U-Net, {what} 256 px, as ddpm-segmentation used it (about 2.2 GB)"
        table[name] = _free(f"{YANDEX}/ddpm_checkpoints/{name}.pt", "MIT", "flat", unet)
        for kind, what_kind in (
            ("mae", "MAE ViT-L/8"),
            ("swav", "SwAV ResNet-50"),
            ("swav_w2", "SwAV ResNet-50 twice as wide"),
        ):
            table[f"{kind}_{name}"] = _free(
                f"{YANDEX}/{kind}_checkpoints/{name}.pth",
                f"MIT; made with Meta's {what_kind.split()[0]} code ({CC_BY_NC})",
                "model" if kind == "mae" else "state_dict",
                f"{what_kind}, {what} 256 px, from ddpm-segmentation",
            )
    for name in ("lsun_bedroom", "lsun_cat", "lsun_horse", "lsun_horse_nodropout"):
        unet = f"OpenAI's own guided-diffusion U-Net {name}, 256 px (about 2.2 GB)"
        table[f"openai_{name}"] = _free(f"{OPENAI}/{name}.pt", "MIT", "flat", unet)
    for name, file in (
        ("swav_imagenet", "swav_800ep_pretrain"),
        ("swav_w2_imagenet", "swav_RN50w2_400ep_pretrain"),
    ):
        url = f"{META}/deepcluster/{file}.pth.tar"
        table[name] = _free(url, CC_BY_NC, None, "SwAV ResNet-50 on ImageNet")
    table |= _rcdms() | _encoders()
    inception = f"{PYTORCH_FID}/pt_inception-2015-12-05-6726825d.pth"
    table["fid_inception"] = Released(
        inception, "Apache 2.0", "flat", FID_SHA256, 95_628_359, "Inception v3 as FID knows it"
    )
    dit = "DiT-XL/2, ImageNet 256 px, on latents of 32 × 32 (about 2.7 GB)"
    table["dit_xl_2_256"] = _free(f"{META}/DiT/models/DiT-XL-2-256x256.pt", CC_BY_NC, "flat", dit)
    for name, what in _DPMS.items():
        note = f"PDAE's frozen diffusion network, {what}"
        inside = f"{name}/checkpoint.pt"
        released = Released(PDAE_DPMS, "none stated", "ema_denoise_fn", None, None, note, inside)
        table[f"dpm_{name}"] = released
    return table


_DPMS = {
    "celeba64": "CelebA 64 px",
    "celebahq128": "CelebA-HQ 128 px",
    "ffhq128": "FFHQ 128 px",
    "horse128": "LSUN horse 128 px",
    "bedroom128": "LSUN bedroom 128 px",
}
_HEADS = {"simclr": 128, "barlow": 8192, "vicreg": 8192, "dino": 256}  # the width of each


def _rcdms() -> dict[str, Released]:
    """The nine published RCDMs, and what each must be told."""
    representations = {"supervised": ("supervised", 2048)}
    for ssl, width in _HEADS.items():
        representations |= {f"{ssl}_trunk": (f"{ssl} part=trunk", 2048)}
        representations |= {f"{ssl}_head": (f"{ssl} part=head", width)}
    return {
        f"rcdm_{name}": _free(
            f"{META}/rcdm/rcdm_ema_{name}.pt",
            CC_BY_NC,
            "flat",
            f"RCDM U-Net, ImageNet 128 px (about 1.7 GB), told the vector of "
            f"representation={what}, {width} wide",
        )
        for name, (what, width) in representations.items()
    }


def _encoders() -> dict[str, Released]:
    """The ResNet-50s whose vectors the published RCDMs are told."""
    zoo = f"{META}/vissl/model_zoo"
    simclr = "simclr_rn50_1000ep_simclr_8node_resnet_16_07_20.afe428c7"
    barlow = "barlow_twins/barlow_twins_32gpus_4node_imagenet1k_1000ep_resnet50.torch"
    files = {
        "supervised": (
            "https://download.pytorch.org/models/resnet50-0676ba61.pth",
            "BSD 3-Clause (torchvision); learned from ImageNet (non-commercial research)",
            "flat",
        ),
        "simclr": (
            f"{zoo}/{simclr}/model_final_checkpoint_phase999.torch",
            "MIT, as VISSL's code",
            VISSL,
        ),
        "barlow": (f"{zoo}/{barlow}", "MIT, as VISSL's code", VISSL),
        "vicreg": (f"{META}/vicreg/resnet50_fullckpt.pth", CC_BY_NC, "model"),
        "dino": (
            f"{META}/dino/dino_resnet50_pretrain/dino_resnet50_pretrain_full_checkpoint.pth",
            "Apache 2.0",
            "teacher",
        ),
    }
    return {
        f"encoder_{kind}": _free(url, licence, layout, f"ResNet-50 of ImageNet by {kind}")
        for kind, (url, licence, layout) in files.items()
    }


def _free(url: str, licence: str, layout: str | None, note: str) -> Released:
    return Released(url, licence, layout, None, None, note)


def packaged() -> dict[str, Path]:
    """Name → weights that come with diffdict."""
    return {path.stem: path for path in sorted(PACKAGED.glob("*.safetensors"))}


def folder_of_weights(folder: str | Path | None = None) -> Path:
    """Where fetched weights are kept: the argument, $DIFFDICT_CHECKPOINTS, or ./checkpoints."""
    return Path(folder or os.environ.get("DIFFDICT_CHECKPOINTS") or "checkpoints")


def resolve(checkpoint: str | Path, folder: str | Path | None = None) -> Path:
    """The file of a released name (fetched when it is missing), a packaged name, or a path.

    Of a folder that diffusers saved, the U-Net's.
    """
    name = str(checkpoint)
    if name in releases():
        return fetch(name, folder)
    if name in packaged():
        return packaged()[name]
    path = Path(checkpoint)
    if path.is_file():
        return path
    if path.is_dir() and (inside := unet_weights(path)):
        return inside
    check_domain(name)
    raise UserError(_absent(path))


def _absent(path: Path) -> str:
    """That no checkpoint is there, and those that are: in the folder, or among the known names."""
    name, names = str(path), [*packaged(), *releases()]
    if not path.is_dir() and path.name == name and not path.suffix:
        near = difflib.get_close_matches(name, names, 1)
        hint = f". Did you mean {near[0]}?" if near else ""
        return f"No checkpoint {name!r}: neither a file nor one of {', '.join(names)}{hint}"
    folder = path if path.is_dir() else path.parent
    here = [str(one) for one in sorted(folder.glob("*")) if one.suffix in WEIGHTS][:3]
    what = f"{name} is a folder" if path.is_dir() else f"No file {name}"
    there = f"such as {' or '.join(here)}" if here else f"{folder} holds none"
    return f"{what}: name a checkpoint (last.ckpt of a run, or a file of weights), {there}"


def check_domain(checkpoint: str | Path) -> None:
    """Nothing, or the domains that a network has weights of, when another one's are asked for."""
    name = str(checkpoint)
    kind = _kind(name)
    if kind is None or name in releases() or not name.isidentifier() or Path(name).exists():
        return
    domains = [one.removeprefix(f"{kind}_") for one in releases() if _kind(one) == kind]
    raise UserError(
        f"No weights of {kind} were released for {name.removeprefix(f'{kind}_')}, only for "
        f"{', '.join(domains)}: domain={domains[0]} dataset.image_size=256 (they are of 256 "
        "px), or backbone.checkpoint=FILE"
    )


def _kind(name: str) -> str | None:
    """swav_w2 of swav_w2_ffhq; None of a name without a domain."""
    return next((kind for kind in BY_DOMAIN if name.startswith(f"{kind}_")), None)


def sha256_at_hand(checkpoint: str | Path, folder: str | Path | None = None) -> str | None:
    """The sha256 of weights that lie on this machine; None rather than a download."""
    entry = releases().get(str(checkpoint))
    if entry is not None:
        path = folder_of_weights(folder) / f"{checkpoint}{entry.suffix}"
        return proven(checkpoint, path) if path.is_file() else None
    path = packaged().get(str(checkpoint), Path(checkpoint))
    if path.is_dir():  # of latents' networks the file alone does not say what they see
        path = unet_weights(path) if sees_pixels(path) else None
    return sha256(path) if path is not None and path.is_file() else None


def fetch(name: str, folder: str | Path | None = None) -> Path:
    """The released file in the folder of weights, downloaded when it is missing."""
    entry = releases()[name]
    path = folder_of_weights(folder) / f"{name}{entry.suffix}"
    if not path.exists() and entry.inside is not None:
        raise UserError(
            f"{name} can be fetched by nobody but a person: take {entry.inside} out of {entry.url} "
            f"and put it at {path}, or give backbone.checkpoint=FILE"
        )
    if not path.exists():
        note = f"{entry.note}. Licence: {entry.licence}."
        download(entry.url, path, sha256=entry.sha256, note=note)
    return path


def proven(checkpoint: str | Path, path: Path) -> str:
    """The file's sha256; that of a released file must be what it was at first sight."""
    entry = releases().get(str(checkpoint))
    if entry is None:
        return sha256(path)
    record = _record_of(path)
    proof = _recorded(record)
    if proof.get("file") == _signature(path) and entry.sha256 in (None, proof["sha256"]):
        return proof["sha256"]
    digest, _ = recheck(path, entry.sha256)
    _remember(record, {"sha256": digest, "url": entry.url, "file": _signature(path)})
    return digest


def recheck(path: Path, pinned: str | None = None) -> tuple[str, bool]:
    """The file's sha256, and whether there was one to compare it with."""
    record = _record_of(path)
    digest, wanted = sha256(path), pinned or _recorded(record).get("sha256")
    if wanted not in (None, digest):
        raise UserError(
            f"{path} has changed: its sha256 is {digest}, it was {wanted}. Remove it and "
            f"{record.name} to fetch it again, or give a copy's path to use it as it is."
        )
    return digest, wanted is not None


def _record_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256.json")


def _signature(path: Path) -> list[int]:
    """What changes when a file is written again: 2 GB are not hashed at every start."""
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns, facts.st_ino]


def _recorded(record: Path) -> dict:
    if not record.exists():
        return {}
    try:
        proof = json.loads(record.read_bytes())
        return {"sha256": str(proof["sha256"]), "file": list(proof["file"])}
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{record} is damaged: remove it to trust the weights afresh.") from error


def _remember(record: Path, facts: dict) -> None:
    try:
        write_atomic(record, json_text(facts, indent=1).encode())
    except UserError:  # a shared folder that only its owner writes: hashed again at the next start
        return
