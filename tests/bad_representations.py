"""What people mistype of representations, and of what is told them; see bad_words."""

ROWS = [
    ("train rcdm", "model.drop=1.0", "model.drop is a share in [0, 1), got 1", "model.drop=0.1"),
    ("train rcdm", "model.hide=-1", "model.hide is a share in [0, 1), got -1", "model.hide=0.1"),
    ("train rcdm", "backbone.ssl_dim=7", "takes vectors of width 7", "representation.part=head"),
    ("train rcdm", "data.vectors=store", "No vectors of toy_faces", "extract.py task=vectors"),
    (
        "train rcdm",
        "data.vectors=store data.crop_padding=2",
        "away from the vectors stored",
        "data.vectors=live",
    ),
    ("train rcdm", "backbone.checkpoint=rcdm/last.ckpt representation.grid=2", "width 5", "20"),
    (
        "train rcdm",
        "ckpt_path=rcdm/last.ckpt representation.pool=max trainer.max_steps=3",
        "was learned with weights",
        "as before",
    ),
    ("train rcdm", "data.vectors=store data.flip=true", "of mirror images", "vector,mirrored"),
    ("train rcdm", "model.timesteps=loss", "got 'loss'", "uniform or loss_second_moment"),
    ("train rcdm", "data.vectors=both", "data.vectors is store or live", "'both'"),
    ("train rcdm", "backbone=guided_unet", "takes no vector", "backbone=toy_rcdm"),
    ("train rcdm", "representation.grid=20", "grid=20 cells", "grid=16 at most"),
    ("train rcdm", "seer.noise.shared=false", "noise.shared=false", "noise.shared=true"),
    *(
        ("extract samples", f"condition=interpolation {words}", *said)
        for words, *said in (
            ("", "condition.first names a picture and is null", "condition.first=a.png"),
            ("condition.first=0 condition.second=0", "are one picture", "name two"),
            ("condition.first=0 condition.second=9", "has 0 to 1", "condition.second=0"),
            ("condition.first=no.png", "first=no.png is no picture's file", "condition.first=0"),
            ("condition.steps=1", "got 1", "2 or more"),
            ("condition.path=straight", "'straight'", "linear or spherical"),
            ("condition.share=none", "'none'", "start or all"),
            ("condition.stop=0", "got 0.0 and 0", "from 0.5 to 0.7"),
            ("condition.fit=stretch", "'stretch'", "null is as published"),
            ("condition.each=0", "got 0", "condition.each=1"),
            (
                "condition.first=0 condition.second=1 data.number=8",
                "told no vector",
                "condition=none",
            ),
            ("condition.first=0 condition.second=1 data.number=3", "8", "data.number=null"),
        )
    ),
    *(
        ("extract samples", f"condition=manipulation {words}", *said)
        for words, *said in (
            ("condition.picture=0", "condition.target names a picture", "condition.target=0"),
            ("condition.k=0", "got 0", "20 is published"),
            ("condition.n_common=20", "got 20", "0..19"),
            ("condition.floor=1", "got 1", "0 is published"),
            ("condition.share=some", "'some'", "none, start, all"),
            ("condition.picture=0 condition.target=1", "among 4 pictures", "smaller k"),
            (
                "condition.picture=0 condition.target=1 condition.neighbours=nothing",
                "nothing holds no pictures",
                "name a folder",
            ),
        )
    ),
    ("extract samples", "condition=changed condition.changes=[sepia]", "'sepia'", "grey, flipped"),
    (
        "extract samples",
        "condition=arithmetic condition.picture=0 condition.less=1",
        "condition.more names a picture",
        "condition.more=0",
    ),
    (
        "extract samples",
        "condition=arithmetic condition.picture=0 condition.less=1 condition.more=1",
        "are one picture",
        "name two",
    ),
    ("extract samples", "condition=arithmetic condition.amount=0", "got 0", "condition.amount=1"),
    ("extract samples", "condition=changed condition.each=0", "got 0", "condition.each=1"),
    *(
        ("extract samples", f"condition=latents {words}", *said)
        for words, *said in (
            ("condition.latents=[]", "each once", "by_class"),
            ("condition.latents=[3,3]", "got [3, 3]", "by_class"),
            ("condition.latents=by_class", "representation.dictionary=", "latents=[…]"),
            (
                "condition.latents=by_class representation=codes representation.dictionary=sae",
                "no test says",
                "ckpt_path=",
            ),
            ("condition.base=zero", "'zero'", "mean or picture"),
            ("condition.base=picture condition.company=true", "not be heard", "company=false"),
            ("condition.strengths=[0]", "got [0]", "condition.strengths=[0,1]"),
            ("condition.random=-1", "got -1", "condition.random=0"),
            ("condition.seen_pictures=0", "got 0", "condition.seen_pictures=1"),
            ("data.number=3", "has 192 rows", "data.number=null"),
            ("data.number=null", "told no vector", "condition=none"),
        )
    ),
    *(
        ("evaluate", f"task=faithfulness backbone@seer=pixels {words}", *said)
        for words, *said in (
            ("", "Samples are compared with pictures", "samples=FOLDER"),
            ("samples=nowhere", "samples=nowhere is not there", "folder of task=samples"),
            ("samples=plain/test dataset.image_size=16", "no conditions.npz", "condition=pictures"),
            ("samples=plain/test", "are 16×16", "dataset.image_size=16"),
            ("samples=nothing", "holds neither pictures", "name another folder"),
            ("samples=nothing data.learned_pictures=-1", "got -1", "data.learned_pictures=0"),
        )
    ),
    ("extract codes", "", "needs a dictionary", "representation.dictionary="),
    (
        "extract encoder",
        "representation=supervised representation.part=head",
        "supervised has no head",
        "part=trunk",
    ),
    (
        "extract encoder",
        "representation=dino representation.part=cls",
        "part of dino is trunk or head",
        "'cls'",
    ),
    ("extract vectors", "representation.pool=sum", "pool is mean or max", "'sum'"),
    ("extract vectors", "block=6", "has no block 6", "vector, mirrored"),
    *(
        ("extract rcdm", words, *said)
        for words, *said in (
            ("", "no picture without its vector", "condition=pictures"),
            (
                "condition=pictures condition.number=2 model.guidance=2",
                "learned without vectors",
                "model.drop=0.1",
            ),
            (
                "condition=pictures condition.number=2 model.guidance=-1",
                "got -1",
                "1.0 is the plain",
            ),
            (
                "condition=pictures condition.number=2 model.guidance=nan",
                "got nan",
                "1.0 is the plain",
            ),
            (
                "condition=pictures condition.number=2 representation=pooled backbone@seer=pixels "
                "representation.grid=2",
                "of width 5, pooled_pixels gives 20",
                "representation.part=head",
            ),
            ("condition=pictures condition.number=0", "got 0", "condition.number=1"),
            ("condition=pictures condition.each=0", "got 0", "condition.each=1"),
            ("condition=pictures condition.number=9", "has 2", "condition.number=2"),
            ("condition=pictures condition.path=nowhere", "neither a picture", "name one"),
            ("condition=pictures condition.path=nothing", "holds no pictures", "name a folder"),
            (
                "condition=pictures condition.number=1 condition.path=words/train",
                "0.png",
                "replace it",
            ),
            (
                "condition=pictures condition.number=1 condition.path=empty.png",
                "empty.png",
                "replace it",
            ),
            ("condition=pictures condition.number=1 condition.path=tiny.png", "tiny.png", "6×6"),
            (
                "condition=pictures condition.number=1 condition.path=thin.png",
                "thin.png",
                "1000×20",
            ),
            ("condition=file condition.path=vectors.npy", "vectors of 5", "has 8"),
            ("condition=file condition.path=nan.npy", "row 0", "NaN"),
            ("condition=file condition.path=rowless.npy", "[0, 5]", "one row or more"),
            ("condition=file condition.path=pickled.npy", "pickled.npy is no", "numpy.save"),
        )
    ),
    *(
        ("extract encoder", f"representation.checkpoint={words}", *said)
        for words, *said in (
            ("code.ckpt representation=simclr", "is refused", "Where VISSL is installed"),
            ("text.ckpt representation=vicreg", "text.ckpt", "save it again"),
            ("anothers.pt representation=dino", "holds no trunk of dino", "choose the rep"),
        )
    ),
    (
        "extract codes",
        "representation.dictionary=sae representation.latents=[9999]",
        "9999",
        "null",
    ),
    (
        "extract codes",
        "representation.dictionary=sae representation.latents=by_class",
        "no test",
        "",
    ),
    ("extract codes", "representation.dictionary=mlp/last.ckpt", "holds no dictionary", "task=sae"),
]
