"""Weights: on the simplex, never worse than the best member where they were fitted, honest where they were not; and pseudo-labels."""
import numpy as np
import pytest

from fullstack_ml.annotate import consensus
from fullstack_ml.core import BadConfig, NotFound, compose_cfg, write_json
from fullstack_ml.ensemble import accuracy, answer, best_single, ensemble, equal, find_model, hill_climb, neg_log_loss, nested, simplex
from fullstack_ml.folds import read_oof, write_oof
from fullstack_ml.pseudolabel import changes, confident, unanswered
from fullstack_ml.records import Annotation, Choice, Item, Prediction, draft, open_database

CLASSES = [str(k) for k in range(10)]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FSML_HOME", str(tmp_path))
    for name in ("FSML_ARTIFACTS", "FSML_DATABASE_URL", "FSML_BLOBS_URL", "FSML_REMOTE_URL"):
        monkeypatch.delenv(name, raising=False)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def guesses(m=4, n=600, c=3, seed=0, noise=1.5):
    """Members with independent errors."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, c, n)
    return softmax(2 * np.eye(c)[y] + rng.normal(0, noise, (m, n, c))), y


@pytest.mark.parametrize("weigh", [hill_climb, simplex, equal, best_single])
@pytest.mark.parametrize("seed", range(3))
def test_weights_lie_on_the_simplex(weigh, seed):
    p, y = guesses(seed=seed)
    for some in (p, p[:1], np.concatenate([p, p[:1]])):  # one member, and one twice
        w = weigh(some, y)
        assert w.shape == (len(some),) and w.min() >= 0 and w.sum() == pytest.approx(1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("metric", [neg_log_loss, accuracy])
def test_never_worse_than_the_best_where_they_were_fitted(seed, metric):
    p, y = guesses(seed=seed, noise=[0.5, 1.5, 3][seed % 3])
    best = max(metric(q, y) for q in p)
    assert metric(np.tensordot(hill_climb(p, y, metric), p, 1), y) >= best
    assert neg_log_loss(np.tensordot(simplex(p, y), p, 1), y) >= max(neg_log_loss(q, y) for q in p) - 1e-9


def test_the_simplex_is_the_optimum():
    """No other point of a fine grid has a smaller log loss."""
    p, y = guesses(m=2, n=200)
    best = max(neg_log_loss(np.tensordot([a, 1 - a], p, 1), y) for a in np.linspace(0, 1, 201))
    assert neg_log_loss(np.tensordot(simplex(p, y), p, 1), y) >= best - 1e-6
    assert neg_log_loss(np.tensordot(hill_climb(p, y, rounds=200), p, 1), y) == pytest.approx(best, abs=1e-3)


def test_a_guesser_gets_nothing():
    p, y = guesses(m=3)
    p = np.concatenate([p, softmax(np.random.default_rng(9).normal(0, 2, p[:1].shape))])
    assert hill_climb(p, y)[-1] < 0.03 and simplex(p, y)[-1] < 0.03


@pytest.mark.parametrize("seed", range(3))
def test_the_nested_score_beats_the_best_member_and_sees_no_label_twice(seed):
    p, y = guesses(seed=seed)
    blended, part = nested(p, y, np.arange(len(y)), hill_climb)
    single, _ = nested(p, y, np.arange(len(y)), best_single)
    assert neg_log_loss(blended, y) > neg_log_loss(single, y) and accuracy(blended, y) > accuracy(single, y)
    assert np.allclose(blended.sum(1), 1)
    weights = hill_climb(p[:, part != 2], y[part != 2])
    assert np.allclose(blended[part == 2], np.tensordot(weights, p[:, part == 2], 1))


def test_groups_share_a_part():
    p, y = guesses(n=300)
    groups = np.repeat(np.arange(100), 3)
    _, part = nested(p, np.repeat(y[::3], 3), groups, equal)
    assert all(len({*part[groups == g]}) == 1 for g in range(100))
    with pytest.raises(BadConfig, match="cannot be divided to judge weights"):
        nested(p[:, :3], y[:3], [0, 0, 0], equal)


def fold_set(cfg, dataset, p, y, ids=None):
    """An artefact of `folds` with these probabilities, and what the stage needs of its run."""
    with draft("train", compose_cfg("train", [f"seed={int(p[0, 0] * 1e6) + len(y)}"]), {"dataset": dataset}) as t:
        write_json(t.dir / "model.json", {"task": {"_target_": "fullstack_ml.tasks.image_cls.ImageClassification", "labels": CLASSES[: p.shape[1]], "size": 8, "channels": 1}})
        t.metrics |= {"part": "fold 0 of 1"}
    classes = CLASSES[: p.shape[1]]
    rows = [{"item_id": i, "fold": 0, "group": k, "label": Choice((classes[c],)), "error": "",
             "prediction": Prediction(Choice((classes[int(q.argmax())],)), float(q.max()), dict(zip(classes, q.tolist())))}
            for k, (i, q, c) in enumerate(zip(ids or [f"{k:05d}" for k in range(len(y))], p, y))]  # fmt: skip
    with draft("folds", compose_cfg("folds", [f"seed={int(p[0, 0] * 1e6) + len(y)}"]), {"dataset": dataset}) as d:
        write_oof(rows, d.dir / "oof.parquet")
        write_json(d.dir / "folds.json", {"runs": [t.manifest.id], "classes": classes})
        d.metrics |= {"main_metric": "accuracy", "accuracy": accuracy(p, y), "f1_macro": 0.0, "log_loss": -neg_log_loss(p, y), "folds": 1, "n": len(y), "spread": 0.0}
    return d.manifest


def version(name):
    with draft("dataset", compose_cfg("dataset", [f"why={name}", "parents={}"]), {}) as d:
        d.metrics |= {"name": "digits", "version": name}
    return d.manifest


def test_the_stage(tmp_path, capsys):
    data, (p, y) = version("0.0.1"), guesses(m=3, n=200)
    sets = [fold_set(None, data, q, y) for q in p]
    other = fold_set(None, version("0.0.2"), p[0], y)
    made = ensemble(compose_cfg("ensemble", [f"parents.folds={sets[0].id}"]))
    told = made.read_json("weights.json")
    assert [m["id"] for m in told["members"]] == sorted(m.id for m in sets), "all of the version, and none of another"
    assert sum(m["weight"] for m in told["members"]) == pytest.approx(1)
    assert made.parents == {"folds": sets[0].id, "dataset": data.id}
    assert told["fitted"]["log_loss"] <= told["nested"]["weighted"]["log_loss"] < told["nested"]["single"]["log_loss"]
    assert made.metrics["log_loss"] == pytest.approx(told["nested"]["weighted"]["log_loss"]), "the reported score is the nested one"
    oof = read_oof(made)
    assert len(oof) == 200 and made.metrics["accuracy"] == pytest.approx((oof["label"] == oof["predicted"]).mean())
    assert ensemble(compose_cfg("ensemble", [f"parents.folds={sets[0].id}", f"members=[{sets[0].id},{sets[1].id}]"])).key != made.key
    with pytest.raises(BadConfig, match="two dataset versions"):
        ensemble(compose_cfg("ensemble", [f"parents.folds={sets[0].id}", f"members=[{sets[0].id},{other.id}]"]))
    odd = fold_set(None, data, p[0, :100] * 1.0, y[:100])
    with pytest.raises(BadConfig, match="different items.*00100"):
        ensemble(compose_cfg("ensemble", [f"parents.folds={sets[0].id}", f"members=[{sets[0].id},{odd.id}]"]))
    with pytest.raises(NotFound):
        ensemble(compose_cfg("ensemble", ["members=[nobody]"]))
    assert find_model(compose_cfg("ensemble"), {"ensemble": made})[1].main_metric == "accuracy"
    with pytest.raises(BadConfig, match="answers nothing"):
        answer(compose_cfg("ensemble"), data, [])


def test_who_answers_is_one():
    for parents in ({}, {"folds": 1, "ensemble": 2}):
        with pytest.raises(BadConfig, match="Exactly one parent"):
            find_model(compose_cfg("ensemble"), parents)


# pseudo-labels


def said(name, sure):
    return Prediction(Choice((name,)), sure, {name: sure})


def test_confident_and_capped():
    predictions = [said("a", 0.99), None, said("b", 0.5), said("a", 0.97), said("a", 0.98), said("b", 0.96)]
    assert confident(predictions, 0.95) == [0, 4, 3, 5]
    assert confident(predictions, 0.95, per_class=1) == [0, 5]
    assert confident(predictions, 0.95, per_class=0) == [] and confident([], 0.5) == []
    for bad in (1.5, -0.1, 95):
        with pytest.raises(BadConfig, match="between 0 and 1"):
            confident(predictions, bad)


def test_a_guess_never_outvotes_a_person_and_can_be_taken_back(tmp_path):
    db = open_database(f"sqlite:///{tmp_path}/a.db")
    items = [Item(url=str(k)) for k in range(4)]
    db.add([*items, Annotation(items[0].id, "ada", Choice(("a",)))])
    free, before = unanswered(db, "pseudo")
    assert {i.id for i in free} == {i.id for i in items[1:]} and not before
    given, back = changes([(i, said("b", 0.9)) for i in items[1:3]], before, "pseudo", "folds/1")
    assert len(given) == 2 and not back and given[0].meta == {"predicted": True, "confidence": 0.9, "by": "folds/1"}
    db.add(given)
    free, before = unanswered(db, "pseudo")
    assert len(free) == 3 and changes([(i, said("b", 0.9)) for i in items[1:3]], before, "pseudo", "folds/1") == ([], []), "asked again, nothing new"
    db.add([Annotation(items[1].id, "ada", Choice(("a",)))])
    agreed = consensus(db.get(Annotation))
    assert agreed[items[1].id]["label"] == Choice(("a",)) and agreed[items[1].id]["annotators"] == ["ada"], "the person's word"
    assert agreed[items[2].id]["label"] == Choice(("b",)) and agreed[items[2].id]["annotators"] == ["pseudo"]
    free, before = unanswered(db, "pseudo")
    assert items[1].id not in {i.id for i in free}
    given, back = changes([(items[3], said("c", 0.9))], before, "pseudo", "folds/2")
    assert [a.item_id for a in given] == [items[3].id] and {a.item_id for a in back} == {items[1].id, items[2].id}
    db.add([*given, *back])
    agreed = consensus(db.get(Annotation))
    assert items[2].id not in agreed and agreed[items[3].id]["label"] == Choice(("c",))
    given, _ = changes([(items[2], said("b", 0.9))], unanswered(db, "pseudo")[1], "pseudo", "folds/3")
    db.add(given)
    assert consensus(db.get(Annotation))[items[2].id]["label"] == Choice(("b",)), "given, taken back, and given again"
