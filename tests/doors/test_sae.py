"""The real doors on a dictionary learned without labels and judged by masks of other pictures."""

import json
import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

from diffdict.data.toy_faces import ToyFaces
from tests.processes import PATIENCE

ROOT = Path(__file__).parents[2]
NET = [  # a network of seconds
    *("backbone=toy_ddpm", "backbone.num_channels=32", "backbone.channel_mult=[1,1]"),
    *("backbone.num_res_blocks=1", "backbone.attention_resolutions=[]", "backbone.image_size=16"),
    *("backbone.checkpoint=null", "block=1", "timestep=50"),
]


def run(door: str, *words: str, cwd: Path) -> str:
    process = subprocess.run(
        [sys.executable, str(ROOT / f"{door}.py"), *words, "trainer=cpu"],
        cwd=cwd,
        text=True,
        capture_output=True,
        timeout=PATIENCE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout + process.stderr


def test_the_notebooks_two_halves(tmp_path):
    """As the head of experiment=sae_relu_original says it, on twelve faces."""
    (tmp_path / "PATH").mkdir()
    for index in range(12):
        face = ToyFaces(image_size=16, train_pictures=12)[index]["image"]
        pixels = ((face.permute(1, 2, 0) + 1) * 127.5).byte().numpy()
        Image.fromarray(pixels).save(tmp_path / "PATH" / f"{index}.png")
    pictures = ["dataset=folder", "dataset.name=mine", "dataset.path=PATH", "dataset.image_size=16"]
    run("extract", *pictures, *NET, "split=train", cwd=tmp_path)
    words = ["experiment=sae_relu_original", *pictures, *NET, "test=false", "sae.scale=[1,2]"]
    run("train", *words, "trainer.max_epochs=2", "hydra.run.dir=learned", cwd=tmp_path)
    learned = json.loads((tmp_path / "learned" / "results.json").read_text())
    assert learned["facts"]["pictures"] == 12
    assert not any(name.startswith("test/") for name in learned["metrics"])
    masks = ["dataset=toy_faces", "dataset.image_size=16", "dataset.train_pictures=4"]
    words = ["ckpt_path=learned/last.ckpt", *masks, "dataset.test_pictures=4", "data.source=live"]
    said = run("evaluate", *words, "hydra.run.dir=judged", cwd=tmp_path)
    judged = json.loads((tmp_path / "judged" / "results.json").read_text())
    for name in ("scale1", "scale2"):
        assert 0 < judged["metrics"][f"test/{name}/iou"] < 1
        assert judged["metrics"][f"test/{name}/fvu"] > 0
    assert "glasses" in said
    assert judged["facts"]["dataset"] == "toy_faces"
    export = json.loads((tmp_path / "learned/dictionary/scale2/cfg.json").read_text())
    assert export["apply_b_dec_to_input"] is False
