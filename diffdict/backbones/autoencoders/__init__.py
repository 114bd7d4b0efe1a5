"""Networks that make pictures of codes: the halves of PDAE, and autoencoders of latents."""
