"""Evaluate: numbers, pictures and pages from what was learned."""

from omegaconf import DictConfig

from diffdict.cli.door import door


@door
def evaluate(cfg: DictConfig) -> float | None:
    from diffdict.cli.evaluated import subject

    works_on = subject(cfg)
    if works_on == "runs":
        from diffdict.run.compare import compare

        return compare(cfg)
    from diffdict.run.build import build  # torch waits until here: --help stays quick
    from diffdict.run.close import close
    from diffdict.run.facts.dictionary_facts import with_dictionary
    from diffdict.run.look import look
    from diffdict.run.rewrite import checkpoint_config, published, with_labeller

    if cfg.picture is not None:
        return look(checkpoint_config(cfg))
    if works_on == "ckpt_path":
        run = build(checkpoint_config(cfg))
    else:
        run = build(published(with_dictionary(with_labeller(cfg))))
    kept = {"ckpt_path": cfg.ckpt_path, "weights_only": True}
    with close(run):
        run.trainer.test(run.model, run.data, verbose=False, **kept)
    return run.metric(cfg.optimized_metric)


if __name__ == "__main__":
    evaluate()
