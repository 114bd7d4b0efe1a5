"""What tests of several of the hub's files share."""

import pytest


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny random pipeline's folder of every family of diffusers."""
    from tests.tiny_pipelines import FAMILIES, save_pipeline

    root = tmp_path_factory.mktemp("pipelines")
    return {family: save_pipeline(family, root / family) for family in FAMILIES}
