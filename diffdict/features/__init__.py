"""What a backbone saw, kept or streamed.

The way of `timestep` and `block`, from what a config names down to what is stored:

    pictures, writer    extraction: a split's pictures in, shards of its features out
    tokens              shuffled tokens for dictionaries, of a pool, begun at their moments
    pixels, probes      labelled pixels for segmenters, gathered or coded; labelled whole pictures
    looking             one picture, without a data set
    sources             where features come from: a finished store, or the network at work
    store               … kept: shards, each sealed by its checksums
    passes              … seen: which passes at which timesteps to which blocks, under which noise

Each stands on those below it alone: the order is in pyproject.toml.
"""
