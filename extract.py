"""Extract: data from a trained network: stored features, samples."""

from omegaconf import DictConfig

from diffdict.__main__ import door


@door
def extract(cfg: DictConfig) -> None:
    from diffdict.composed import labelled  # torch waits until here: --help stays quick
    from diffdict.run import build, close

    run = build(labelled(cfg))
    with close(run):
        run.trainer.predict(run.model, run.data, return_predictions=False)


if __name__ == "__main__":
    extract()
