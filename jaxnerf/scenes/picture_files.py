"""Which files of a folder are its photographs, and which file a name refers to.

Files and folders with names that begin with a dot are ignored: archives of macOS and file managers
write them beside photographs.
"""

import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from jaxnerf.scenes import SceneError
from jaxnerf.scenes.json_files import is_file

READ = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
HEIF = (".heic", ".heif")
# Suffixes of image formats that are not read; a note gives the number of such files.
_NOT_READ = (
    *(".avif", ".bmp", ".gif", ".jp2", ".jxl", ".exr", ".hdr", ".psd", ".tga", ".ppm", ".pgm"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".raw"),
)
# Words in the names of images that are not photographs, such as depth maps of the same view.
_OTHER_KINDS = re.compile(
    "depth|mask|normal|segm|semantic|label|disp|alpha|thumb|preview|confidence", re.IGNORECASE
)
_NAMED = 3  # number of names in a message


def suffixes_read() -> tuple[str, ...]:
    """The suffixes of images that can be read, in lower case: HEIF's only if pillow-heif is installed."""
    return READ + HEIF if importlib.util.find_spec("pillow_heif") else READ


def by_number(name: str) -> list[tuple[int, str]]:
    """A sort key by which photographs are in the order of the numbers in their names.

    >>> sorted(["10.jpg", "9.jpg", "a.jpg"], key=by_number)
    ['9.jpg', '10.jpg', 'a.jpg']
    """
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def list_pictures(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    """The names of the images in a folder, sorted; and notes on images of formats that are not read.

    Raises:
      SceneError: the folder cannot be read.
    """
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise SceneError(f"{folder}: cannot be read: {error.strerror}") from None
    suffixes = [Path(name).suffix.lower() for name in names]
    read = suffixes_read()
    found = [name for name, suffix in zip(names, suffixes, strict=True) if suffix in read]
    return found, _skipped(suffixes)


def _skipped(suffixes: Sequence[str]) -> tuple[str, ...]:
    """Notes on images of formats that are not read, from the suffixes of files in lower case."""
    notes = []
    for suffix in sorted(set(suffixes) & {*HEIF, *_NOT_READ} - {*suffixes_read()}):
        how = "pip install pillow-heif" if suffix in HEIF else "their type is not read"
        notes.append(f"{suffixes.count(suffix)} {suffix} photographs were skipped: {how}")
    return tuple(notes)


def skipped_for(missing: Sequence[Path]) -> tuple[str, ...]:
    """Notes on images of formats that are not read, which have the names of missing photographs.

    Args:
      missing: files that do not exist, with a suffix or without.
    """
    wanted: dict[Path, set[str]] = {}
    for path in missing:
        wanted.setdefault(path.parent, set()).update((path.name, path.stem))
    found: list[str] = []
    for folder, stems in wanted.items():
        try:
            there = [Path(name) for name in os.listdir(folder) if not name.startswith(".")]
        except OSError:
            continue
        found += [path.suffix.lower() for path in there if path.stem in stems]
    return _skipped(found)


def choose_rows(
    folder: Path, names: Sequence[str], count: int, rows: str
) -> tuple[list[str], tuple[str, ...]]:
    """The images of a folder that belong to the rows of a file of cameras, one for each row, in order.

    If there are more images than rows, a group of images is chosen whose names differ only in their
    digits and which has as many images as there are rows. Groups of depth maps, masks and the like are
    considered only if there are no others.

    Args:
      folder: the folder, for messages.
      names: the names of the images, in order.
      count: number of rows.
      rows: name of the file of cameras, for messages.

    Returns:
      The names, and a note on images that were left out.

    Raises:
      SceneError: there is not exactly one such group.
    """
    if len(names) == count:
        return list(names), ()
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub("[0-9]+", "#", name), []).append(name)
    usual = [group for group in groups.values() if not _OTHER_KINDS.search(group[0])]
    plain = [group for group in usual or groups.values() if len(group) == count]
    if len(plain) == 1:
        others = [name for name in names if name not in set(plain[0])]
        return plain[0], (f"{_some(others)} in {folder.name} left out, having no row in {rows}",)
    most = max(map(len, groups.values()), default=0)
    odd = [name for group in groups.values() if len(group) < most for name in group]
    hint = f"; named differently from the others: {_some(odd)}" if odd else ""
    raise SceneError(f"{folder}: {len(names)} photographs, but {rows} has {count} rows{hint}")


def spellings(name: PurePosixPath) -> Iterator[PurePosixPath]:
    """The names that a file may have: the given name, then the same with other suffixes."""
    yield name
    for suffix in dict.fromkeys((name.suffix.swapcase(), name.suffix.lower(), *suffixes_read())):
        for each in (suffix, suffix.upper()):
            if each and each != name.suffix:
                yield name.with_suffix(each)


def mask_spellings(name: PurePosixPath) -> Iterator[PurePosixPath]:
    """The names that a photograph's mask may have in a folder of masks: NAME.jpg.png first."""
    for suffix in (".png", ".jpg", ".jpeg"):
        yield name.with_name(name.name + suffix)
    for stem in (name.stem, f"{name.stem}_mask", f"{name.stem}.mask"):
        for suffix in (".png", ".jpg", ".jpeg", ".PNG", ".JPG"):
            yield name.with_name(stem + suffix)


def is_folder(path: Path) -> bool:
    """Whether a path exists and is a folder."""
    return is_file(path) and path.is_dir()


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
