"""What stands before the words of a command that is mistyped."""

import torch

from tests.doors import FACES, NET, QUIET, SAE, TOKENS

DIFFUSION = [*QUIET, *NET, "data.batch_size=2", "data.num_workers=0", "callbacks.samples=null"]
DDAE = [  # a DDAE network of milliseconds
    *("backbone=ddae_small", "backbone.ch_mults=[1,1]", "backbone.is_attn=[false,false]"),
    *("backbone.n_blocks=1", *FACES),
]
PIXELS = [*QUIET, *FACES, "backbone=pixels", "timestep=null", "block=pixels"]
ATTRIBUTES = [
    *(*QUIET, *NET, "target=attributes", "timestep=10", "block=1"),
    *("dataset=folder", "dataset.image_size=16"),
]
AUGMENT = "{_target_:diffdict.data.augment.Augment}"
EDM = "backbone.framework=edm backbone.predict=x0"
GPUS = ("trainer.accelerator=gpu", "trainer=ddp", "trainer=gpu")
GPUS = () if torch.cuda.is_available() else GPUS  # asked for where there is none
NOISE_OF_GPUS = () if torch.cuda.is_available() else ("noise.device=cuda",)
SYNTHETIC = "task=pixel_mlp data.source=live dataset=synthetic dataset.image_size=null"
SETTINGS = {  # what stands before the words of a row
    "train": [*DIFFUSION, *FACES, "trainer.max_steps=2"],
    "train ddae": [
        *(*QUIET, *DDAE, "trainer.max_steps=2", "callbacks.samples=null"),
        *("data.batch_size=2", "data.num_workers=0"),
    ],
    "train pdae": [
        *(*QUIET, *NET, *FACES, "task=pdae", "backbone.checkpoint=diffusion/last.ckpt"),
        *("model.encoder.code=8", "data.batch_size=2", "data.num_workers=0"),
        *("trainer.max_steps=2", "model.autoencode.pictures=0"),
    ],
    "train set": [*DIFFUSION, "data.batch_size=3", "dataset.image_size=16"],
    "train attributes": [*ATTRIBUTES, "task=linear_probe", "data.num_workers=0"],
    "evaluate attributes": [*ATTRIBUTES, "task=probe_sweep", "noise.shared=false"],
    "train pictures": [*DIFFUSION, "data.batch_size=3", "dataset=folder", "dataset.image_size=16"],
    "train sae": [*SAE, *TOKENS, "trainer.max_steps=2"],
    "train mlp": [*PIXELS, "task=pixel_mlp", "data.source=live", "model.members=2"],
    "train deeplab": [*QUIET, "task=deeplab", "data.num_workers=0", "model.depth=50"],
    "train codes": [
        *(*QUIET, *FACES, "backbone=code_encoder", "backbone.code=8", "backbone.widths=[32,32]"),
        *(
            "data.source=live",
            "data.batch_size=2",
            "model.optimizer.lr=1e-3",
            "trainer.max_steps=1",
        ),
    ],
    "train views": [
        *(*QUIET, *FACES, "model.encoder.code=8", "model.encoder.widths=[32,32]"),
        *("data.num_workers=0", "trainer.max_steps=2"),
    ],
    "extract": [*QUIET, *NET, *FACES, "block=1"],
    "extract ddae": [*QUIET, *DDAE],
    "extract ddae samples": [*QUIET, *DDAE, "task=samples", "data.number=2"],
    "extract samples": [*QUIET, *NET, *FACES, "task=samples", "data.number=2"],
    "extract invert": [*QUIET, *NET, *FACES, "task=invert", "sampler.respacing=ddim2"],
    "train rcdm": [
        *(*QUIET, "task=rcdm", "backbone=rcdm", *NET, "dataset=toy_faces", *FACES),
        *("backbone@seer=pixels", "data.vectors=live", "trainer.max_steps=2"),
        *("data.batch_size=2", "data.num_workers=0", "callbacks.samples=null"),
    ],
    "extract rcdm": [
        *(*QUIET, "task=samples", "backbone=rcdm", *NET[:-1], "backbone.checkpoint=rcdm/last.ckpt"),
        *("dataset=toy_faces", *FACES, "sampler.respacing=ddim2"),
    ],
    "extract encoder": [*QUIET, "task=vectors", *FACES, "representation.checkpoint=null"],
    "extract codes": [*QUIET, "task=vectors", *FACES, "representation=codes"],
    "extract vectors": [
        *(*QUIET, "task=vectors", "dataset=toy_faces", *FACES),
        *("backbone@seer=pixels", "data.num_workers=0"),
    ],
    "extract steering": [
        *(*QUIET, "task=steering", "dictionary=sae", "data.number=2", "sampler.respacing=ddim2"),
    ],
    "extract steered pictures": [
        *(*QUIET, "task=steering", "dictionary=sae", *FACES, "sampler.respacing=ddim2"),
    ],
    "evaluate": QUIET,
    "bare train": [],
    "bare extract": [],
    "bare evaluate": [],
}
