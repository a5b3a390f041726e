"""What the tests know about the house: its notebooks, its modules, and who imports whom."""
import ast
import json
import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS, PACKAGE, CONF = ROOT / "nbs", ROOT / "fullstack_ml", ROOT / "conf"
ORDER = ("problem", "crawl", "annotate", "dataset", "train", "evaluate", "compress", "release", "serve")  # of the stages
MANY = ("models", "tasks", "apps")  # one of many, chosen by a configuration


@dataclass(frozen=True)
class Notebook:
    """A notebook as its file says."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.relative_to(NBS).as_posix()

    @cached_property
    def cells(self) -> list[dict]:
        cells = json.loads(self.path.read_text(encoding="utf8"))["cells"]
        return [{**c, "source": "".join(c["source"])} for c in cells]

    @property
    def code(self) -> list[dict]:
        return [c for c in self.cells if c["cell_type"] == "code"]

    @property
    def exported(self) -> list[str]:
        """Sources of the cells that go into the module."""
        return [c["source"] for c in self.code if re.search(r"^#\|\s*exporti?\s*$", c["source"], re.M)]

    @property
    def module(self) -> str | None:
        """What `default_exp` names, below the package."""
        found = [m[1] for c in self.code if (m := re.search(r"^#\|\s*default_exp\s+(\S+)", c["source"], re.M))]
        return found[0] if found else None

    @property
    def number(self) -> float:
        """The floor; a migration lives right below `records`, whatever its own number."""
        if self.path.parent.name == "migrations":
            return 0.5
        return int(m[1]) if (m := re.match(r"(\d+)_", self.path.name)) else float("inf")

    def trees(self, sources: list[str] | None = None) -> list[ast.Module]:
        """The code as Python sees it; lines for IPython alone are left out."""
        found = [c["source"] for c in self.code] if sources is None else sources
        return [ast.parse("\n".join("" if re.match(r"\s*[%!]", line) else line for line in s.splitlines())) for s in found]

    def __str__(self) -> str:
        return self.name


def _below(folder: Path) -> list[Notebook]:
    found = [p for p in sorted(folder.rglob("*.ipynb")) if not any(part[0] in "._" for part in p.relative_to(NBS).parts)]
    return [Notebook(p) for p in found]


@cache
def notebooks() -> list[Notebook]:
    """Every notebook that is kept, free research apart."""
    return [n for n in _below(NBS) if not n.name.startswith("explore/")]


def library() -> list[Notebook]:
    """Those that export a module."""
    return [n for n in notebooks() if n.module]


def run_notebooks() -> list[Notebook]:
    """Those of `nbs/runs`, in the order of the stages."""
    found = [n for n in notebooks() if n.name.startswith("runs/")]
    return sorted(found, key=lambda n: (ORDER.index(s) if (s := stage_of(n)) in ORDER else 99, n.name))


def stage_of(run: Notebook) -> str:
    """The stage of a run notebook, by its name."""
    return run.path.stem.partition("_")[2]


def modules() -> dict[str, Path]:
    """Dotted name below the package -> file, what nbdev itself writes apart."""
    found = {p.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): p for p in sorted(PACKAGE.rglob("*.py"))}
    return {name: p for name, p in found.items() if p.name not in ("__init__.py", "_modidx.py")}


def floors() -> dict[str, float]:
    """Module -> number of its notebook."""
    return {n.module: n.number for n in library()}


def imported(tree: ast.AST, module: str = "") -> set[str]:
    """Dotted names that code imports, wherever in it; ours absolute."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = f"fullstack_ml.{module}".split(".")[: -node.level]
                base = ".".join([*package, *([base] if base else [])])
            found |= {base, *(f"{base}.{a.name}" for a in node.names)}
    return found


def ours(names: set[str], among: set[str]) -> set[str]:
    """Of imported names, modules of the house, without `fullstack_ml.`."""
    return {n.removeprefix("fullstack_ml.") for n in names if n.startswith("fullstack_ml.")} & among


def at_import(tree: ast.Module) -> list[ast.stmt]:
    """The statements that run when a module is imported, what stands under TYPE_CHECKING apart."""
    return [s for s in tree.body if not isinstance(s, (ast.FunctionDef, ast.AsyncFunctionDef)) and "TYPE_CHECKING" not in ast.unparse(s).splitlines()[0]]


def stages() -> list[str]:
    """The roots of `conf/`, in order."""
    found = {p.stem for p in CONF.glob("*.yaml")}
    return [s for s in ORDER if s in found] + sorted(found - set(ORDER))
