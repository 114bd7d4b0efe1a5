"""What runs left for wandb without a server, read back from their files."""

import json
from pathlib import Path
from typing import NamedTuple

from wandb.proto import wandb_internal_pb2

BLOCK, HEAD = 32768, 7  # LevelDB's log: of a file, and of what stands before each part


class OfflineRun(NamedTuple):
    """A run in a folder of its own, which `wandb sync` takes."""

    began: int  # ns
    folder: Path
    id: str
    name: str
    group: str
    job_type: str
    config: dict
    summary: dict
    artifacts: dict  # by name


def records(path):
    """All records of a .wandb file."""
    data, at, whole, found = path.read_bytes(), HEAD, b"", []
    while at + HEAD <= len(data):
        if BLOCK - at % BLOCK < HEAD:
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + HEAD : at + HEAD + length]
        at += HEAD + length
        if kind in (1, 4):  # whole, or the last part
            found.append(wandb_internal_pb2.Record.FromString(whole))
            whole = b""
    return found


def told(*updates):
    """What a run's items say, the last word of each."""
    whole = {}
    for update in updates:
        for item in update:
            *above, name = item.nested_key or [item.key]
            place = whole
            for key in above:
                place = place.setdefault(key, {})
            place[name] = json.loads(item.value_json)
    return whole


def offline_runs(folder):
    """Every run at or below this folder, in the order in which they began."""
    runs = [offline_run(file) for file in folder.rglob("wandb/offline-run-*/*.wandb")]
    return sorted(runs, key=lambda run: run.began)


def offline_run(file):
    """One of them."""
    found = records(file)
    (run,) = (each.run for each in found if each.HasField("run"))
    return OfflineRun(
        run.start_time.ToNanoseconds(),
        file.parent,
        run.run_id,
        run.display_name,
        run.run_group,
        run.job_type,
        told(run.config.update) | told(*(each.config.update for each in found)),
        told(*(each.summary.update for each in found)),
        {each.artifact.name: each.artifact for each in found if each.HasField("artifact")},
    )


def table_rows(run, name):
    """The lines of a table that a run has logged."""
    artifact = run.artifacts[f"run-{run.id}-{name}"]
    held = {one.path: Path(one.local_path) for one in artifact.manifest.contents}
    content = json.loads(held[f"{name}.table.json"].read_text())
    return [dict(zip(content["columns"], line, strict=True)) for line in content["data"]]


def setting(config, key):
    """What a config has at sae.scale; None where it has nothing."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config
