"""What a mistake's one line is made of."""

import pytest

from diffdict.cli.mistakes import find_mistake


class CppCompileError(RuntimeError):
    """As torch's compiler calls it."""


@pytest.mark.parametrize(
    "error",
    [
        ImportError("/tmp/torch_me/zy/czyto7.main.so: file too short"),
        OSError("/tmp/torch_me/q6/cq62f2.so: invalid ELF header"),
        CppCompileError("C++ compile error\n\nCommand:\ng++ /tmp/torch_me/pu/cpu6sp.main.cpp -D A"),
    ],
)
def test_a_cut_cache_of_torch_is_named_with_its_folder(error):
    from_torch = RuntimeError("backend='inductor' raised:")
    from_torch.__cause__ = error
    said = find_mistake(from_torch)
    assert "Remove torch's cache, /tmp/torch_me, " in said
    assert "\n" not in said


@pytest.mark.parametrize("said", ["file too short", "/data/pictures.tar: file too short", "else"])
def test_other_errors_are_none_of_the_cache(said):
    assert find_mistake(OSError(said)) is None
