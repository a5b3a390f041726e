"""From suspicion to a better version: wrong captions are found in the evaluation application, judged, sent back, answered, and gone from the next version."""
import uuid

import pytest
from annotate_fixture import sign_in
from omegaconf import OmegaConf
from starlette.testclient import TestClient

from fullstack_ml import accounts, cli
from fullstack_ml.accounts import accept, invite
from fullstack_ml.apps import annotate_app, evaluate_app
from fullstack_ml.cases import Cases
from fullstack_ml.compare import compare
from fullstack_ml.core import compose_cfg
from fullstack_ml.dataset import diff_versions, find_version
from fullstack_ml.loop import run_stage, share_overrides
from fullstack_ml.records import open_database, read_items
from fullstack_ml.sample_site import answer_sheet, wrong_captions

N = 1000  # pictures of the gallery, 20 of them under a wrong caption
OVERRIDES = [
    "crawl:source.host.port=0", f"source.host.n_items={N}", "train:epochs=4", "train:speed.precision=fp32", "train:speed.layout=contiguous", "train:tracking=disabled",
    "evaluate:robustness.n=0", "dataset:report=null",
]  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads that wait for each other on a machine where others work take ten times as long."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def stage(name, out, made):
    made[name], _ = run_stage(name, share_overrides(OVERRIDES)[name], str(out), made)
    return made[name]


def client_of(site, name):
    return sign_in(TestClient(site, follow_redirects=False), name)


def figure(report):
    return next(f for f in report.read_json("metrics.json")["figures"] if (f["split"], f["labels"]) == ("test", "truth"))


def test_wrong_captions_are_judged_answered_and_gone(tmp_path, monkeypatch, capsys):
    from argon2 import PasswordHasher

    monkeypatch.setattr(accounts, "_hasher", lambda h=PasswordHasher(1, 64, 1): h)
    made, wrong, truth = {}, wrong_captions(0, N), answer_sheet(0, N)
    for name in ("problem", "crawl", "annotate", "dataset", "train", "evaluate"):
        stage(name, tmp_path, made)
    first = dict(made)
    cfg = OmegaConf.to_container(compose_cfg("evaluate", out=str(tmp_path)), resolve=True)
    db = open_database(cfg["storage"]["url"])
    for name, role in (("ann", "annotator"), ("rev", "reviewer")):
        accept(db, invite(db, role, "fsml"), name, "three words are good")

    # Find suspects and judge the twenty that stand under a wrong caption, as somebody does who looks at the pictures.
    rev, api = client_of(evaluate_app.make_site(cfg), "rev"), f"/api/r/{made['evaluate'].id}"
    rows = rev.get(f"{api}/cases", params={"sort": "suspicion", "down": "1", "n": 60}).json()["rows"]
    names = {i.id: i.sha256 for i in read_items(made["dataset"].path("items.parquet"))}
    judged = [r["item"] for r in rows if names[r["item"]] in wrong][:20]
    assert len(judged) == 20, "all of them are among the sixty most suspicious"
    said = [{"id": uuid.uuid4().hex, "item": i, "verdict": "wrong label", "comment": f"not what it shows {k}"} for k, i in enumerate(judged)]
    assert {r["status"] for r in rev.post(f"{api}/verdicts", json={"verdicts": said}).json()["results"]} == {"stored"}
    sent = rev.post(f"{api}/send", json={"items": judged}).json()
    assert (sent["new"], sent["again"], sent["left"]) == (20, 0, {})

    # Answer them in the annotation application, by what the pictures show.
    ann = client_of(annotate_app.make_site(OmegaConf.to_container(compose_cfg("annotate", out=str(tmp_path)), resolve=True)), "ann")
    tasks = ann.post(f"/api/p/{sent['project']}/next", json={"n": 50}).json()["tasks"]
    assert [t["item"] for t in tasks] == judged and not any(t["suggestion"] for t in tasks)
    answers = [{"id": uuid.uuid4().hex, "assignment": t["id"], "label": {"kind": "choice", "names": [truth[names[t["item"]]]]}, "seconds": 1.0} for t in tasks]
    assert {r["status"] for r in ann.post(f"/api/p/{sent['project']}/answers", json={"answers": answers}).json()["results"]} == {"stored"}

    # The next version differs in exactly these, and knows why.
    for name in ("annotate", "dataset", "train", "evaluate"):
        stage(name, tmp_path, made)
    changed = diff_versions(first["dataset"], made["dataset"])
    assert set(changed["change"]) == {"relabelled"} and sorted(changed["id"]) == sorted(judged)
    why = made["dataset"].read_json("why.json")
    assert sorted(w["item"] for w in why) == sorted(judged) and {w["verdict"] for w in why} == {s["id"] for s in said}
    assert {(w["by"], w["said"], w["report"]) for w in why} == {("rev", "wrong label", first["evaluate"].id)}
    assert all(w["new"] == truth[names[w["item"]]] and w["old"] != w["new"] for w in why) and made["dataset"].metrics["judged"] == 20
    before, after = figure(first["evaluate"]), figure(made["evaluate"])
    print(f"accuracy {before['accuracy']:.4f} became {after['accuracy']:.4f} on {after['n']} checked test items")
    told = compare(*(Cases(m["evaluate"], m["dataset"]) for m in (first, made)), [["split", "=", "test"]])
    assert told["n"] == after["n"] and (told["difference"] >= 0 or told["p"] > 0.001), told["said"]  # 20 of 1,000 labels are less than the chance of one training
    story = rev.get(f"{api}/items/{judged[0]}").json()
    assert story["versions"][0]["why"]["verdict"] == said[0]["id"] and [a["annotator"] for a in story["answers"]][-1] == "ann" and len(story["predictions"]) == 2
    assert find_version(compose_cfg("dataset", out=str(tmp_path)), "latest", "digits").id == made["dataset"].id

    monkeypatch.setenv("FSML_ARTIFACTS", str(tmp_path))
    capsys.readouterr()
    cli.run(["versions", "diff", first["dataset"].id, made["dataset"].id, "--page", str(tmp_path / "diff.html")])
    told = capsys.readouterr().out
    assert "relabelled  20" in told and told.count("wrong label, says rev: not what it shows") == 20
    assert (tmp_path / "diff.html").read_text().count("wrong label, says rev") == 20
    db.engine.dispose()
