"""Which latent is which class: overlap counted exactly, ranked, chosen, and joined in unions."""
