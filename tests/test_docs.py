"""The site: its Python runs, its commands are read, its keys and names exist, the reference is whole."""

import ast
import importlib
import inspect
import re
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from documents import blocks, commands, run_python

import jaxnerf
from jaxnerf.cli import VERBS, common, main
from jaxnerf.config import Config, flatten
from jaxnerf.config.presets import PRESETS

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {str(path.relative_to(DOCS).with_suffix("")): path for path in sorted(DOCS.rglob("*.md"))}
# Whose public names the reference has, each once: those of __all__, or else what they define.
MODULES = (
    "jaxnerf", "jaxnerf.geometry", "jaxnerf.cameras", "jaxnerf.cameras.lenses",
    "jaxnerf.cameras.distortion", "jaxnerf.cameras.paths",
    "jaxnerf.cameras.stereo", "jaxnerf.exports.depth", "jaxnerf.exports.spherical",
    "jaxnerf.exports.frames", "jaxnerf.exports.pictures",
    "jaxnerf.sampling", "jaxnerf.sampling.intervals", "jaxnerf.sampling.pixels", "jaxnerf.fields",
    "jaxnerf.contraction",
    "jaxnerf.encoding", "jaxnerf.compositing", "jaxnerf.rendering", "jaxnerf.training",
    "jaxnerf.training.losses", "jaxnerf.training.optimizers", "jaxnerf.methods",
    "jaxnerf.config.adaptation", "jaxnerf.scenes", "jaxnerf.evaluation", "jaxnerf.exports.cameras",
    "jaxnerf.exports.mesh", "jaxnerf.exports.points", "jaxnerf.exports.splats",
    "jaxnerf.exports.volume", "jaxnerf.exports.video", "jaxnerf.kernels", "jaxnerf.capture.inspection",
)  # fmt: skip
_DIRECTIVE = re.compile(r"^\.\. auto(?:class|function|exception):: (\S+)$", re.MULTILINE)


def prose(page: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```\w+\n.*?^```", "", PAGES[page].read_text(), flags=re.DOTALL | re.MULTILINE)


def inline_code(page: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


def named(name: str) -> Any:
    """What a dotted name stands for; an AttributeError or an ImportError where there is no such thing."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        return reduce(getattr, parts[count:], module)
    raise ImportError(name)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, path in PAGES.items() if blocks(path, "python")])
def test_the_python_of_a_page_runs(page, demo, monkeypatch):
    monkeypatch.chdir(demo)
    run_python(PAGES[page], {})


@pytest.mark.parametrize("page", [page for page, path in PAGES.items() if commands(path)])
def test_the_commands_of_a_page_are_read(page, capsys):
    for verb, *arguments in commands(PAGES[page]):
        if verb not in VERBS:
            assert main([verb, *arguments]) == 0
            continue
        values = importlib.import_module(f"jaxnerf.cli.{verb}")._flags()
        values(["jaxnerf", *arguments])
        if verb == "train":
            common.configuration(values)


@pytest.mark.parametrize("page", PAGES)
def test_verbs_and_flags_that_stand_in_a_sentence_are_there(page):
    for code in inline_code(page):
        verb = re.match(r"jaxnerf ([a-z]+)\b", code)
        if not verb:
            continue
        assert verb[1] in VERBS, f"{page}: `{code}`"
        flags = importlib.import_module(f"jaxnerf.cli.{verb[1]}")._flags()
        for flag in re.findall(r"--([\w.]+)", code):
            assert flag == "help" or flag in flags or flag.removeprefix("no") in flags, code


def test_the_table_of_extras_has_all_of_them():
    setup = (DOCS.parent / "setup.py").read_text().partition("extras_require=")[2]
    extras = re.findall(r'"([a-z]+)": \[', setup)
    assert sorted(re.findall(r"^\| `(\w+)` \|", prose("guide/install"), re.M)) == sorted(extras)


@pytest.mark.parametrize("page", PAGES)
def test_keys_and_presets_that_a_page_names_are_there(page):
    keys = flatten(Config())
    section = "|".join({key.partition(".")[0] for key in keys if "." in key})
    for code in inline_code(page):
        key = re.match(rf"(?:--)?((?:{section})(?:\.\w+)+)(?!\w|\()", code)
        if key and not key[1].endswith(".json"):
            assert key[1] in keys, f"{page}: `{code}`"
        if preset := re.match(r"--config[ =](\w+)$", code):
            assert preset[1] in PRESETS, f"{page}: `{code}`"


@pytest.mark.parametrize("page", PAGES)
def test_names_of_jaxnerf_in_a_page_are_there(page):
    for code in inline_code(page):
        if re.fullmatch(r"jaxnerf(\.\w+)+", code):
            named(code)


def rows(page: str) -> list[str]:
    """The right cells of a page's tables, below their heads."""
    lines = [line for line in prose(page).splitlines() if line.startswith("| ")]
    return [line.strip("|").split(" | ")[-1] for line in lines]


@pytest.mark.parametrize("page", ["guide/coming_from/pytorch3d", "guide/coming_from/nerfacc"])
def test_what_stands_in_a_row_is_in_the_code_of_the_page(page):
    """Each row that names something of ours has it in the Python below, which another test runs."""
    code, checked = "\n".join(blocks(PAGES[page], "python")), 0
    for cell in rows(page):
        names = re.findall(r"`([^`]+)`", cell)
        if not names or "not here" in cell or "own.occupancy" in cell:
            continue
        last = [re.split(r"[.]", re.split(r"[(=\[]", name)[0].strip())[-1] for name in names]
        assert any(re.search(rf"\b{re.escape(each)}\b", code) for each in last), cell
        checked += 1
    assert checked > 15


def test_all_of_the_other_libraries_is_in_the_tables():
    """Public names of pytorch3d.renderer.implicit (0.7.8) and of nerfacc (0.5.3)."""
    theirs = {
        "pytorch3d": """AbsorptionOnlyRaymarcher EmissionAbsorptionRaymarcher GridRaysampler
            HarmonicEmbedding HeterogeneousRayBundle ImplicitRenderer MonteCarloRaysampler
            MultinomialRaysampler NDCGridRaysampler NDCMultinomialRaysampler RayBundle VolumeRenderer
            VolumeSampler ray_bundle_to_ray_points ray_bundle_variables_to_ray_points sample_pdf""",
        "nerfacc": """OccGridEstimator PropNetEstimator RayIntervals RaySamples accumulate_along_rays
            exclusive_prod exclusive_sum importance_sampling inclusive_prod inclusive_sum pack_info
            ray_aabb_intersect render_transmittance_from_alpha render_transmittance_from_density
            render_visibility_from_alpha render_visibility_from_density render_weight_from_alpha
            render_weight_from_density rendering searchsorted traverse_grids""",
    }
    for library, names in theirs.items():
        table = prose(f"guide/coming_from/{library}")
        assert [name for name in names.split() if f"`{name}" not in table] == []


def test_the_reference_has_every_public_name_once():
    documented: dict[int, list[str]] = {}
    for page, path in PAGES.items():
        if page.startswith("reference/"):
            for name in _DIRECTIVE.findall(path.read_text()):
                documented.setdefault(id(named(name)), []).append(name)
    assert [names for names in documented.values() if len(names) > 1] == []
    missing = []
    for name in MODULES:
        module = importlib.import_module(name)
        public = getattr(module, "__all__", None) or [
            each for each, found in vars(module).items() if getattr(found, "__module__", "") == name
        ]
        missing += [
            f"{name}.{each}"
            for each in public
            if not each.startswith("_")
            and (inspect.isclass(getattr(module, each)) or inspect.isroutine(getattr(module, each)))
            and id(getattr(module, each)) not in documented
        ]
    assert missing == []


@pytest.mark.parametrize(
    "path", sorted((DOCS / "programs").glob("*.py")), ids=lambda path: path.stem
)
def test_a_program_imports_nothing_but_public_names(path):
    """Of jaxnerf what its __all__ has, and of its modules what the reference has."""
    documented = {
        id(named(name)) for text in PAGES.values() for name in _DIRECTIVE.findall(text.read_text())
    }
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxnerf"):
            for alias in node.names:
                assert id(named(f"{node.module}.{alias.name}")) in documented, alias.name
        if isinstance(node, ast.Import):
            assert not [a.name for a in node.names if a.name.startswith("jaxnerf.")]
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.value.id != "jaxnerf" or node.attr in jaxnerf.__all__, node.attr


def test_every_program_has_a_page_that_shows_it():
    programs = {path.stem for path in (DOCS / "programs").glob("*.py")}
    assert {page.rpartition("/")[2] for page in PAGES if page.startswith("guide/programs/")} == (
        programs | {"index"}
    )
    for program in programs:
        assert f"programs/{program}.py" in PAGES[f"guide/programs/{program}"].read_text()
