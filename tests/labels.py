"""What tests of formats share."""
from fullstack_ml.records import Boxes, Label


def near(a: Label, b: Label, within: float) -> bool:
    """The same label, its places up to a part of a pixel."""
    if not isinstance(a, Boxes) or not isinstance(b, Boxes):
        return a == b
    pairs = list(zip(a.boxes, b.boxes))
    same = all((p.name, p.text) == (q.name, q.text) for p, q in pairs)
    return len(a.boxes) == len(b.boxes) and same and all(abs(getattr(p, k) - getattr(q, k)) <= within for p, q in pairs for k in "xywh")
