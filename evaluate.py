"""Evaluate: numbers, pictures and pages from what was learned."""

from omegaconf import DictConfig

from diffdict.__main__ import door


@door
def evaluate(cfg: DictConfig) -> float | None:
    from diffdict.jobs import report_on, subject

    works_on = subject(cfg)
    if works_on == "runs":
        return report_on(cfg)
    from diffdict.composed import trained  # torch waits until here: --help stays quick
    from diffdict.run import build, close, look

    if cfg.picture is not None:
        return look(trained(cfg))
    run = build(trained(cfg) if works_on == "ckpt_path" else cfg)
    kept = {"ckpt_path": cfg.ckpt_path, "weights_only": True}
    with close(run):
        run.trainer.test(run.model, run.data, verbose=False, **kept)
    return run.metric(cfg.optimized_metric)


if __name__ == "__main__":
    evaluate()
