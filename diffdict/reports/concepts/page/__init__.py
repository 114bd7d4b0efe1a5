"""A dictionary's concepts as one HTML page that opens from disk, offline."""

from diffdict.reports.concepts.page.content import Class, Concepts, Latent, Picture, Top
from diffdict.reports.concepts.page.names import read_names
from diffdict.reports.concepts.page.write import Written, write_page

__all__ = ["Class", "Concepts", "Latent", "Picture", "Top", "Written", "read_names", "write_page"]
