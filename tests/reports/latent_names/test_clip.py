"""A random CLIP as the scorer of names, against transformers' own answer."""

import pytest
import torch

from diffdict.errors import UserError
from diffdict.reports.latent_names.clip import MEAN, STD, Clip
from tests.tiny_pipelines import clip_letters

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "projection_dim": 8}
    ends = {"bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    config = transformers.CLIPConfig(
        text_config={**sizes, **heads, **ends, "vocab_size": 54, "max_position_embeddings": 9},
        vision_config={**sizes, **heads, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(path)
    clip_letters().save_pretrained(path)
    return path


def test_scores_are_the_cosines_of_transformers(folder):
    torch.manual_seed(1)
    pixels = torch.rand(3, 3, 32, 32)
    scores = Clip(str(folder), template="{}")(pixels * 2 - 1, ["ab", "c"])
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    shape = (1, 3, 1, 1)
    normal = (pixels - torch.tensor(MEAN).view(shape)) / torch.tensor(STD).view(shape)
    tokens = clip_letters()(["ab", "c"], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(pixel_values=normal, **tokens).logits_per_image
    assert torch.allclose(scores, logits / model.logit_scale.exp(), atol=1e-5)


def test_crops_are_brought_to_its_own_size(folder):
    clip = Clip(str(folder))
    small = torch.zeros(1, 3, 20, 20)
    assert torch.allclose(clip(small, ["a"]), clip(torch.zeros(1, 3, 32, 32), ["a"]), atol=1e-5)


def test_pictures_statistics_are_the_folders(folder):
    usual = Clip(str(folder))
    kept = folder / "preprocessor_config.json"
    kept.write_text('{"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}')
    try:
        plain = Clip(str(folder))
    finally:
        kept.unlink()
    assert (plain.mean == 0).all()
    assert usual.mean.flatten().tolist() == pytest.approx(list(MEAN))


def test_what_is_no_clip_is_refused(tmp_path, folder):
    with pytest.raises(UserError, match="is no folder"):
        Clip(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no whole CLIPModel"):
        Clip(str(tmp_path))
    with pytest.raises(UserError, match="place for the name"):
        Clip(str(folder), template="a photo")
