"""Each family of backbone=hub against diffusers' own classes: latents, noise, maps, edits."""

import math
from functools import partial

import diffusers
import pytest
import torch
import torch.nn.functional as F

from diffdict.backbones.hub import Hub
from diffdict.backbones.hub.families.flux import packed
from diffdict.backbones.hub.memory import FusedAttention, TensorMemory, pass_bytes
from diffdict.errors import UserError
from diffdict.files import human_bytes
from diffdict.run.info import info
from tests.tiny_pipelines import (
    FACTOR,
    FAMILIES,
    SIDE,
    component,
    latent_shape,
    pipeline_of,
    told,
    words,
)

OUTER = {
    "sd": ["down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.0", "up_blocks.1"],
    "dit": [f"transformer_blocks.{i}" for i in range(3)],
    "flux": [
        *(f"transformer_blocks.{i}" for i in range(2)),
        *(f"single_transformer_blocks.{i}" for i in range(2)),
    ],
}
OUTER |= {"sdxl": OUTER["sd"], "flux2": OUTER["flux"]}
OUTER |= dict.fromkeys(("pixart", "sd3", "qwen"), OUTER["dit"])
MODULATED = [family for family in FAMILIES if family not in ("sd", "sdxl")]
TWO_STREAMS = ("sd3", "flux", "flux2", "qwen")
LATENT = SIDE // FACTOR


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture
def net(family, folders) -> Hub:
    return make(family, folders)


def make(family, folders, **settings) -> Hub:
    settings = {**told(family, folders[family]), **settings}
    return Hub(str(folders[family]), SIDE, **settings).requires_grad_(False).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def noise(request) -> torch.Tensor:
    family = request.getfixturevalue("family") if "family" in request.fixturenames else "sd"
    return torch.randn(1, *latent_shape(family), generator=torch.Generator().manual_seed(2))


def theirs(family: str, folder) -> torch.nn.Module:
    """diffusers' own network, read by itself."""
    kind = getattr(diffusers, FAMILIES[family].network)
    return kind.from_pretrained(folder / component(family)).eval()


def newest_arguments(
    family: str, x_t: torch.Tensor, at: torch.Tensor, states: torch.Tensor
) -> dict:
    """Of FLUX.2 and Qwen-Image."""
    if family == "flux2":
        pipeline = diffusers.Flux2KleinPipeline
        return {
            "hidden_states": pipeline._pack_latents(x_t),
            "timestep": at,
            "encoder_hidden_states": states,
            "img_ids": pipeline._prepare_latent_ids(x_t),
            "txt_ids": pipeline._prepare_text_ids(states),
        }
    mask = words(family)["prompt_embeds_mask"].expand(len(x_t), -1)
    return {
        "hidden_states": diffusers.QwenImagePipeline._pack_latents(
            x_t, len(x_t), 4, LATENT, LATENT
        ),
        "timestep": at,
        "encoder_hidden_states": states,
        "encoder_hidden_states_mask": mask,
        "img_shapes": [[(1, LATENT // 2, LATENT // 2)]] * len(x_t),
    }


def arguments(family: str, x_t: torch.Tensor, t: int) -> dict:
    """What the family's pipeline in diffusers calls its network with."""
    batch, text = len(x_t), words(family)
    states = text["prompt_embeds"].expand(batch, -1, -1)
    at = torch.full((batch,), t)
    if family == "sd":
        return {"sample": x_t, "timestep": t, "encoder_hidden_states": states}
    if family == "dit":
        null = torch.full((batch,), 1000)
        return {"hidden_states": x_t, "timestep": at, "class_labels": null}
    if family == "pixart":
        return {
            "hidden_states": x_t,
            "encoder_hidden_states": states,
            "encoder_attention_mask": text["prompt_attention_mask"].expand(batch, -1),
            "timestep": at,
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        }
    if family in ("flux2", "qwen"):
        return newest_arguments(family, x_t, at / 1000, states)
    pooled = text["pooled_prompt_embeds"].expand(batch, -1)
    if family == "sdxl":
        ids = torch.tensor([[SIDE, SIDE, 0, 0, SIDE, SIDE]]).float().expand(batch, -1)
        added = {"text_embeds": pooled, "time_ids": ids}
        return {
            "sample": x_t,
            "timestep": t,
            "encoder_hidden_states": states,
            "added_cond_kwargs": added,
        }
    if family == "sd3":
        return {
            "hidden_states": x_t,
            "timestep": at,
            "encoder_hidden_states": states,
            "pooled_projections": pooled,
        }
    pipeline = diffusers.FluxPipeline
    ids = pipeline._prepare_latent_image_ids(batch, LATENT // 2, LATENT // 2, "cpu", x_t.dtype)
    return {
        "hidden_states": pipeline._pack_latents(x_t, batch, 4, LATENT, LATENT),
        "timestep": at / 1000,
        "encoder_hidden_states": states,
        "pooled_projections": pooled,
        "img_ids": ids,
        "txt_ids": torch.zeros(states.shape[1], 3),
    }


def answered(family: str, answer: torch.Tensor) -> torch.Tensor:
    """A network's answer as its pipeline unpacks it."""
    if family == "flux":
        return diffusers.FluxPipeline._unpack_latents(answer, SIDE, SIDE, FACTOR)
    if family == "qwen":
        return diffusers.QwenImagePipeline._unpack_latents(answer, SIDE, SIDE, FACTOR)[:, :, 0]
    if family == "flux2":
        ids = diffusers.Flux2KleinPipeline._prepare_latent_ids(
            torch.zeros(len(answer), *latent_shape(family))
        )
        return torch.stack(list(diffusers.Flux2KleinPipeline._unpack_latents_with_ids(answer, ids)))
    return answer


def latents_of(family: str, folder, images: torch.Tensor) -> torch.Tensor:
    """As an image-to-image pipeline makes them."""
    if family == "flux2":
        return pipeline_of(family, folder)._encode_vae_image(images, None)
    if family == "qwen":
        vae = diffusers.AutoencoderKLQwenImage.from_pretrained(folder / "vae").eval()
        mean, scale = (
            torch.tensor(x).view(1, 4, 1, 1)
            for x in (vae.config.latents_mean, [1 / std for std in vae.config.latents_std])
        )
        return (vae.encode(images[:, :, None]).latent_dist.mode()[:, :, 0] - mean) * scale
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae").eval()
    mean = vae.encode(images).latent_dist.mean
    return (mean - (vae.config.shift_factor or 0)) * vae.config.scaling_factor


def noised(family: str, latents, noise, t: int) -> torch.Tensor:
    """By the pipeline's scheduler; a flow's unshifted one, whose table has every thousandth."""
    made = FAMILIES[family]
    kind, at = getattr(diffusers, made.scheduler), torch.full((len(latents),), t)
    noise = noise.expand_as(latents)
    if made.scheduler.startswith("FlowMatch"):
        return kind().scale_noise(latents, at.float(), noise)
    return diffusers.DDPMScheduler(
        **{key: x for key, x in made.settings.items() if key.startswith("beta")}
    ).add_noise(latents, noise, at)


def picture(family: str, block: str, output) -> torch.Tensor:
    """A block's map in diffusers' words: what of its output is the picture, in its place."""
    if family in TWO_STREAMS and isinstance(output, tuple):
        output = output[1]
    x = output[0] if isinstance(output, tuple) else output
    if x.ndim == 4:
        return x
    side = LATENT // 2
    return x[:, -side * side :].transpose(1, 2).reshape(len(x), -1, side, side)


@torch.no_grad()
def seen_by_diffusers(family: str, network, x_t, t: int) -> dict[str, torch.Tensor]:
    """What every named layer hands on in diffusers' own full pass, and what that answers."""
    seen = {}

    def keep(name, module, args, output) -> None:
        seen[name] = picture(family, name, output) if name in wanted else None

    wanted = set(OUTER[family])
    wanted |= {"up_blocks.0.attentions.0", "mid_block.resnets.1"} if "sd" in family[:2] else set()
    wanted -= {"up_blocks.0.attentions.0", "mid_block.resnets.1"} if family == "sd3" else set()
    for name, module in network.named_modules():
        if name in wanted:
            module.register_forward_hook(partial(keep, name))
    seen["answer"] = network(**arguments(family, x_t, t), return_dict=False)[0]
    return seen


def test_maps_are_what_hooks_see_in_diffusers_own_pass(family, folders, net, images, noise):
    t = 500
    x_t = noised(family, latents_of(family, folders[family], images), noise, t)
    seen = seen_by_diffusers(family, theirs(family, folders[family]), x_t, t)
    answer = seen.pop("answer")
    maps = net.features(images, t, list(seen), noise)
    assert set(maps) == set(seen)
    for block, x in maps.items():
        torch.testing.assert_close(x, seen[block], atol=1e-5, rtol=1e-5)
        assert tuple(x.shape[1:]) == net.shapes[block]
    answer = answered(family, answer)
    ours = net(x_t, torch.full((2,), t))
    torch.testing.assert_close(ours, answer, atol=1e-5, rtol=1e-5)


def test_the_usual_blocks_are_those_that_stand_in_no_other(family, net, images, noise):
    assert net.chosen(None) == OUTER[family]
    assert list(net.features(images[:1], 9, None, noise)) == OUTER[family]


def test_latents_are_the_pipelines(family, folders, net, images):
    torch.testing.assert_close(net.prepared(images), latents_of(family, folders[family], images))
    shape = latent_shape(family)
    latents = torch.randn(1, *shape)
    assert net.prepared(latents) is latents
    assert net.noise_shape((3, SIDE, SIDE)) == net.noise_shape(shape) == shape
    assert net.pictures(latents).shape == (1, 3, SIDE, SIDE)


def test_noise_is_the_schedulers(family, folders, net, images, noise):
    latents = latents_of(family, folders[family], images)
    first = net.first_timestep
    for t in (first, 250, 750, first + 998):
        x_t, at = net.noised(latents, t, noise)
        own = noised(family, latents, noise, t)  # whose tables are in float32
        torch.testing.assert_close(x_t, own, atol=1e-5, rtol=1e-5)
        assert at.tolist() == [t, t]
    with pytest.raises(UserError, match=f"between {first} and {first + 999}, got 1001"):
        net.noised(latents, 1001, noise)


def test_a_shift_moves_the_stops_and_not_what_a_timestep_is(folders, images, noise):
    """At shift 3 the scheduler's table still holds 750 and 500, at other places."""
    net, latents = make("sd3", folders), latents_of("sd3", folders["sd3"], images)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    for t in (750, 500):
        at = scheduler.timesteps[(scheduler.timesteps - t).abs().argmin()]
        assert abs(at - t) < 1e-3
        own = scheduler.scale_noise(latents, at.expand(2), noise.expand_as(latents))
        torch.testing.assert_close(net.noised(latents, t, noise)[0], own)
    assert net.noise_level(500) == 1
    assert make("flux", folders).noise_level(750) == pytest.approx(3)


def test_packing_is_the_flux_pipelines(folders):
    x = torch.randn(2, 4, LATENT, LATENT + 4)
    own = diffusers.FluxPipeline._pack_latents(x, 2, 4, LATENT, LATENT + 4)
    assert torch.equal(packed(x), own)
    family = make("flux", folders).family
    assert torch.equal(family.prediction(own, x), x)


def test_a_pass_ends_with_the_last_block_and_equals_the_full_one(family, net, images, noise):
    blocks = OUTER[family][:2]
    full, called = net.features(images, 300, None, noise), []
    later = net.taps[OUTER[family][2]].module
    hook = later.register_forward_hook(lambda *_: called.append(1))
    early = net.features(images, 300, blocks, noise)
    hook.remove()
    assert not called
    assert all(torch.equal(early[block], full[block]) for block in blocks)


@pytest.mark.parametrize("taps", ["output", "input", "residual", "modulated"])
def test_an_edit_that_changes_nothing_changes_no_bit(family, folders, taps):
    if taps == "modulated" and family not in MODULATED:
        with pytest.raises(UserError, match="a UNet2DConditionModel has no such blocks"):
            make(family, folders, taps=taps)
        return
    net = make(family, folders, taps=taps)
    x, t = torch.randn(2, *latent_shape(family)), torch.tensor([300, 700])
    plain = net(x, t)
    same = {block: lambda h, at: h for block in net.shapes}
    assert torch.equal(net(x, t, edits=same), plain)
    for block in net.shapes:
        met = []

        def double(h, at, met=met):
            met.append(tuple(h.shape[1:]))
            return 2 * h

        assert not torch.equal(net(x, t, edits={block: double}), plain), block
        assert met == [net.shapes[block]]
    assert torch.equal(net(x, t), plain)


def test_an_edit_has_the_effect_of_a_hook(family, folders, net):
    block, t = OUTER[family][1], 400
    x = torch.randn(2, *latent_shape(family))
    own = theirs(family, folders[family])

    def change(module, args, output):
        if family in TWO_STREAMS:
            return output[0], output[1] + 1
        return (output[0] + 1, *output[1:]) if isinstance(output, tuple) else output + 1

    own.get_submodule(block).register_forward_hook(change)
    with torch.no_grad():
        answer = own(**arguments(family, x, t), return_dict=False)[0]
    answer = answered(family, answer)
    ours = net(x, torch.full((2,), t), edits={block: lambda h, at: h + 1})
    torch.testing.assert_close(ours, answer, atol=1e-5, rtol=1e-5)


def test_info_says_what_the_folder_holds_before_a_weight_is_read(family, folders, net):
    said = info(folders[family])
    network = theirs(family, folders[family])
    number = sum(parameter.numel() for parameter in network.parameters())
    assert f"{FAMILIES[family].network}, {number:,} parameters" in said
    assert f"blocks {', '.join(OUTER[family])}\n" in said
    text = "" if family == "dit" else " with 77 tokens of text"
    assert f"a pass over one picture{text} takes {human_bytes(pass_bytes(net.family, 77))} " in said
    level = net.noise_level(500)
    row = next(line for line in said.splitlines() if line.split()[0] == "500")
    assert float(row.split()[2]) == pytest.approx(level, rel=1e-3)
    assert float(row.split()[-1]) == pytest.approx(-2 * math.log(level), abs=0.01)


@torch.no_grad()
def test_a_pass_takes_what_its_tensors_hold_at_once():
    """Of a chain what goes into a layer and what comes out; no view of either, and no weight."""
    chain = torch.nn.Sequential(*(torch.nn.Linear(1000, 1000) for _ in range(5)))
    x = torch.ones(3, 1000)
    with TensorMemory() as memory:
        chain(x)
    assert memory.peak == 2 * x.nbytes
    assert memory.held == 0
    with TensorMemory() as memory:
        kept = [x + 1, x.T, x + 2]
    assert memory.peak == memory.held == 2 * x.nbytes
    del kept
    assert memory.held == 0
    query, value = torch.empty(1, 2, 50, 8, device="meta"), torch.empty(1, 2, 70, 4, device="meta")
    with TensorMemory() as memory, FusedAttention():
        F.scaled_dot_product_attention(query, query.new_empty(1, 2, 70, 8), value=value)
    assert memory.peak == 4 * (2 * 70 * 8 + 2 * 50 * 4)


def test_a_full_device_is_one_line(folders, monkeypatch):
    net = make("sd", folders)

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(net.network, "forward", full)
    with pytest.raises(UserError, match=r"with 2 pictures a batch does not fit .*dtype=bf16"):
        net.features(torch.zeros(2, 3, SIDE, SIDE), 50)
    net.network.half()
    with pytest.raises(UserError, match=r"no half precision of convolutions: backbone\.dtype=bf16"):
        net.features(torch.zeros(2, 3, SIDE, SIDE), 50)
