"""Corruptions do what they are called, cost what they promise, and expectations fail where they should."""
import cv2
import numpy as np
import pytest

from fullstack_ml.core import BadConfig
from fullstack_ml.records import Choice, Item, Prediction
from fullstack_ml.robustness import CHANGES, CORRUPTIONS, behaviour, change, changed_item, corrupt, corrupted


def picture(seed=0, size=(48, 64), colour=True):
    """A smooth picture with edges in it."""
    rng = np.random.default_rng(seed)
    small = rng.integers(40, 160, (6, 8, 3) if colour else (6, 8)).astype(np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_NEAREST)


def item(seed=0, **how):
    return Item(url=f"http://127.0.0.1/{seed}", data=cv2.imencode(".png", picture(seed, **how))[1].tobytes())


def far(a, b):
    return np.abs(a.astype(float) - b).mean()


@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("size", [(28, 28), (64, 300), (256, 256)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_is_stronger_than_the_one_before(name, size, colour):
    image = picture(size=size, colour=colour)
    made = [corrupt(image, name, s) for s in (1, 2, 3, 4, 5)]
    assert all(m.shape == image.shape and m.dtype == np.uint8 for m in made)
    distances = [far(m, image) for m in made]
    assert distances[0] > 0 and all(b > 0.95 * a for a, b in zip(distances, distances[1:])) and distances[-1] > 1.1 * distances[0], distances
    assert (corrupt(image, name, 3, seed=4) == corrupt(image, name, 3, seed=4)).all()


def test_they_are_what_they_are_called():
    image = np.full((224, 224), 100, np.uint8)
    assert corrupt(image, "noise", 3).astype(float).std() == pytest.approx(0.18 * 255, rel=0.05)  # the table of ImageNet-C
    assert (corrupt(image, "brightness", 2) == 151).all()  # 0.2 of 255 more
    assert corrupt(np.full((32, 32), 100, np.uint8), "noise", 3).astype(float).std() == pytest.approx(0.08 * 255, rel=0.1)  # that of CIFAR-10-C
    edge = np.zeros((224, 224), np.uint8)
    edge[:, 112:] = 255
    slope = np.diff(corrupt(edge, "blur", 2).astype(float)[100])
    assert slope.max() == pytest.approx(255 / (2 * np.sqrt(2 * np.pi)), rel=0.1)  # of an edge under a Gaussian of two pixels


def test_changes_in_their_own_units():
    image = picture()
    assert (change(image, "none") == image).all() and (change(image, "mirror") == image[:, ::-1]).all() and (change(image, "invert") == 255 - image).all()
    assert (change(image, "turn", 180)[1:-1, 1:-1] == image[::-1, ::-1][1:-1, 1:-1]).mean() > 0.95
    assert (change(image, "shift", 0.125)[6:, 8:] == image[:-6, :-8]).all() and change(image, "scale", 0.5).shape == (24, 32, 3)
    grey = change(image, "grey")
    assert (grey[..., 0] == grey[..., 1]).all() and set(CHANGES) > set(CORRUPTIONS)


@pytest.mark.parametrize("name, by", [("fog", 1), ("blur", 0), ("blur", 6), ("noise", float("nan"))])
def test_what_there_is_not_is_refused(name, by):
    with pytest.raises(BadConfig):
        change(picture(), name, by)


class Model:
    """Says how bright a picture is, and counts what it is asked."""

    def __init__(self):
        self.asked, self.calls = 0, 0

    def __call__(self, items):
        self.asked, self.calls = self.asked + len(items), self.calls + 1
        return [self.answer(i) for i in items]

    def answer(self, item):
        image = cv2.imdecode(np.frombuffer(item.data, np.uint8), cv2.IMREAD_GRAYSCALE)
        share = float(np.clip(image.mean() / 255, 0.01, 0.99))
        return Prediction(Choice(("light" if share > 0.5 else "dark",)), max(share, 1 - share), {"light": share, "dark": 1 - share})


def same(prediction, label):
    return prediction.label == label


DARK = Choice(("dark",))


def test_accuracy_by_strength_and_its_cost():
    model, items = Model(), [item(i) for i in range(30)]
    found = corrupted(model, same, items, [DARK] * 30, n=20, names=("brightness", "jpeg"), strengths=(1, 5))
    assert found["n"] == 20 and found["clean"]["accuracy"] == 1 and [(c["name"], c["strength"]) for c in found["corruptions"]] == [("brightness", 1), ("brightness", 5), ("jpeg", 1), ("jpeg", 5)]
    assert model.asked == 20 * 5 and found["corruptions"][1]["accuracy"] < 1 and found["corruptions"][2]["accuracy"] == 1
    assert all(c["low"] <= c["accuracy"] <= c["high"] for c in found["corruptions"]) and found["mean"] == pytest.approx(np.mean([c["accuracy"] for c in found["corruptions"]]))


def test_only_what_is_needed_is_read():
    read = []
    bring = lambda i: read.append(i.id) or (None if len(read) == 2 else item(int(i.url)))
    bare = [Item(url=str(i)) for i in range(1000)]
    found = corrupted(Model(), same, bare, [DARK] * 1000, n=5, names=("blur",), strengths=(1,), read=bring)
    assert found["n"] == 5 and len(read) == 6  # the second one has no bytes


def test_off_and_empty():
    items = [item(i) for i in range(3)]
    model = Model()
    assert corrupted(model, same, items, [DARK] * 3, n=0) is None and behaviour(model, same, items, [DARK] * 3, [{"expect": "same"}], n=0) == [] and model.asked == 0
    words = [Item(data=b"12 7 3", mime="application/json"), Item(data=b"")]
    assert corrupted(model, same, words, [DARK] * 2) is None and changed_item(words[0], "blur") is None
    (test,) = behaviour(model, same, words, [DARK] * 2, [{"change": "blur", "expect": "same"}])
    assert test["n"] == 0 and test["share"] is None


def test_an_answer_that_fails_to_come_counts_as_wrong():
    model = Model()
    model.answer = lambda i: None
    found = corrupted(model, same, [item()], [DARK], names=("blur",), strengths=(1,))
    assert found["clean"]["accuracy"] == 0 and found["mean"] == 0


def test_expectations():
    items, labels = [item(i) for i in range(20)], [DARK] * 20
    tests = [
        {"name": "invariant", "change": "mirror", "expect": "same"}, {"name": "broken by it", "change": "invert", "expect": "same"},
        {"name": "lighter", "change": "brightness", "by": 3, "expect": "up", "of": "light"}, {"name": "darker", "change": "brightness", "by": 3, "expect": "down", "of": "light"},
        {"name": "right", "expect": "label"}, {"name": "inverted is light", "change": "invert", "expect": "label", "of": "light"}, {"name": "of nobody", "expect": "label", "only": "light"},
    ]  # fmt: skip
    found = {t["name"]: t for t in behaviour(Model(), same, items, labels, tests)}
    failed = {name: t["failed"] for name, t in found.items()}
    assert failed["invariant"] == failed["lighter"] == failed["right"] == failed["inverted is light"] == 0 and found["of nobody"]["n"] == 0
    assert failed["broken by it"] > 15 and failed["darker"] == 20 and found["darker"]["items"] == [i.id for i in items]
    assert found["darker"]["low"] <= found["darker"]["share"] <= found["darker"]["high"]


@pytest.mark.parametrize("test", [{"change": "fog"}, {"expect": "better"}, {"by": 2, "chagne": "blur"}])
def test_an_expectation_that_cannot_be_tested_is_refused(test):
    with pytest.raises(BadConfig):
        behaviour(Model(), same, [item()], [DARK], [test])
