"""The pages of the story in experiments/: what each folder has, and that its tables quote its figures."""

import json
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "experiments"
STORY = (
    *("one_photograph", "argmax_to_softmax", "network_or_voxels", "where_was_i"),
    *("inside_the_scan", "reflections", "put_together"),
)
# Of bytes, and of shares in percent.
UNITS = (1.0, 1e-6, 100.0)


def table_rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("| ")]


def figures(found) -> list[float]:
    """All numbers of a JSON file; and of runs that differ in their seeds alone, the means."""
    if isinstance(found, dict):
        return [number for value in found.values() for number in figures(value)]
    if not isinstance(found, list):
        return [float(found)] if isinstance(found, int | float) else []
    means = defaultdict(list)
    for row in found:
        if isinstance(row, dict) and "seed" in row:
            for key, value in row.items():
                if isinstance(value, float):
                    means[row["photographs"], row["which"], key].append(value)
    return [number for value in found for number in figures(value)] + [
        float(np.mean(values)) for values in means.values()
    ]


@pytest.mark.parametrize("name", STORY)
def test_each_has_its_command_settings_figures_pictures_and_page(name):
    folder = FOLDER / name
    page = (folder / "README.md").read_text()
    assert f"python experiments/{name}/{name}.py" in page
    for file in (f"{name}.py", "config.json", "results.json"):
        assert (folder / file).is_file(), file
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", page)
    assert pictures
    assert {path.name for path in folder.iterdir() if path.suffix in (".png", ".webp")} == set(
        pictures
    )


@pytest.mark.parametrize("name", STORY)
def test_tables_quote_what_stands_in_the_figures(name):
    known = []
    for path in {*(FOLDER / name).glob("*.json")} - {FOLDER / name / "config.json"}:
        known += figures(json.loads(path.read_text()))
    numbers = np.outer(np.abs(known), UNITS).reshape(-1)
    for row in table_rows((FOLDER / name / "README.md").read_text()):
        for quoted in re.findall(r"\d+\.\d+", row):
            places = len(quoted.partition(".")[2])
            off = np.abs(numbers - float(quoted)).min()
            assert off <= 0.5000001 * 10.0**-places, (quoted, row)


def test_the_contents_quote_the_seconds_of_each_and_all_take_less_than_an_hour():
    rows = {}
    for row in table_rows((FOLDER / "README.md").read_text()):
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        if named := re.match(r"\[(\w+)\]", cells[0]):
            rows[named[1]] = cells
    total = 0.0
    for name in STORY:
        results = json.loads((FOLDER / name / "results.json").read_text())
        seconds = results["seconds"]
        seconds = seconds["all"] if isinstance(seconds, dict) else seconds
        if name == "network_or_voxels":  # the fast field was there
            seconds += next(
                row["seconds"] for row in results["rows"] if row["name"] == "fast field"
            )
        assert float(rows[name][4].replace(",", "")) == pytest.approx(seconds, abs=0.51)
        assert f"python experiments/{name}/{name}.py" in rows[name][3]
        total += seconds
    assert total < 3600.0
