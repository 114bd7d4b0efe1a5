"""U-Nets from diffusers' folders, against diffusers itself; and folders that will not do."""

import json
import sys
from functools import partial

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.models.attention import JointTransformerBlock
from diffusers.models.transformers.transformer_flux import FluxTransformerBlock
from safetensors.torch import load_file, save_file

from diffdict import checkpoints
from diffdict.backbones.hub import Hub, picture_stream
from diffdict.errors import UserError

SMALL = {
    "sample_size": 16,
    "block_out_channels": (16, 32, 32),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 8,
    "attention_head_dim": 8,
}
COSINE = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 500}


@pytest.fixture(scope="module")
def unet() -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(**SMALL).eval()


@pytest.fixture(scope="module")
def pipeline(unet, tmp_path_factory):
    """A pipeline's folder: the U-Net and its schedule."""
    folder = tmp_path_factory.mktemp("pipeline")
    unet.save_pretrained(folder / "unet")
    DDPMScheduler(**COSINE).save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture
def folder(unet, tmp_path):
    """A U-Net's own folder, to be spoiled."""
    unet.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def everything(unet: UNet2DModel, x_t, t) -> dict:
    """What every layer of the way up hands on in diffusers' own full pass."""
    seen = {}

    def keep(name: str, module, inputs, output) -> None:
        seen[name] = output

    for name, module in unet.up_blocks.named_modules():
        module.register_forward_hook(partial(keep, name))
    with torch.no_grad():
        seen["out"] = unet(x_t, t).sample
    return seen


def test_blocks_are_what_diffusers_own_pass_sees(unet, pipeline):
    net = Hub(str(pipeline)).eval()
    images, noise = torch.rand(2, 3, 16, 16) * 2 - 1, torch.randn(1, 3, 16, 16)
    t = torch.tensor([120, 120])
    x_t = DDPMScheduler(**COSINE).add_noise(images, noise.expand_as(images), t)
    own = UNet2DModel.from_pretrained(pipeline / "unet").eval()
    seen = everything(own, x_t, t)
    layers = ["0.resnets.0", "0.upsamplers.0", "1.attentions.0", "1.upsamplers.0"]
    layers += ["2.resnets.0", "2.resnets.1"]
    with torch.no_grad():
        maps = net.features(images, 120, None, noise)
        torch.testing.assert_close(net(x_t, t), seen["out"])
    assert list(maps) == list(range(6))
    for layer, x in zip(layers, maps.values(), strict=True):
        torch.testing.assert_close(x, seen[layer], atol=1e-5, rtol=1e-5)
    assert {block: tuple(x.shape[1:]) for block, x in maps.items()} == net.shapes
    assert (net.num_timesteps, net.image_size) == (500, 16)


def test_nothing_is_computed_after_the_last_block(pipeline):
    net, called = Hub(str(pipeline)).eval(), []
    for name, module in net.unet.up_blocks.named_modules():
        if name.count(".") == 2:
            module.register_forward_hook(lambda *_, name=name: called.append(name))
    with torch.no_grad():
        got = net.features(torch.rand(1, 3, 16, 16), 7, [2, 0])
        assert called[:3] == ["0.resnets.0", "0.resnets.1", "0.upsamplers.0"]
        assert called[3:] == ["1.resnets.0", "1.attentions.0"]
        assert net(torch.rand(1, 3, 16, 16), torch.tensor([7])).shape == (1, 3, 16, 16)
    assert list(got) == [0, 2]


def test_edits_change_what_follows_and_leave_no_trace(pipeline):
    net = Hub(str(pipeline)).eval()
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 400])
    with torch.no_grad():
        plain = net(x, t)
        assert torch.equal(net(x, t, edits={b: lambda h, t: h for b in net.shapes}), plain)
        for block, shape in net.shapes.items():
            met = []

            def silence(h, at, met=met):
                met.append((tuple(h.shape[1:]), at))
                return torch.zeros_like(h)

            assert not torch.equal(net(x, t, edits={block: silence}), plain)
            assert met == [(shape, t)]
        assert torch.equal(net(x, t), plain)


def test_of_two_streams_the_picture_is_taken():
    text, picture = torch.randn(2, 5, 32), torch.randn(2, 16, 32)
    time = torch.randn(2, 32)
    for last in (False, True):
        block = JointTransformerBlock(32, 2, 16, context_pre_only=last).eval()
        seen = block(hidden_states=picture, encoder_hidden_states=text, temb=time)
        assert seen[picture_stream(seen)].shape == picture.shape
    block = FluxTransformerBlock(32, 2, 16).eval()
    seen = block(hidden_states=picture, encoder_hidden_states=text, temb=time)
    assert seen[picture_stream(seen)].shape == picture.shape
    assert seen[1 - picture_stream(seen)].shape == text.shape
    assert picture_stream((torch.randn(2, 8, 4, 4),)) == 0
    assert picture_stream((torch.randn(2, 8, 4, 4), torch.randn(2, 16, 32))) == 0


def test_a_bare_folder_has_the_linear_schedule_and_any_size_that_halves(folder):
    net = Hub(str(folder), 32)
    assert net.process.steps == 1000
    torch.testing.assert_close(net.process.betas[[0, -1]].float(), torch.tensor([1e-4, 0.02]))
    assert (net.shapes[0], net.shapes[5]) == ((32, 8, 8), (16, 32, 32))
    assert net.shapes[1] == (32, 16, 16)


def test_names_of_old_are_read_as_diffusers_reads_them(unet, folder):
    path = folder / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for key, x in load_file(path).items():
        for now, then in old.items():
            key = key.replace(now, then) if "attentions" in key else key
        state[key] = x
    assert any("proj_attn" in key for key in state)
    save_file(state, path, {"format": "pt"})
    theirs = UNet2DModel.from_pretrained(folder)
    ours = Hub(str(folder)).unet.state_dict()
    assert all(torch.equal(x, ours[key]) for key, x in theirs.state_dict().items())


def test_its_hash_is_the_files(folder):
    path = folder / "diffusion_pytorch_model.safetensors"
    assert (
        Hub(str(folder)).sha256 == Hub(str(path)).sha256 == checkpoints.load_state_dict(path).sha256
    )
    assert checkpoints.sha256_at_hand(folder) == Hub(str(folder)).sha256
    assert checkpoints.sha256_at_hand(folder.parent) is None


def test_a_single_variant_is_taken_and_pickles_and_parts_are_not(unet, folder):
    whole = folder / "diffusion_pytorch_model.safetensors"
    half = whole.rename(folder / "diffusion_pytorch_model.fp16.safetensors")
    assert Hub(str(folder)).unet.dtype == torch.float32
    half.rename(folder / "diffusion_pytorch_model-00001-of-00002.safetensors")
    with pytest.raises(UserError, match=r"no diffusion_pytorch_model\.safetensors: .*variant="):
        Hub(str(folder))
    for path in folder.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(UserError, match="is a folder"):
        Hub(str(folder))
    torch.save(unet.state_dict(), folder / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match=r"holds diffusion_pytorch_model\.bin, no .*its pickle"):
        Hub(str(folder))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"_class_name": "VQModel"},
            "is a VQModel; backbone=hub takes DiTTransformer2DModel, Flux",
        ),
        ({"_class_name": "UNet2DConditionModel"}, "stands in no pipeline with an autoencoder"),
        ({"in_channels": 4}, "is a U-Net of 4 channels; pictures have 3"),
        ({"num_class_embeds": 10}, "is a class-conditional U-Net"),
        ({"time_embedding_type": "fourier"}, "is a score network"),
        ({"sample_size": 18}, "sides are divisible by 4, got 18"),
        ({"sample_size": None}, "sides are divisible by 4, got None"),
        ({"block_out_channels": [16, 32, 64]}, "of another shape"),
    ],
)
def test_what_cannot_look_at_pictures_is_refused(folder, change, said):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=said) as told:
        Hub(str(folder))
    assert "\n" not in str(told.value)


def test_another_prediction_than_its_schedule_says_is_refused(pipeline, folder):
    assert Hub(str(folder), predict="v").predict == "v"  # nothing says otherwise
    with pytest.raises(
        UserError, match=r"learned to predict eps, got predict=v: say backbone\.pred"
    ):
        Hub(str(pipeline), predict="v")


def test_what_is_missing_is_said(folder, monkeypatch):
    with pytest.raises(UserError, match="needs a folder that diffusers saved"):
        Hub()
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"pip install 'diffdict\[diffusers\]'"):
        Hub(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is missing or damaged"):
        Hub(str(folder))
