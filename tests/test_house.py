"""The plan of the house: what imports what, and what `import jaxnerf` brings along."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "jaxnerf"
# A file imports only what stands before it, or in its own folder; `sampling`, `fields` and `compositing`
# also one another.
ORDER = [
    ("errors",),
    ("runs.files", "geometry"),
    ("kernels",),
    ("cameras", "encoding"),
    ("contraction",),
    ("sampling", "fields", "compositing"),
    ("rendering",),
    ("scenes",),
    ("training",),
    ("evaluation",),
    ("config",),
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


def test_what_opens_and_exports_runs_imports_without_the_trainer():
    """Each folder in a process of its own."""
    trainer = {"training.step", "training.trainer", "training.loop", "methods"}
    for folder in ("capture", "exports", "runs", "viewer"):
        names = [name for name in MODULES if name.split(".")[0] == folder]
        code = "import sys\n" + "\n".join(f"import jaxnerf.{name}" for name in names)
        code += f"\nprint([n for n in {sorted(trainer)} if f'jaxnerf.{{n}}' in sys.modules])"
        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert found.stdout.strip() == "[]", folder


def test_files_are_short():
    for path in [*PACKAGE.rglob("*.py"), *Path(__file__).parent.rglob("*.py")]:
        assert len(path.read_text().splitlines()) <= 400, path


QUIET = """
import os, sys, time
began = time.process_time()
import jax
of_jax, before = time.process_time() - began, set(sys.modules)
written, read = [], []
def heard(event, given):
    if event == "open" and isinstance(given[0], str) and not given[0].startswith(("/proc", "/sys")):
        opened = given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        code = given[0].endswith((".py", ".pyc", ".so", ".zip", "METADATA"))
        (written if opened else [] if code else read).append(given[0])
sys.addaudithook(heard)
sys.dont_write_bytecode = True
config, environment = dict(jax.config.values), dict(os.environ)
import jaxnerf
seconds = time.process_time() - began
from jax._src import xla_bridge
changed = [name for name in os.environ if os.environ[name] != environment.get(name)]
from absl import flags
flags = [name for name in flags.FLAGS.flags_by_module_dict() if "jaxnerf" in name]
tops = sorted({m.split(".")[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names))
print(repr({"written": written, "read": read, "devices": list(xla_bridge._backends), "flags": flags,
    "config": [n for n in config if jax.config.values[n] != config[n]], "changed": changed, "tops": tops,
    "seconds": seconds, "of_jax": of_jax}))
"""


def test_importing_jaxnerf_is_quick_and_touches_no_file_flag_or_device():
    """In seconds of a processor, which a busy machine does not stretch; XLA's flags alone are set."""
    found = subprocess.run(
        [sys.executable, "-c", QUIET], capture_output=True, text=True, check=True
    )
    seen = ast.literal_eval(found.stdout)
    assert seen["written"] == []
    assert seen["read"] == []  # but code, and versions of packages
    assert seen["devices"] == []
    assert seen["config"] == []
    assert seen["flags"] == []
    assert set(seen["changed"]) <= {"XLA_FLAGS"}
    known = "jaxnerf jaxtyping jax numpy optax absl"
    assert set(seen["tops"]) <= set(known.split())
    assert seen["seconds"] < 2.0


def test_importing_jaxnerf_brings_no_package_of_a_single_verb_or_field():
    heavy = (
        *(
            "flax",
            "orbax",
            "imageio",
            "pycolmap",
            "skimage",
            "tensorboardX",
            "nibabel",
            "nrrd",
            "trimesh",
        ),
        *(
            "OpenEXR",
            "scipy",
            "fast_simplification",
            "lpips",
            "dm_pix",
            "matplotlib",
            "tensorstore",
        ),
    )
    code = f"import sys, jaxnerf; print([m for m in {heavy!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
