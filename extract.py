"""Extract: data from a trained network: stored features, samples, inverted pictures."""

from omegaconf import DictConfig

from diffdict.cli.door import door


@door
def extract(cfg: DictConfig) -> None:
    from diffdict.run.build import build  # torch waits until here: --help stays quick
    from diffdict.run.close import close
    from diffdict.run.facts.dictionary_facts import with_dictionary
    from diffdict.run.facts.learned_representation import with_learned_representation
    from diffdict.run.rewrite import with_labeller, with_stored_noise

    cfg = with_learned_representation(cfg)
    run = build(with_stored_noise(with_dictionary(with_labeller(cfg))))
    with close(run):
        run.trainer.predict(run.model, run.data, return_predictions=False)


if __name__ == "__main__":
    extract()
