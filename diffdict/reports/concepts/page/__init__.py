"""A dictionary's concepts as one HTML page that opens from disk, offline."""

from diffdict.reports.concepts.page.content import (
    Class,
    Latent,
    PageContent,
    PagePicture,
    SwitchedContent,
    SwitchedLatent,
    TopPicture,
)
from diffdict.reports.concepts.page.names import read_names
from diffdict.reports.concepts.page.render import Written, write_page

__all__ = [
    "Class",
    "Latent",
    "PageContent",
    "PagePicture",
    "SwitchedContent",
    "SwitchedLatent",
    "TopPicture",
    "Written",
    "read_names",
    "write_page",
]
