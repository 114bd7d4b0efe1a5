"""What people mistype about codes: files and sheets of them, and what is learned in them."""

import torch

from tests.tiny_pdae import released_file, tiny_pdae

FILE = "dataset.image_size=16 backbone=pdae backbone.checkpoint="
ROWS = [
    *(
        ("evaluate", f"ckpt_path=pdae/last.ckpt report={word} report.{word}.{words}", *said)
        for word, words, *said in (
            ("counterfactual", "pairs=[[0,2]]", "asks for picture 2", "has 0 to 1"),
            ("counterfactual", "pairs=[[0]]", "got [[0]]", "pairs=[[0,1],[2,3]]"),
            ("counterfactual", "alphas=[0,1.5]", "got [0, 1.5]", "[0,0.5,1]"),
            ("counterfactual", "noise=any", "own or slerp", "'any'"),
            ("counterfactual", "segments=[[0,2]]", "a code without segments", "backbone.segments="),
            ("counterfactual", "probe=nowhere.ckpt", "No file nowhere.ckpt", "task=direction"),
            ("counterfactual", "probe=sae/last.ckpt", "no run of task=direction", "train.py"),
            ("counterfactual", "probe_pictures=3", "at least 4, got 3", "report.counterfactual"),
            ("counterfactual", "measured=-1", "at least 0, got -1", "report.counterfactual"),
            ("interpolate", "pairs=[[0,5]]", "asks for picture 5", "has 0 to 1"),
            ("interpolate", "steps=1", "both ends", "got 1"),
            ("stages", "pictures=9", "has 0 to 1", "dataset.test_pictures"),
            ("manipulate", "direction=null", "needs a direction", "task=direction"),
            ("manipulate", "direction=narrow.ckpt", "4 entries do not fit", "codes have 8"),
            ("manipulate", "direction=another.ckpt", "with weights 000000000000", "task=direction"),
            ("manipulate", "direction=diffusion/last.ckpt", "no run of task=direction", "train.py"),
        )
    ),
    (
        "bare extract",
        "task=samples backbone=pdae backbone.checkpoint=pdae/last.ckpt dataset.image_size=16 "
        "condition=latent_diffusion condition.ckpt=sae/last.ckpt",
        "sae/last.ckpt",
        "task=latent_diffusion",
    ),
    *(
        ("bare extract", f"{FILE}{words}", *said)
        for words, *said in (
            ("encoder_only.pt", "holds a code encoder, not PDAE's encoder and decoder"),
            ("two_widths.pt", "does not fit pdae"),
            ("published.pt backbone.num_heads=3", "must divide every attending width, got 3"),
            ("published.pt backbone.flags=none.yml", "No file none.yml", "config.yml"),
            ("published.pt backbone.flags=names.json", "is no YAML", "as it was published"),
            (
                "published.pt backbone.segments={number:4} task=samples data.number=1 "
                "report=counterfactual report.counterfactual.segments=[[2,9]]",
                "within the 4 segments",
                "got [2, 9]",
            ),
        )
    ),
    (
        "bare extract",
        "dataset.image_size=16 backbone=dpm_celeba64 backbone.image_size=16 "
        "backbone.checkpoint=published.pt",
        "not one of PDAE's diffusion networks",
        "choose the backbone",
    ),
    (
        "train pdae",
        "backbone.class_cond=true backbone.checkpoint=null",
        "told its class already",
        "class_cond=false",
    ),
    ("train codes", "task=direction model.dims=0", "got 0", "model.dims=null"),
    ("train codes", "task=direction model.dims=9", "got 9", "model.dims=null"),
    (
        "train codes",
        "task=direction model.attribute=horns",
        "horns is none of toy_faces",
        "glasses",
    ),
    ("train codes", "task=direction model.attribute=yaw", "are numbers", "a binary one"),
    ("train codes", "task=direction model.draw=any", "'any'", "likeliest or published"),
]


def write_codes() -> None:
    """In the current folder a released file, others like it that are wrong, and directions."""
    published = torch.load(released_file("published.pt"), weights_only=True)
    torch.save({"ema_encoder": published["ema_encoder"]}, "encoder_only.pt")
    wide = tiny_pdae().encoder.state_dict() | {
        f"encoder.{place}": torch.zeros(9, *shape)
        for place, shape in (("7.weight", (1024,)), ("7.bias", ()))
    }
    torch.save(published | {"ema_encoder": wide}, "two_widths.pt")
    for name, code in (("narrow", 4), ("another", 8)):
        facts = {"attributes": ["hat"], "backbone": "pdae", "backbone_sha256": "0" * 64}
        state = {"best_weight": torch.ones(1, code), "best_bias": torch.zeros(1)}
        state |= {"code_mean": torch.zeros(code), "code_std": torch.ones(code)}
        torch.save({"direction": facts, "state_dict": state}, f"{name}.ckpt")
