"""One public name has one meaning in the package, and one file name stands in one place."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "diffdict"
FILES = sorted(PACKAGE.rglob("*.py"))


def public_types(file: Path) -> Iterator[tuple[str, str]]:
    """Classes and type aliases of a file: the name, and what it stands for."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef):
            name, meaning = node.name, f"the class in {file.relative_to(PACKAGE)}"
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, meaning = node.targets[0].id, ast.unparse(node.value)
        else:
            continue
        if name[0].isupper() and not name.isupper():  # no constant
            yield name, meaning


def test_a_type_has_one_meaning():
    """Classes, and aliases such as `Cell`, which may be written down twice if they are the same."""
    meanings = defaultdict(set)
    for file in FILES:
        for name, meaning in public_types(file):
            meanings[name].add(meaning)
    ambiguous = {name: sorted(what) for name, what in meanings.items() if len(what) > 1}
    del ambiguous["Segments"]  # a subject of reports; DiTi's own word for `CodeSegments`
    assert not ambiguous, "\n".join(f"{name}: {what}" for name, what in ambiguous.items())


FAMILIES = {  # functions that share a name because they do the same for different things
    "average_precision": "of scores of pictures, and of latents that rank tokens",
    "load": "reads a dictionary in the format of one library: sae.saelens, sae.dictionary_learning",
    "verify": "`diffdict verify` on a path, and on the checkpoint that it may be",
}


def test_a_function_has_one_meaning():
    places = defaultdict(list)
    for file in FILES:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                places[node.name].append(str(file.relative_to(PACKAGE)))
    shared = {name: where for name, where in places.items() if len(where) > 1}
    assert shared.keys() == FAMILIES.keys(), shared


TYPED = ("tasks", "backbones", "representations", "conditions", "reports")  # a file a word

SHARED_FILES = {  # file names that stand in several rooms
    "codes": "of pixels, and the representation of pictures by them",
    "base": "what the files of a room share",
    "data_module": "the data module of tokens, of pixels",
    "deeplab": "the task, and its network",
    "dictionary": "the public API, and the exported folder `dictionary/`",
    "folder": "`dataset=folder`, and folders that are whole or absent",
    "geometry": "`task=geometry`, and its mathematics",
    "interpolation": "between pictures, by noise or codes; and the condition, between vectors",
    "grid": "`report=grid`, and a grid of settings of dictionaries",
    "matching": "of dictionaries' latents, and of rows and columns",
    "load": "loads a checkpoint, loads a dictionary",
    "pictures": "of a data set, in extraction, `condition=`; and the path that configs of 0.1 hold",
    "pooled": "maps pooled, and the representation of pictures by them",
    "probes": "probes' mathematics, and their pictures",
    "substitution": "`task=substitution`, and its metric",
    "steering": "`task=steering`, and the edit of a map",
}


def test_a_file_name_stands_once():
    places = defaultdict(list)
    for file in FILES:
        if file.stem not in ("__init__", "__main__"):
            places[file.stem].append(str(file.relative_to(PACKAGE)))
    shared = {
        name: where
        for name, where in places.items()
        if len(where) > 1 and not all(file.split("/")[0] in TYPED for file in where)
    }
    assert shared.keys() == SHARED_FILES.keys(), shared
