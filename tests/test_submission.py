"""A submission is as its sample, or refused with the row; a board's best stands first."""
import pandas as pd
import pytest

from fullstack_ml import cli
from fullstack_ml.core import BadConfig, BadInput, NotFound, compose_cfg
from fullstack_ml.leaderboard import differences, leaderboard, to_page
from fullstack_ml.records import Choice, Item, Prediction, draft
from fullstack_ml.submission import asked_for, check_submission, fill, keyed_items, read_table, write_submission


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FSML_HOME", str(tmp_path))
    monkeypatch.setenv("FSML_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.chdir(tmp_path)


def table(text):
    head, *rows = [line.split(",") for line in text.split()]
    return pd.DataFrame(rows, columns=head, dtype=str)


SAMPLE = "id,cat,dog 007,0.5,0.5 010,0.5,0.5 002,0.5,0.5"
GOOD = "id,cat,dog 007,0.9,0.1 010,0.2,0.8 002,0.7,0.3"
LABELS = "id,label a,0 b,0 c,0"


@pytest.mark.parametrize(
    "sample, mine, said",
    [
        (SAMPLE, "id,dog,cat 007,0.1,0.9 010,0.8,0.2 002,0.3,0.7", r"Column 2 is to be cat: dog"),
        (SAMPLE, "id,cat 007,0.9 010,0.2 002,0.7", r"Column 3 is to be dog: nothing"),
        (SAMPLE, "id,cat,dog,cow 007,0.9,0.1,0 010,0.2,0.8,0 002,0.7,0.3,0", r"Column 4 is to be nothing: cow"),
        (SAMPLE, "ID,cat,dog 007,0.9,0.1 010,0.2,0.8 002,0.7,0.3", r"Column 1 is to be id: ID"),
        (SAMPLE, "id,cat,dog 007,0.9,0.1 010,0.2,0.8 010,0.7,0.3", r"Line 4 has an id that line 3 has: 010"),
        (SAMPLE, "id,cat,dog 7,0.9,0.1 10,0.2,0.8 2,0.7,0.3", r"Line 2 has an id that the sample has not: 7\. The sample has '007': are ids read as numbers"),
        (SAMPLE, "id,cat,dog 007,0.9,0.1 010,0.2,0.8 002,0.7,0.3 011,1,0", r"Line 5 has an id that the sample has not: 011"),
        (SAMPLE, "id,cat,dog 007,0.9,0.1 010,0.2,0.8", r"An id of the sample is missing, one of 1: 002"),
        (SAMPLE, "id,cat,dog 010,0.2,0.8 007,0.9,0.1 002,0.7,0.3", r"Line 2 is out of order, the sample has 007 there: 010"),
        (SAMPLE, "id,cat,dog 007,0.9,0.1 010,nan,0.8 002,0.7,0.3", r"There is no value in column cat of line 3, id 010: nan"),
        (SAMPLE, "id,cat,dog 007,0.9,0.1 010,,0.8 002,0.7,0.3", r"There is no value in column cat of line 3, id 010: empty"),
        (SAMPLE, "id,cat,dog 007,0.9,0.1 010,inf,0.8 002,0.7,0.3", r"There is no value in column cat of line 3"),
        (SAMPLE, "id,cat,dog 007,0.9,0.1 010,0.2,no 002,0.7,0.3", r"The value is no number in column dog of line 3"),
        (SAMPLE, "id,cat,dog 007,0.9,0.1 010,0.2,0.7 002,0.7,0.3", r"The probabilities of line 3, id 010, do not sum to one: 0\.9"),
        (LABELS, "id,label a,1 b,2.5 c,3", r"The value is no whole number in column label of line 3, id b: 2\.5"),
        (LABELS, "id,label a,1 b,cat c,3", r"The value is no number in column label of line 3"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(sample, mine, said):
    check_submission(table(SAMPLE), table(GOOD))
    check_submission(table(LABELS), table("id,label a,1 b,2 c,-3"))
    with pytest.raises(BadInput, match=said):
        check_submission(table(sample), table(mine))


def test_columns_may_begin_with_a_word_of_their_own():
    assert asked_for(table("id,class_cat,class_car a,0,0"), ["car", "cat"]) == {"class_cat": "cat", "class_car": "car"}
    assert asked_for(table("id,cat,car a,0,0"), ["car", "cat"]) == {"cat": "cat", "car": "car"}
    with pytest.raises(BadConfig, match="class_cow"):
        asked_for(table("id,class_cat,class_cow a,0,0"), ["car", "cat"])


def test_probabilities_are_checked_where_the_sample_has_zeros():
    """Many samples are filled with 0, which is no hint: what the columns mean is known from their names."""
    sample, meaning = table("id,cat,dog a,0,0 b,0,0"), {"cat": "cat", "dog": "dog"}
    assert asked_for(sample, ["cat", "dog"]) == meaning
    check_submission(sample, table("id,cat,dog a,0.4,0.6 b,1,0"), meaning)
    for mine, said in (("id,cat,dog a,0.4,0.5 b,1,0", "do not sum to one"), ("id,cat,dog a,1.4,-0.4 b,1,0", "outside 0 to 1")):
        with pytest.raises(BadInput, match=said):
            check_submission(sample, table(mine), meaning)


def test_what_a_sample_asks_for():
    many = ["0", "1", "10", "2"]
    assert asked_for(table("id,p_0,p_1,p_10,p_2 a,0,0,0,0"), many) == {f"p_{k}": k for k in many}
    assert asked_for(table("id,1,0,2,10 a,0,0,0,0"), many) == {"1": "1", "0": "0", "2": "2", "10": "10"}, "in the sample's order"
    assert asked_for(table("id,target a,0.5"), ["no", "yes"]) == {"target": "yes"}
    assert asked_for(table("id,target a,0"), ["no", "yes"]) == {"target": None}
    assert asked_for(table("id,target a,0"), ["no", "yes"], "probabilities") == {"target": "yes"}
    with pytest.raises(BadConfig, match="none of the model's classes: cow"):
        asked_for(table("id,cat,cow a,0,0"), ["cat", "dog"])
    with pytest.raises(BadConfig, match="no column for a class of the model: cow"):
        asked_for(table("id,cat,dog a,0,0"), ["cat", "dog", "cow"])
    with pytest.raises(BadConfig, match="no such form"):
        asked_for(table("id,cat,dog a,0,0"), ["cat", "dog"], "logits")


@pytest.mark.parametrize("bad, said", [(b"id,a\n1\n", "Line 2 of f.csv has 1 cells"), (b"\xff\xfe\x00", "no CSV in UTF-8"), (b"", "id column"), (b"id,a,a\n1,2,3\n", "different names"), (b"id,a\n", "and rows")])
def test_files_that_are_no_table(tmp_path, bad, said):
    (tmp_path / "f.csv").write_bytes(bad)
    with pytest.raises(BadInput, match=said):
        read_table(tmp_path / "f.csv")
    with pytest.raises(NotFound):
        read_table(tmp_path / "other.csv")


def test_written_read_back_and_not_written_when_wrong(tmp_path):
    p = lambda a: Prediction(Choice(("cat",)), a, {"cat": a, "dog": 1 - a})
    sample, meaning = table(SAMPLE), {"cat": "cat", "dog": "dog"}
    said = {"002": p(1 / 3), "007": p(0.9), "010": p(1e-12)}
    path = write_submission(tmp_path / "s.csv", sample, fill(sample, said, meaning), meaning)
    assert path.read_bytes() == b"id,cat,dog\n007,0.900000000,0.100000000\n010,0.000000000,1.000000000\n002,0.333333333,0.666666667\n"
    with pytest.raises(BadInput, match="line 3 of the sample could not be read: 010"):
        fill(sample, {**said, "010": None}, meaning)
    with pytest.raises(BadInput, match="line 4 of the sample has no prediction: 002"):
        fill(sample, {k: v for k, v in said.items() if k != "002"}, meaning)
    with pytest.raises(BadInput):
        write_submission(tmp_path / "t.csv", sample, table(GOOD).head(2), meaning)
    assert not (tmp_path / "t.csv").exists()


def test_ids_that_need_quotes_survive(tmp_path):
    (tmp_path / "s.csv").write_text('\ufeffid,label\n"a, b",0\n"say ""x""",0\n 7 ,0\n', encoding="utf8")
    sample = read_table(tmp_path / "s.csv")
    mine = sample.assign(label=["1", "2", "3"])
    assert read_table(write_submission(tmp_path / "m.csv", sample, mine)).equals(mine)


def test_items_by_key():
    items = [Item(url=f"http://x/{k:03d}.png", sha256=f"{k:064d}", meta={"name": f"n{k}"}) for k in range(5)]
    assert [i.url[-7:-4] for i in keyed_items(items, "parse_filename(url, true)", ["003", "001"]).values()] == ["001", "003"]
    assert set(keyed_items(items, "meta ->> 'name'", ["n4"])) == {"n4"}
    with pytest.raises(BadInput, match="not here: 003.*ids like 'http://x/000.png'"):
        keyed_items(items, "url", ["003"])
    with pytest.raises(BadInput, match="Two items answer"):
        keyed_items(items, "'x'", ["x"])
    with pytest.raises(BadConfig):
        keyed_items(items, "nonsense", ["x"])


# the board


def version(name):
    with draft("dataset", compose_cfg("dataset", [f"why={name}", "parents={}"]), {}) as d:
        d.metrics |= {"name": "digits", "version": name}
    return d.manifest


def entry(kind, dataset, score, *overrides, **metrics):
    stage = kind if kind != "folds" else "folds"
    with draft(kind, compose_cfg(stage, overrides), {"dataset": dataset}) as d:
        d.metrics |= {"accuracy": score, "main_metric": "accuracy", **({"spread": 0.01, "folds": 5, "n": 100} if kind == "folds" else {}), **metrics}
    return d.manifest


def test_the_board(tmp_path, capsys):
    with pytest.raises(NotFound, match="Nothing has been trained"):
        leaderboard(compose_cfg("folds"))
    old, new = version("0.0.1"), version("0.0.2")
    entry("folds", old, 0.999)
    made = {s: entry("folds", new, s, *o) for s, o in ((0.95, ["seed=1"]), (0.97, ["optim.lr=0.001"]), (0.96, ["seed=2"]))}
    run = entry("train", new, 0.99, split="val")
    part = entry("train", new, 0.98, "seed=3", part="fold 0 of 5")
    both = entry("ensemble", new, 0.98, n_members=3, n=100)
    board = leaderboard(compose_cfg("folds"))
    assert board["id"].tolist()[:5] == [both.id, made[0.97].id, made[0.96].id, made[0.95].id, run.id], "by cross-validation score, a single run below"
    assert board["place"].tolist()[:4] == [1, 2, 3, 4] and board["place"].isna().tolist() == [False] * 4 + [True, False]
    assert board["dataset"].tolist() == ["digits 0.0.2"] * 5 + ["digits 0.0.1"] and board["place"].iloc[-1] == 1, "the newest version first"
    assert part.id not in board["id"].tolist() and part.id in leaderboard(compose_cfg("folds"), parts=True)["id"].tolist()
    assert board.set_index("id").loc[made[0.97].id, "differs"] == "optim.lr=0.001"
    assert board.set_index("id").loc[made[0.96].id, "differs"] == "seed=2"
    assert leaderboard(compose_cfg("folds"), dataset=old.id)["score"].tolist() == [0.999]
    page = to_page(board.assign(differs="<script>alert(1)</script>"))
    assert "<script" not in page and page.count("<table") == 2 and "http" not in page

    assert cli.main(["leaderboard", "--page", "board.html"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "place" in lines[0] and both.id in lines[1] and lines[-1] == "board.html" and (tmp_path / "board.html").is_file()
    assert cli.main(["leaderboard", old.id]) == 0 and "0.999" in capsys.readouterr().out
    assert cli.main(["leaderboard", "--page"]) == 2 and "fsml leaderboard" in capsys.readouterr().err


def test_what_differs_is_told_and_nothing_else():
    a, b = {"x": {"lr": 1, "list": [1, 2]}, "seed": 0}, {"x": {"lr": 2, "list": [1, 2]}, "seed": 0, "extra": True}
    assert differences([a, a, b]) == [{}, {}, {"x.lr": 2}]
    assert differences([a]) == [{}]
