"""The plan of the house: what imports what, and what `import jaxnerf` brings along."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "jaxnerf"
# A file imports only what stands before it, or in its own folder; `sampling`, `fields` and `compositing`
# also one another.
ORDER = [
    ("checks", "earlier_versions", "runs.files", "geometry"),
    ("kernels",),
    ("distortion",),
    ("lenses",),
    ("cameras",),
    ("paths", "stereo", "encoding"),
    ("contraction",),
    ("sampling", "fields", "compositing"),
    ("rendering",),
    ("scenes",),
    ("training",),
    ("evaluation",),
    ("sections",),
    ("config",),
    ("presets", "spaces"),
    ("runs",),
    ("methods",),
    ("capture", "exports"),
    ("viewer",),
    ("cli",),
]


def modules() -> dict[str, Path]:
    """Every file by its name in the package, without "jaxnerf."."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(path: Path, *, everywhere: bool) -> set[str]:
    """The files of the package that a file imports, at its top or everywhere; and other packages."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if everywhere else iter(tree.body)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = node.module.removeprefix("jaxnerf").lstrip(".")
            for alias in node.names:
                longer = f"{inside}.{alias.name}".lstrip(".")
                ours = node.module.split(".")[0] == "jaxnerf"
                found.add(
                    f"jaxnerf.{longer if longer in MODULES else inside}" if ours else node.module
                )
    return found


def storey(name: str) -> int:
    """Where a file stands in the order; the longest name decides."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        for number, names in enumerate(ORDER):
            if ".".join(parts[:length]) in names:
                return number
    raise AssertionError(f"{name} has no place in the house")


def test_files_import_only_what_stands_before_them():
    wrong = []
    for name, path in MODULES.items():
        if name in ("__init__", "__main__"):
            continue
        for other in imports(path, everywhere=True):
            inside = other.removeprefix("jaxnerf.")
            same = inside.split(".")[0] == name.split(".")[0]
            if other.startswith("jaxnerf.") and not same and storey(inside) > storey(name):
                wrong.append(f"{name} imports {inside}")
    assert not wrong


def test_no_file_imports_itself_by_way_of_others():
    ours = {
        name: {other.removeprefix("jaxnerf.") for other in imports(path, everywhere=False)}
        & MODULES.keys()
        for name, path in MODULES.items()
    }
    left = dict(ours)
    while left:
        free = [name for name, needs in left.items() if not needs & left.keys() - {name}]
        assert free, f"a circle among {sorted(left)}"
        for name in free:
            del left[name]


def test_packages_that_only_some_may_know():
    for name, path in MODULES.items():
        top, folder = imports(path, everywhere=False), name.split(".")[0]
        assert ("absl" in {other.split(".")[0] for other in top}) <= (folder == "cli"), name
        flax = {other for other in imports(path, everywhere=True) if other.split(".")[0] == "flax"}
        assert not flax or name == "fields.nerf_layers", name
        training = {other for other in top if other.startswith("jaxnerf.training")}
        if folder in ("capture", "exports", "viewer"):
            assert not training, name
        if folder == "runs":
            values = ("state", "calibration", "coarse_to_fine", "keep_occupancy")
            assert training <= {f"jaxnerf.training.{value}" for value in values}, name
        if folder == "fields":
            assert "jaxnerf.cameras" not in top, name


def test_files_are_short():
    for path in [*PACKAGE.rglob("*.py"), *Path(__file__).parent.rglob("*.py")]:
        assert len(path.read_text().splitlines()) <= 400, path


def test_importing_jaxnerf_brings_no_package_of_a_single_verb_or_field():
    heavy = ("flax", "orbax", "imageio", "pycolmap", "skimage", "tensorboardX")
    code = f"import sys, jaxnerf; print([m for m in {heavy!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
