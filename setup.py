"""Packaging; see README.md for how to install."""

from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
requirements = (here / "requirements.txt").read_text(encoding="utf-8").split()

setup(
    name="jaxnerf",
    version="0.1.0",
    description="Radiance fields in pure JAX: photographs in, a scene out",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["jaxnerf", "jaxnerf.*"]),
    package_data={
        "jaxnerf": ["py.typed"],
        "jaxnerf.scenes": ["demo/*.json", "demo/*/*.png"],
        "jaxnerf.viewer": ["static/*"],
    },
    install_requires=requirements,
    extras_require={
        "check": ["pycolmap>=4.0"],
        "docs": ["furo>=2024.8.6", "myst-parser>=4.0", "sphinx>=8.1"],
        "experiments": ["matplotlib>=3.8", "scikit-image>=0.24"],
        "export": [
            "fast-simplification>=0.1.7",
            "nibabel>=5.2",
            "OpenEXR>=3.3",
            "pynrrd>=1.0",
            "scikit-image>=0.24",
            "trimesh>=4.4",
            "xatlas>=0.0.9",
        ],
        "lpips": ["lpips>=0.1.4"],
        "process": ["pycolmap>=4.0"],
        "view": ["viser>=1.1"],
        "test": [
            "beartype>=0.19",
            "fast-simplification>=0.1.7",
            "hypothesis>=6.100",
            "matplotlib>=3.8",
            "nibabel>=5.2",
            "pillow-heif>=0.18",
            "plyfile>=1.0",
            "OpenEXR>=3.3",
            "playwright>=1.50",
            "pycolmap>=4.2",
            "pynrrd>=1.0",
            "pyright[nodejs]>=1.1.390",
            "pytest>=8.0",
            "pytest-xdist>=3.5",
            "ruff>=0.8",
            "scikit-image>=0.24",
            "trimesh>=4.4",
            "viser>=1.1",
            "xatlas>=0.0.9",
        ],
        "volumes": ["nibabel>=5.2", "pynrrd>=1.0"],
    },
    entry_points={"console_scripts": ["jaxnerf=jaxnerf.cli:entry_point"]},
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Image Processing",
    ],
)
