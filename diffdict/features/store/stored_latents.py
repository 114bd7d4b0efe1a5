"""Pictures whose latents lie in a store of task=latents: no autoencoder runs for them again."""

from pathlib import Path

from diffdict.backbones.autoencoders.latent_maps import BLOCK, LatentMaps, latents_name
from diffdict.backbones.denoiser import Denoiser
from diffdict.data.base import Pictures, PictureSample
from diffdict.errors import UserError
from diffdict.features.store import FeatureStore, store_path


class StoredLatents(Pictures):
    """The same pictures, labels and fingerprint; `image` is a picture's latents."""

    def __init__(self, pictures: Pictures, root: str | Path, backbone_name: str) -> None:
        path = store_path(Path(root), pictures.name, latents_name(backbone_name), pictures.split)
        if not (path / "store.json").is_file():
            raise UserError(
                f"No latents of {pictures.name} ({pictures.split}) in {path}: make them with the "
                "same words and task=latents, or latents=false"
            )
        self.pictures, self.split = pictures, pictures.split
        self.store = FeatureStore.open(path, expect={"dataset_hash": pictures.fingerprint})
        self.name, self.image_size = pictures.name, pictures.image_size
        self.fingerprint, self.labelled = pictures.fingerprint, pictures.labelled
        self.num_classes, self.class_names = pictures.num_classes, pictures.class_names
        self.palette, self.ignore_label = pictures.palette, pictures.ignore_label
        self.picture_classes, self.attributes = pictures.picture_classes, pictures.attributes

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> PictureSample:
        latents = self.store[index][BLOCK]
        return {"image": latents.float(), "index": index, **self.pictures.labels(index)}

    def picture_name(self, index: int) -> str:
        """The picture's own."""
        return self.pictures.picture_name(index)

    def check_network(self, net: Denoiser) -> None:
        """Nothing, or that another autoencoder made them."""
        stored, ours = self.store.identity["backbone_sha256"], LatentMaps(net).sha256
        if stored != ours:
            raise UserError(
                f"The latents in {self.store.path} were made by another autoencoder or posterior "
                f"({stored[:12]}, this one is {ours[:12]}): delete that folder and make them again "
                "with task=latents, or latents=false"
            )
