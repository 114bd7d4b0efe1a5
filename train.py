"""Train: learn something from pictures, or from what a backbone sees in them."""

from omegaconf import DictConfig

from diffdict.cli.door import door


@door
def train(cfg: DictConfig) -> float | None:
    from diffdict.run.build import build  # torch waits until here: --help stays quick
    from diffdict.run.close import close
    from diffdict.run.rewrite import resumed

    cfg = resumed(cfg)
    run = build(cfg)
    with close(run):
        run.trainer.fit(run.model, run.data, ckpt_path=cfg.ckpt_path, weights_only=True)
        if cfg.test:
            run.trainer.test(run.model, run.data, verbose=False)
    return run.metric(cfg.optimized_metric)


if __name__ == "__main__":
    train()
