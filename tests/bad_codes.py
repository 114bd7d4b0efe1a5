"""What people mistype about codes: sheets of them, and what is learned in them."""

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
