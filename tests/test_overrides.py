"""What overrides and choices mean: mistakes name the nearest right thing, values keep their types, and what is chosen can be made."""
import re
import shutil
from pathlib import Path

import pytest
from omegaconf.errors import ReadonlyConfigError

from fullstack_ml.core import BadConfig, compose_cfg, conf_dir

CONF = conf_dir()


def choices(group: str) -> list[str]:
    return sorted(p.stem for p in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("overrides, named, nearest", [
    (["optim.lrr=1"], "optim.lrr", "optim.lr"),
    (["epoch=3"], "epoch", "epochs"),
    (["lr=1"], "lr", "optim.lr"),
    (["model.nmae=x"], "model.nmae", "model.name"),
    (["modle=resnet"], "modle", "model"),
    (["model=resnet81"], "resnet81", "resnet18"),
    (["~callbacks.chekpoint"], "callbacks.chekpoint", "callbacks.checkpoint"),
    (["experiment=resnet18", "optim.lrr=1"], "optim.lrr", "optim.lr"),
    (["nosuch=1"], "nosuch", ""),
])  # fmt: skip
def test_mistakes_name_the_nearest(overrides, named, nearest):
    with pytest.raises(BadConfig) as e:
        compose_cfg("train", overrides)
    text = str(e.value)
    assert named in text and len(text) < 500
    if nearest:
        assert re.search(rf"Did you mean [\w. ]*\b{re.escape(nearest)}\b", text), text


@pytest.mark.parametrize("wrong", [["epochs"], ["epochs=[1"], ["=1"], ["model=1"], ["model=null"], ["+epochs=1"], ["epochs=${nosuch}"]], ids=str)
def test_what_cannot_be_read_is_refused(wrong):
    with pytest.raises(BadConfig):
        compose_cfg("train", wrong)


@pytest.mark.parametrize("wrong", ["epochs=3", [3], [["epochs=3"]]], ids=str)
def test_overrides_are_a_list_of_strings(wrong):
    with pytest.raises(BadConfig, match="list of strings"):
        compose_cfg("train", wrong)


def test_a_stage_that_does_not_exist():
    with pytest.raises(BadConfig, match="Did you mean train"):
        compose_cfg("trian")


@pytest.mark.parametrize("root", ["crawl", "annotate"])
def test_a_site_of_ones_own_needs_a_name_and_a_start(root):
    with pytest.raises(BadConfig, match="source.name.*source.start"):
        compose_cfg(root, ["source=web"])
    assert compose_cfg(root, ["source=web", "source.name=mine", "source.start=[https://gallery.example/]"]).source.name == "mine"


def test_values_keep_their_types():
    cfg = compose_cfg("train", ["optim.lr=1e-3", "model.name='07'", "+note=null", "augment=none", "~callbacks.bar"])
    assert cfg.optim.lr == 0.001 and isinstance(cfg.optim.lr, float)
    assert cfg.model.name == "07" and cfg.note is None and not cfg.augment and "bar" not in cfg.callbacks


def test_out_moves_the_storage(tmp_path):
    odd = tmp_path / "a b's, 100% ärger"
    cfg = compose_cfg("train", out=str(odd))
    assert cfg.storage.root == str(odd) and cfg.storage.root in cfg.storage.url
    assert compose_cfg("train", ["profile=smoke"], out=str(tmp_path)).storage.root == str(tmp_path)


def test_twice_in_one_process():
    first = compose_cfg("train", ["optim.lr=0.5"])
    compose_cfg("crawl", ["profile=smoke"])
    assert compose_cfg("train", ["optim.lr=0.5"]) == first != compose_cfg("train")


def test_beside_somebody_elses_hydra():
    """A notebook that has initialised Hydra itself does not break us."""
    from hydra import initialize_config_dir

    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose_cfg("train").epochs


def test_composing_leaves_nothing_behind(elsewhere: Path):
    compose_cfg("train")
    assert not list(elsewhere.iterdir())


def test_a_configuration_is_read_only():
    with pytest.raises(ReadonlyConfigError):
        compose_cfg("train").epochs = 3


def test_a_local_file_is_read_last(tmp_path, monkeypatch):
    shutil.copytree(CONF, tmp_path / "conf", ignore=shutil.ignore_patterns("local"))
    (tmp_path / "conf/local").mkdir()
    (tmp_path / "conf/local/default.yaml").write_text("# @package _global_\nlimits:\n  n_epochs: 7\n")
    monkeypatch.setenv("FSML_CONF", str(tmp_path / "conf"))
    assert compose_cfg("train").limits.n_epochs == 7


def taught(section):
    """The task of a configuration; one whose labels a dataset would say gets ten."""
    from fullstack_ml.task import load_task

    return load_task({**section, "labels": section.labels or list("abcdefghij")})


@pytest.mark.parametrize("name", choices("model"))
def test_models_can_be_made(name):
    """By the task of the experiment that uses such a model, or by the default one."""
    import torch

    section = compose_cfg("train", [f"model={name}"]).model
    users = (compose_cfg("train", [f"experiment={e}"]) for e in choices("experiment"))
    task = taught(next((c.task for c in users if c.model._target_ == section._target_), compose_cfg("train").task))
    pairs = task.sample(2)
    batch = task.collate([task.encode(item) for item, _ in pairs], [label for _, label in pairs])
    out = task.step(task.build_model(section).eval(), {k: torch.from_numpy(v) for k, v in batch.items()})
    assert out["loss"].isfinite()


@pytest.mark.parametrize("name", choices("task"))
def test_tasks_can_be_made(name):
    task = taught(compose_cfg("train", [f"task={name}"]).task)
    assert task.label_kind in ("choice", "text", "boxes", "sequence") and len(task.sample(2)) == 2


@pytest.mark.parametrize("name", choices("augment"))
def test_augmentations_can_be_made(name):
    from hydra.utils import instantiate

    section = compose_cfg("train", [f"augment={name}"]).augment
    assert not section or callable(instantiate(section))


@pytest.mark.parametrize("name", choices("callbacks"))
def test_callbacks_can_be_made(name):
    from hydra.utils import instantiate

    made = instantiate(compose_cfg("train", [f"callbacks={name}"]).callbacks)
    assert made and {m for cb in made.values() for m in dir(cb) if re.match(r"(before|after)_", m)}


@pytest.mark.parametrize("name", choices("source"))
def test_sheets_of_a_source_can_be_made(name):
    from hydra.utils import instantiate

    for sheet in compose_cfg("annotate", [f"source={name}", "++source.name=a", "++source.start=[http://a.example/]"]).sheets.values():
        answers = instantiate(sheet)
        assert answers and all(re.fullmatch(r"[0-9a-f]{64}", key) for key in answers)


def test_a_word_in_the_place_of_a_number_is_refused():
    for override in ("epochs=many", "epochs=", "optim.lr=fast"):
        with pytest.raises(BadConfig, match="wants a number"):
            compose_cfg("train", [override])
    assert compose_cfg("crawl", ["delay=0.5"]).delay == 0.5 and compose_cfg("crawl", ["budget.n_pages=null"]).budget.n_pages is None


def test_what_is_made_by_a_configuration_fails_as_one_of_ours():
    from fullstack_ml.core import make

    with pytest.raises(BadConfig, match="nosuch_net.*Did you mean"):
        make({"_target_": "fullstack_ml.models.backbone.backbone", "name": "nosuch_net", "n_outputs": 2})
    with pytest.raises(BadConfig, match="cannot be made"):
        make({"_target_": "fullstack_ml.train.Bar", "colour": "red"})


def test_overrides_of_a_loop_go_where_they_belong():
    from fullstack_ml.loop import share_overrides

    shared = share_overrides(["source=web", "source.name=mine", "source.start=[http://a.example]", "experiment=resnet18", "problem=digits"])
    assert shared["crawl"][:3] == shared["annotate"][:3] == ["source=web", "source.name=mine", "source.start=[http://a.example]"]
    assert "experiment=resnet18" in shared["train"] and "experiment=resnet18" not in shared["crawl"]
    assert all("problem=digits" in own for own in shared.values()), "every root carries the problem"
    for wrong, named in (("source=mien", "mien"), ("train:nosuch=1", "nosuch"), ("optim.lrr=1", "optim.lr")):
        with pytest.raises(BadConfig, match=named):
            share_overrides([wrong])
