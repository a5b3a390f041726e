"""A stage, a command, an error or a target that no page names fails here."""
import inspect
import re
import subprocess
import sys

import pytest
from house import CONF, NBS, ROOT, stages

from fullstack_ml import cli, core

README = (ROOT / "README.md").read_text(encoding="utf8")
PAGES = README + "\n".join(p.read_text(encoding="utf8") for p in sorted((ROOT / "docs").rglob("*.md")))
ERRORS = [name for name, c in vars(core).items() if inspect.isclass(c) and issubclass(c, core.FsmlError)]
TARGETS = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf8"), re.M)


@pytest.mark.parametrize("name", stages())
def test_every_stage_is_told(name):
    assert f"fsml {name}" in README


@pytest.mark.parametrize("name", list(cli.commands()))
def test_every_command_is_told(name):
    assert f"fsml {name}" in PAGES


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_is_told(name):
    assert f"`{name}`" in PAGES


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_of_make_is_told(name):
    assert f"make {name}" in README


def test_the_makefile_has_the_promised_targets():
    assert set(TARGETS) >= {"help", "run", "test", "lab", "prep", "smoke", "bento", "clean"}


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_root_of_the_configuration_says_what_it_does(path):
    assert re.match(r"# \S.* -> \S", path.read_text(encoding="utf8"))


@pytest.mark.parametrize("path", sorted(p for p in CONF.glob("*/*.yaml") if p.parent.name not in ("local",)), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_choice_says_what_it_is(path):
    assert any(line.startswith("# ") and "@package" not in line for line in path.read_text(encoding="utf8").splitlines()), "a comment that says when to choose it"


def test_what_the_readme_shows_exists():
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", README):
        if not re.match(r"[a-z]+://", target):
            assert (ROOT / target).exists(), f"README.md points at {target}"


def test_the_readme_is_the_index_notebook(tmp_path):
    assert (NBS / "index.ipynb").is_file(), "README.md is made from nbs/index.ipynb by make prep"
    words = ["nbconvert", "--log-level=ERROR", "--to", "markdown", f"--output-dir={tmp_path}", "--output=README", "nbs/index.ipynb"]
    subprocess.run([sys.executable, "-m", "jupyter", *words], cwd=ROOT, check=True, capture_output=True, timeout=120)
    assert (tmp_path / "README.md").read_text(encoding="utf8") == README, "run make prep"


def test_nothing_names_a_machine():
    for path in [ROOT / "README.md", ROOT / "Makefile", ROOT / "constraints.txt", *(ROOT / "docs").rglob("*.md")]:
        text = path.read_text(encoding="utf8")
        assert not re.search(r"/(?:home|root|work|Users)/\w", text), path.name


def test_constraints_are_plain_pins():
    for line in (ROOT / "constraints.txt").read_text(encoding="utf8").splitlines():
        assert not line or line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[\w.!+-]+", line), line


def test_the_bounds_of_the_package_admit_the_pins():
    from configparser import ConfigParser

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf8").split() if "==" in line)
    pins = {canonicalize_name(k): v for k, v in pins.items()}
    config = ConfigParser(delimiters=["="], interpolation=None)
    config.read(ROOT / "settings.ini", encoding="utf8")
    wanted = [line for key in ("requirements", "dev_requirements") for line in config["DEFAULT"][key].split("\n") if line]
    for requirement in map(Requirement, wanted):
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin and requirement.specifier.contains(pin, prereleases=True), f"{requirement}, constraints.txt has {pin}"
