"""What a backbone saw, kept or streamed.

The files, from what a config names down to what is stored:

    extraction       a split's pictures in, shards of its features out
    tokens           shuffled tokens for dictionaries, of a pool, begun at their moments
    pixels, probes   labelled pixels for segmenters, gathered or coded; labelled whole pictures
    one_picture      one picture, without a data set
    base             what the data modules of tokens and pixels share
    codes            maps through a dictionary, pooled, and the parts of a code
    sources          where features come from: a finished store, or the network at work
    store            … kept: shards, each sealed by its checksums
    passes           … seen: which passes at which timesteps to which blocks, under which noise
    locations        the words of timestep and block

Each stands on those below it alone: the order is in pyproject.toml.

The way of `timestep` from a config to the network, under that name and each station once:

    conf/train.yaml                             50; a file of conf/backbone or the command line wins
    conf/data/tokens.yaml                       ${timestep}; conf/data/pixels.yaml likewise
    features.base.FeatureDataModule             an argument of all data modules of features
    features.sources.FeatureSources             waits here until a split is opened

with data.source=store

    features.sources.StoredSource               refuses what was not extracted
    features.store.feature_store.FeatureStore.open     reads the split's store
    features.store.feature_store.FeatureStore.select   keeps the streams of these timesteps

with data.source=live

    features.sources.LiveSource                 the network beside its pictures
    features.passes.Passes                      one pass at each timestep
    features.noise.noised_features              under which noise, averaged over its draws
    backbones.guided_unet.GuidedUNet.features   one pass, to the last block asked for
    backbones.denoiser.Denoiser.noised          the pictures at that timestep
    diffusion.process.noised_at                 by the process that the network was trained for

From there it is `t`, one a picture: GuidedUNet embeds it (guided_layers.timestep_embedding), and
every block adds the embedding. Backbone.check_timestep stands at the way's side: Passes asks it
before anything is computed, Denoiser.noised at every pass. Extraction joins at Passes:
conf/extract.yaml, conf/task/features.yaml, tasks.features.Features. `block` goes the same way.
"""
