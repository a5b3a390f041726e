"""Number = floor = permission to import, and every module has exactly one notebook that says the same as it does."""
import ast
import re
import shutil
import subprocess
import sys
from collections import Counter

import pytest
from house import MANY, NBS, PACKAGE, ROOT, Notebook, at_import, floors, imported, library, modules, notebooks, ours, run_notebooks, stage_of, stages

MODULES = modules()
FLOORS = floors()
NAMES = set(MODULES) | {name.rpartition(".")[0] for name in MODULES if "." in name}
TREES = {name: ast.parse(path.read_text(encoding="utf8")) for name, path in MODULES.items()}
FORBIDDEN = [  # who, whom
    *((a, b) for a in ("crawl", "annotate", "dataset") for b in ("crawl", "annotate", "dataset") if a != b),
    *((a, b) for a in ("serve", "worker") for b in ("train", "compress")),
]
LEAN = ("serve", "worker", "release")  # what production imports: no training library, however deep
HEAVY = {"torch", "torchvision", "timm", "wandb", "accelerate"}


def floor(module: str) -> float:
    """Of a module, or of a package: its highest."""
    return FLOORS[module] if module in FLOORS else max((n for m, n in FLOORS.items() if m.startswith(f"{module}.")), default=0)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_lower_floors(name):
    upward = {m for m in ours(imported(TREES[name], name), NAMES) - {name} if floor(m) >= FLOORS.get(name, 0) and not name.startswith(f"{m}.")}
    assert not upward, f"{name} (floor {FLOORS.get(name)}) imports {', '.join(f'{m} (floor {floor(m)})' for m in upward)}"


@pytest.mark.parametrize("nb", library(), ids=str)
def test_the_live_cells_import_only_lower_floors(nb: Notebook):
    names = set().union(*(imported(t, nb.module) for t in nb.trees()))
    upward = {m for m in ours(names, set(FLOORS)) - {nb.module} if FLOORS[m] >= nb.number}
    assert not upward, f"{nb} imports {', '.join(f'{m} (floor {FLOORS[m]})' for m in upward)}"


@pytest.mark.parametrize("who, whom", FORBIDDEN)
def test_rooms_that_must_not_know_each_other(who, whom):
    if who in TREES:
        assert whom not in reached(who, everywhere=True), f"{who} imports {whom}, directly or not"


@pytest.mark.parametrize("name", MODULES)
def test_nobody_imports_one_of_many(name):
    concrete = {m for m in ours(imported(TREES[name], name), set(MODULES)) if m.split(".")[0] in MANY and "." in m and m != name}
    if name.startswith("models."):  # a model may be made of models below it
        concrete = {m for m in concrete if not m.startswith("models.")}
    assert not concrete, f"{name} imports {concrete}; name it in conf/ by `_target_`"


def reached(name: str, everywhere: bool = False) -> set[str]:
    """Modules of the house and names of others that importing a module imports, however deep; or that anything in it does."""
    todo, seen, outside = [name], set(), set()
    while todo:
        module = todo.pop()
        if module in seen or module not in TREES:
            continue
        seen.add(module)
        names = set().union(*(imported(s, module) for s in (TREES[module].body if everywhere else at_import(TREES[module]))))
        outside |= {n.split(".")[0] for n in names if not n.startswith("fullstack_ml")}
        todo += ours(names, set(MODULES))
    return seen | outside


@pytest.mark.parametrize("name", LEAN)
def test_production_imports_no_training_library(name):
    if name in TREES:
        assert not reached(name) & (HEAVY | {"train", "compress"})


@pytest.mark.parametrize("name", MODULES)
def test_importing_a_module_imports_no_heavy_library_unless_it_is_about_it(name):
    allowed = name.startswith(("models.", "tasks.")) or name in ("train", "compress", "evaluate", "hardware", "callbacks", "augment")
    assert allowed or not reached(name) & (HEAVY | {"bentoml", "papermill", "matplotlib", "sklearn"}) - ({"bentoml"} if name in ("serve", "loop") else set())


def test_no_two_notebooks_export_one_module():
    twice = [m for m, n in Counter(nb.module for nb in library()).items() if n > 1]
    assert not twice, f"{twice}: the last export would win without a word"


def test_no_two_notebooks_share_a_number():
    numbers = Counter(nb.number for nb in library() if nb.path.parent == NBS)
    assert not [n for n, count in numbers.items() if count > 1]


def test_every_module_has_its_notebook():
    assert set(MODULES) == set(FLOORS), "a module without a notebook is stale: delete it; a notebook without a module: run make prep"


def test_every_stage_has_its_module_its_function_and_its_run_notebook():
    runs = {stage_of(nb) for nb in run_notebooks()}
    for stage in stages():
        assert stage in MODULES, f"conf/{stage}.yaml has no module fullstack_ml/{stage}.py"
        functions = {n.name: n for n in TREES[stage].body if isinstance(n, ast.FunctionDef)}
        assert stage in functions, f"fullstack_ml/{stage}.py has no function {stage}(cfg)"
        assert [a.arg for a in functions[stage].args.args] == ["cfg"], f"{stage} takes a configuration and nothing else"
        assert stage in runs, f"nbs/runs holds no notebook of {stage}"
    assert not runs - set(stages()), f"run notebooks of no stage: {runs - set(stages())}"


def test_run_notebooks_carry_the_number_of_their_stage():
    for nb in run_notebooks():
        assert nb.number == FLOORS[stage_of(nb)], f"{nb} should begin with {FLOORS[stage_of(nb)]}"


def test_the_folders_of_notebooks_are_known():
    assert {nb.name.split("/")[0] for nb in notebooks() if "/" in nb.name} <= {"runs", "tutorials", "migrations"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The package as the notebooks say it now, in a folder of the checkout's shape, because nbdev writes relative paths into modules."""
    from nbdev.export import nb_export

    home = tmp_path_factory.mktemp("export")
    for nb in library():
        target = home / nb.path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(nb.path, target)
        nb_export(target, lib_path=home / PACKAGE.name)
    return home


@pytest.mark.parametrize("nb", library(), ids=str)
def test_a_module_says_what_its_notebook_says(nb, exported):
    path = MODULES[nb.module].relative_to(ROOT)
    kept, now = (ROOT / path).read_text(encoding="utf8"), (exported / path).read_text(encoding="utf8")
    lines = zip(kept.splitlines(), now.splitlines())
    assert kept == now, f"{path} differs from {nb} in line {next((n for n, (a, b) in enumerate(lines, 1) if a != b), 'the last')}: run make prep"


def test_the_index_of_names_knows_exactly_our_modules():
    text = (PACKAGE / "_modidx.py").read_text(encoding="utf8")
    listed = {m.removeprefix("fullstack_ml.") for m in re.findall(r"^\s+(?:'syms': \{ )?'(fullstack_ml[\w.]*)': \{", text, re.M)}
    with_names = {m for m, tree in TREES.items() if any(isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) for n in tree.body)}
    assert with_names <= listed <= set(FLOORS), "run make prep"


def test_the_version_is_said_once():
    version = re.search(r"^version = (\S+)", (ROOT / "settings.ini").read_text(), re.M)[1]
    assert f'"{version}"' in (PACKAGE / "__init__.py").read_text()


def test_importing_makes_nothing_and_asks_nobody(tmp_path):
    """In an empty folder, with the network cut off, every light module leaves the folder empty and says nothing."""
    light = [f"fullstack_ml.{m}" for m in MODULES if not reached(m) & HEAVY and not m.startswith("migrations")]
    program = (
        "import socket, importlib\ndef no(*a, **k): raise SystemExit('network at import time')\nsocket.socket.connect = no\n"
        f"for m in {light!r}: importlib.import_module(m)"
    )
    done = subprocess.run([sys.executable, "-B", "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0 and not done.stdout + done.stderr, done.stdout + done.stderr
    assert not list(tmp_path.iterdir())
