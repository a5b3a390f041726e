"""Every configuration that can be asked for composes, and what it names exists."""
import itertools
import re
from importlib import import_module

import pytest
import yaml
from house import CONF, stages
from omegaconf import OmegaConf

from fullstack_ml.core import BadConfig, compose_cfg

ROOTS = {stage: yaml.safe_load((CONF / f"{stage}.yaml").read_text(encoding="utf8")) for stage in stages()}
CHOICES = {d.name: sorted(p.stem for p in d.glob("*.yaml")) for d in sorted(CONF.iterdir()) if d.is_dir() and d.name != "local"}
EVERYWHERE = ["experiment", "profile"]
TEMPLATES = {"source/web"}  # to be copied and filled in: their values are missing on purpose


def groups(stage: str) -> list[str]:
    """Groups that a root takes, in its order; those of a root that it takes in stand where it does."""
    found = []
    for d in ROOTS[stage]["defaults"]:
        found += [next(iter(d)).removeprefix("override ")] if isinstance(d, dict) else groups(d) if d != "_self_" else []
    return list(dict.fromkeys(found))


def holes(group: str, choice: str) -> bool:
    return f"{group}/{choice}" in TEMPLATES


def experiments(stage: str) -> list[str]:
    """Those that concern a stage: an experiment overrides groups, and a root without them cannot take it."""
    found = []
    for name in CHOICES.get("experiment", []):
        text = (CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf8")
        overridden = set(re.findall(r"override /([\w/]+):", text))
        if overridden <= set(groups(stage)):
            found.append(name)
    return found


def products() -> list[tuple]:
    """Root x task x experiment x profile."""
    found = []
    for stage in ROOTS:
        tasks = CHOICES["task"] if "task" in groups(stage) else [None]
        found += itertools.product([stage], tasks, [None, *experiments(stage)], CHOICES["profile"])
    return found


def targets(node) -> set[str]:
    """Every `_target_` of a configuration."""
    if isinstance(node, dict):
        return {v for k, v in node.items() if k == "_target_"} | set().union(*(targets(v) for v in node.values()), set())
    return set().union(*map(targets, node)) if isinstance(node, list) else set()


def check(cfg) -> None:
    """Everything that a configuration names by `_target_` exists and can be called."""
    for target in targets(OmegaConf.to_container(cfg)):
        module, _, name = target.rpartition(".")
        assert callable(getattr(import_module(module), name, None)), f"{target} does not exist"


@pytest.mark.parametrize("stage, task, experiment, profile", products())
def test_root_x_task_x_experiment_x_profile(stage, task, experiment, profile):
    overrides = [f"profile={profile}", *([f"task={task}"] if task else []), *([f"experiment={experiment}"] if experiment else [])]
    cfg = compose_cfg(stage, overrides)
    check(cfg)
    limits = yaml.safe_load((CONF / "profile" / f"{profile}.yaml").read_text(encoding="utf8"))["limits"]
    assert dict(cfg.limits) == limits, "the profile wins over the experiment"


@pytest.mark.parametrize("stage, group, choice", [(s, g, c) for s in ROOTS for g in groups(s) for c in CHOICES.get(g, []) if g not in EVERYWHERE])
def test_every_choice_of_every_root_composes(stage, group, choice):
    if holes(group, choice):
        with pytest.raises(BadConfig, match="needs a value for"):
            compose_cfg(stage, [f"{group}={choice}"])
    else:
        check(compose_cfg(stage, [f"{group}={choice}"]))


@pytest.mark.parametrize("experiment", CHOICES.get("experiment", []))
def test_every_experiment_concerns_a_stage(experiment):
    assert [s for s in ROOTS if experiment in experiments(s)]


@pytest.mark.parametrize("stage", ROOTS)
def test_the_order_of_the_defaults(stage):
    defaults = ROOTS[stage]["defaults"]
    assert defaults[0] == "_self_", "_self_ first: groups, experiment and profile win over the root"
    assert "storage" in groups(stage)
    if isinstance(defaults[1], str):  # all of another root, which has its own profile, and groups besides
        assert all(isinstance(d, dict) for d in defaults[2:])
        return
    assert defaults[-3:] == [{"experiment": None}, {"profile": "full"}, {"optional local": "default"}]
    assert all(isinstance(d, dict) for d in defaults[1:])


@pytest.mark.parametrize("stage", ROOTS)
def test_the_first_line_says_what_comes_in_and_what_goes_out(stage):
    line = (CONF / f"{stage}.yaml").read_text(encoding="utf8").splitlines()[0]
    assert re.fullmatch(r"# .+ -> .+", line) and len(line) <= 130


@pytest.mark.parametrize("stage", ROOTS)
def test_the_parents_of_a_stage_are_stages(stage):
    assert set(compose_cfg(stage).parents) <= set(ROOTS)


def test_missing_values_stand_only_in_templates():
    with_holes = {p.relative_to(CONF).with_suffix("").as_posix() for p in CONF.rglob("*.yaml") if re.search(r":\s*\?\?\?", p.read_text(encoding="utf8"))}
    assert with_holes <= TEMPLATES


def test_every_group_is_taken_by_a_root():
    used = set().union(*(groups(s) for s in ROOTS)) | {"local"}
    empty = {g for g, names in CHOICES.items() if not names}
    assert set(CHOICES) - used - empty == set(), "a group that no root takes"


def test_nothing_asks_for_hydras_own_values_or_names_a_machine():
    for path in CONF.rglob("*.yaml"):
        if "local" in path.parts:
            continue
        text = path.read_text(encoding="utf8")
        assert "${hydra:" not in text, f"{path.name}: it fails outside of Hydra's own main"
        assert not re.search(r"(?<![\w.])/(?:home|root|Users|work|tmp)/", text), f"{path.name} names a path of one machine"


def test_the_smoke_profile_rests_apart():
    assert compose_cfg("train", ["profile=smoke"]).storage.root != compose_cfg("train").storage.root


def test_a_configuration_cannot_be_changed_by_a_stage():
    from omegaconf.errors import ReadonlyConfigError

    with pytest.raises(ReadonlyConfigError):
        compose_cfg("train").seed = 1
