"""Batches augmented at once: each picture in its own way, the same again from the same seed, and targets that still sum to one."""
import pytest
import torch

from fullstack_ml.augment import Affine, Augment, Erase, Mix, RandAugment, inside
from fullstack_ml.core import BadConfig, compose_cfg, make


def batch(n=16, size=24, channels=3):
    torch.manual_seed(0)
    return {"image": torch.randint(0, 256, (n, size, size + 8, channels), dtype=torch.uint8), "target": torch.arange(n) % 4, "soft": torch.eye(4)[torch.arange(n) % 4]}


STEPS = {"affine": [Affine(15, (0.1, 0.1), (0.9, 1.1), 8, [0.5, 1.0], flip=0.5)], "rand": [RandAugment(p=1)], "erase": [Erase(p=1)], "mix": [Mix()],
         "all": [Affine(15), RandAugment(), Erase(), Mix()]}  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", STEPS)
def test_the_same_seed_gives_the_same_batch_and_shapes_stay(name, channels):
    given, made = batch(channels=channels), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(Augment(STEPS[name])(given))
    assert torch.equal(made[0]["image"], made[1]["image"]) and not torch.equal(made[0]["image"], made[2]["image"])
    assert made[0]["image"].shape == given["image"].shape and torch.isfinite(made[0]["image"]).all()
    assert -0.01 <= made[0]["image"].min() and made[0]["image"].max() <= 255.01
    assert torch.allclose(made[0]["soft"].sum(1), torch.ones(16)) and torch.equal(given["image"], batch(channels=channels)["image"]), "the batch that came in is as it was"


@pytest.mark.parametrize("name", ["affine", "rand", "erase"])
def test_each_picture_is_changed_in_its_own_way(name):
    one = batch(1)["image"]
    torch.manual_seed(3)
    made = Augment(STEPS[name])({"image": one.repeat(12, 1, 1, 1)})["image"]
    assert len({tuple(image.flatten()[::7].tolist()) for image in made}) > 9


def test_a_quarter_turn_of_a_wide_picture_keeps_its_pixels_square():
    image = torch.zeros(1, 1, 21, 41)
    image[0, 0, 10, 10:31] = 255  # a line as long as the picture is high
    step = Affine(90)
    step.degrees = 90
    torch.manual_seed(0)
    from fullstack_ml import augment

    was, augment.between = augment.between, lambda n, low, high, like: torch.full((n,), float(high))
    try:
        turned = step({"image": image})["image"][0, 0]
    finally:
        augment.between = was
    assert turned[1:20, 20].min() > 200 and turned[:, :19].max() < 60, "upright, and as long as before"


def test_mixed_targets_say_how_much_of_each_picture_there_is():
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 10, 10, 1) * 50
    for step in (Mix(mixup=1, cutmix=0), Mix(mixup=0, cutmix=1)):
        torch.manual_seed(5)
        made = Augment([step])({"image": images, "soft": torch.eye(4), "weight": torch.ones(4)})
        told = (made["soft"] * torch.arange(4) * 50).sum(1)
        assert torch.allclose(made["image"].mean((1, 2, 3)), told, atol=0.1), "the mean grey of a mixed picture is what its target says"


def test_stretches_lie_inside():
    for share in (0.01, 0.3, 1.0):
        for place in (0.0, 0.5, 0.999):
            at = inside(10, torch.tensor([share]), torch.tensor([place]))
            assert at.sum() == max(1, round(10 * share))


def test_names_that_do_not_exist():
    for wrong, said in ((lambda: RandAugment(operations=["swirl"]), "swirl"), (lambda: Affine(padding="round"), "round"), (lambda: Mix(0, 0), "positive")):
        with pytest.raises(BadConfig, match=said):
            wrong()


def test_the_recipes_of_conf_are_made_and_run():
    for name in ("affine", "strong"):
        step = make(compose_cfg("train", [f"augment={name}"]).augment)
        assert step.mixes == (name == "strong") and step(batch())["image"].shape == (16, 24, 32, 3)
