"""Carries settings.ini into setuptools, and ships conf/ as the data package `fullstack_ml.conf`."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="], interpolation=None)
config.read(here / "settings.ini", encoding="utf8")
cfg = config["DEFAULT"]


def lines(key: str) -> list[str]:
    """The non-empty lines of a multi-line setting."""
    return [line.strip() for line in cfg.get(key, "").splitlines() if line.strip()]


conf_packages = ["fullstack_ml.conf"] + [
    f"fullstack_ml.conf.{p.relative_to(here / 'conf').as_posix().replace('/', '.')}" for p in sorted((here / "conf").rglob("*")) if p.is_dir()
]
setup(
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    keywords=cfg["keywords"],
    packages=find_packages(include=["fullstack_ml", "fullstack_ml.*"]) + conf_packages,
    package_dir={"fullstack_ml.conf": "conf"},
    package_data={"fullstack_ml": ["static/**"], **{p: ["*.yaml"] for p in conf_packages}},
    include_package_data=False,
    install_requires=lines("requirements"),
    extras_require={name: lines(f"{name}_requirements") for name in ("dev", "mysql", "postgres", "s3", "sweep")},
    entry_points={"console_scripts": lines("console_scripts")},
    zip_safe=False,
)
