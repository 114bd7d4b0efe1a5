"""Run in SAELens's own environment: reads our exports, and leaves dictionaries of its making."""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

LENS = Path(sys.argv[1])  # tokens.safetensors and ours/NAME; theirs/NAME and said.safetensors after
WIDTH, LATENTS = 8, 24


def random_weights(sae) -> None:
    """Every parameter away from what it starts as, thresholds on both sides of 0 among them."""
    generator = torch.Generator().manual_seed(1)
    for parameter in sae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)


def main() -> None:
    """Codes, reconstructions and forward passes of all of them, on the same raw tokens."""
    from sae_lens import SAE

    tokens, said = load_file(LENS / "tokens.safetensors")["tokens"], {}
    sizes = {"d_in": WIDTH, "d_sae": LATENTS, "dtype": "float32", "device": "cpu"}
    for architecture in ("standard", "gated", "jumprelu", "topk"):
        for inside in (True, False):
            config = {**sizes, "architecture": architecture, "apply_b_dec_to_input": inside}
            if architecture == "topk":
                config |= {"k": 3, "rescale_acts_by_decoder_norm": inside}
            sae = SAE.from_dict(config)
            random_weights(sae)
            sae.save_model(LENS / "theirs" / f"{architecture}-{inside}")
    for path in sorted([*(LENS / "ours").iterdir(), *(LENS / "theirs").iterdir()]):
        sae = SAE.load_from_disk(path)
        if path.parent.name == "ours":
            sae.save_model(LENS / "saved_again" / path.name)
        with torch.no_grad():
            codes = sae.encode(tokens)
            answers = {"codes": codes, "decoded": sae.decode(codes), "forward": sae(tokens)}
        answers |= {"W_dec": sae.W_dec.data, "W_enc": sae.W_enc.data}
        said |= {f"{path.parent.name}/{path.name}/{key}": x for key, x in answers.items()}
    save_file({key: value.contiguous() for key, value in said.items()}, LENS / "said.safetensors")


if __name__ == "__main__":
    main()
