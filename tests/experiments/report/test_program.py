"""Rows of runs as tables."""

import json

import pytest

from experiments.benchmark import case_cache
from experiments.benchmark import cases as attack_cases
from experiments.datasets import DataError
from experiments.report import __main__ as report
from experiments.runtime import results

ROW = {"table": "extra/auroc", "dataset": "mnist", "system": "CMAG", "attack": "FGSM",
       "strength": 0.1, "metric": "auroc", "value": 0.5, "n": 9, "paper": None}  # fmt: skip


def printed(capsys, folder, rows, **options) -> list[str]:
    """The lines of the report on a run of these rows."""
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps({"rows": rows}))
    report.main((folder,), markdown=True, **options)
    return capsys.readouterr().out.strip().splitlines()[2:]


def test_detectors_are_columns_where_there_are_many_attacks(capsys, tmp_path):
    rows = [
        ROW,
        ROW | {"system": "MagNet", "value": 0.25, "n": 7},
        ROW | {"attack": "patch", "strength": 8.0, "system": "MagNet", "value": 1.0},
    ]
    assert printed(capsys, tmp_path, rows) == [
        "| dataset | attack | metric | CMAG | MagNet | n |",
        "| --- | --- | --- | --- | --- | --- |",
        "| mnist | FGSM 0.1 | auroc | 0.500 | 0.250 | 7-9 |",
        "| mnist | patch 8 | auroc |  | 1.000 | 9 |",
    ]


def test_only_the_attacks_that_are_named_are_rendered(capsys, tmp_path):
    names = ("none", "FGSM", "patch")
    rows = [ROW | {"attack": name, "strength": None} for name in names]
    found = printed(capsys, tmp_path, rows, attacks=("FGSM", "none"))
    assert [line.split(" | ")[1] for line in found[2:]] == ["clean", "FGSM"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"only": ("cmag/4",)}, "no run has the table 'cmag/4'; there are cmag/3, extra/auroc"),
        ({"systems": ("MagNet",)}, "no run has the system 'MagNet'; there are CMAG"),
        ({"metrics": ("auroc", "tpr")}, "no run has the metric 'tpr'; there are auroc"),
        ({"attacks": ("CW-l2",)}, "no run has the attack 'CW-l2'; there are FGSM, none"),
        ({"only": ("cmag/3",), "attacks": ("FGSM",)}, "no row of these runs is all that was asked"),
    ],
)
def test_what_no_run_has_is_refused(capsys, tmp_path, options, expected):
    rows = [ROW, ROW | {"table": "cmag/3", "attack": "none"}]
    with pytest.raises(SystemExit, match=expected):
        printed(capsys, tmp_path, rows, **options)


def test_a_table_of_which_nothing_is_left_is_not_printed(capsys, tmp_path):
    rows = [ROW, ROW | {"table": "cmag/3", "system": "MagNet"}]
    found = printed(capsys, tmp_path, rows, only=("cmag/3", "extra/auroc"), systems=("CMAG",))
    assert found[2:] == ["| mnist | FGSM 0.1 | auroc | 0.500 | 9 |"]


def test_an_interval_that_stands_in_rows_beside_a_figure_is_put_behind_it(capsys, tmp_path):
    ends = {"auroc:95%-low": 0.4, "auroc:95%-high": 0.7}
    rows = [ROW, *(ROW | {"metric": name, "value": value} for name, value in ends.items())]
    rows += [row | {"strength": 0.2, "value": 2 * row["value"]} for row in rows]
    found = printed(capsys, tmp_path, rows, metrics=("auroc",), intervals=True)
    assert [line.split(" | ")[3] for line in found[2:]] == [
        "0.500 (0.400-0.700)",
        "1.000 (0.800-1.400)",
    ]


@pytest.mark.parametrize(
    ("hits", "n", "interval"),
    # Wilson (1927) as statsmodels' proportion_confint(method="wilson") has it.
    [(0, 10, (0.0, 0.2775)), (5, 10, (0.2366, 0.7634)), (95, 100, (0.8882, 0.9785))],
)
def test_wilson_s_interval(hits, n, interval):
    row = {"metric": "tpr@fpr=0.05", "value": hits / n, "n": n}
    assert report.wilson(row) == pytest.approx(interval, abs=1e-4)
    assert report.wilson({"metric": "auroc", "value": 0.5, "n": 3}) is None


def test_seeds_are_put_together_as_mean_and_range():
    base = {"dataset": "mnist", "system": "CMAG", "attack": "FGSM", "strength": 0.1, "n": 9,
            "metric": "tpr@fpr=0.05", "table": "cmag/3", "paper": None}  # fmt: skip
    of_seeds = [base | {"value": value} for value in (0.5, 0.6, 0.7)]
    ((_, _, body),) = report.tables(of_seeds)
    assert body == [["mnist", "CMAG", "tpr@fpr=0.05", "0.600 (0.500-0.700)", "9"]]


def test_runs_of_other_systems_are_one_table_and_runs_of_the_same_are_told_apart(capsys, tmp_path):
    for name, system in (("a", "CMAG"), ("b", "MagNet"), ("c", "MagNet")):
        (tmp_path / name).mkdir()
        document = {"rows": [ROW | {"system": system}]}
        (tmp_path / name / "results.json").write_text(json.dumps(document))

    def lines(*names):
        report.main(tuple(tmp_path / name for name in names), markdown=True)
        return capsys.readouterr().out.strip().splitlines()[4:]

    assert lines("a", "b") == ["| mnist | FGSM 0.1 | auroc | 0.500 | 0.500 | 9 |"]
    assert lines("a", "b", "c") == [
        "| mnist | FGSM 0.1 | auroc | 0.500 |  | 9 |",
        "| mnist (b) | FGSM 0.1 | auroc |  | 0.500 | 9 |",
        "| mnist (c) | FGSM 0.1 | auroc |  | 0.500 | 9 |",
    ]


ODD = ROW | {
    "system": "[/bad]",
    "dataset": ":smile: [bold]x",
    "attack": "a|b [red",
    "metric": "<b>",
}


def test_names_that_look_like_markup_are_printed_as_they_are(capsys, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"rows": [ODD]}))
    report.main((tmp_path,), only=("extra/auroc",))
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("[/bad]", ":smile: [bold]x", "a|b [red", "<b>"))


def test_a_bar_in_a_name_is_no_column_in_markdown(capsys, tmp_path):
    header, _, line = printed(capsys, tmp_path, [ODD])
    assert r"| a\|b [red 0.1 |" in line
    assert header.count("|") == line.replace(r"\|", "").count("|")


def test_html_has_names_as_text(tmp_path):
    document = {"rows": [ODD], "config": {"x": "</pre><script>"}, "provenance": {"command": "<i>"}}
    (tmp_path / "results.json").write_text(json.dumps(document))
    report.write_html(tmp_path, "<title>", {}, "<u>note")
    html = (tmp_path / "report.html").read_text()
    assert "<b>" not in html and "&lt;b&gt;" in html
    for tag in ("<script>", "<i>", "<u>", "<title><title>"):
        assert tag not in html


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[]", "is damaged"),
        ("{}", "it has no 'rows'"),
        ('{"rows": {}}', "expected a list of rows, got dict"),
        ('{"rows": [3]}', "expected rows of table, dataset"),
        (json.dumps({"rows": [{"table": "x"}]}), "expected rows of table, dataset"),
        (json.dumps({"rows": [ROW | {"value": "half"}]}), "another value in a row, got 'half'"),
        (json.dumps({"rows": [ROW | {"value": None}]}), "another value in a row, got 'None'"),
        (json.dumps({"rows": [ROW | {"value": float("nan")}]}), "expected a finite value"),
        (json.dumps({"rows": [ROW | {"value": 10**400}]}), "expected a finite value"),
        (json.dumps({"rows": [ROW | {"n": 1.5}]}), "another n in a row"),
        (json.dumps({"rows": [ROW | {"n": -1}]}), "expected n of at least 0"),
        (json.dumps({"rows": [ROW | {"system": ["CMAG"]}]}), "another system in a row"),
        (json.dumps({"rows": [ROW | {"more": 1}]}), "expected rows of table, dataset"),
        ("[" * 100_000, "is damaged"),
    ],
)
def test_a_results_json_that_is_broken_is_named_with_the_remedy(tmp_path, text, told):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(DataError, match=r"results\.json is damaged .*delete it") as error:
        report.main((tmp_path,))
    assert told in str(error.value)


def test_what_can_t_be_read_is_named(tmp_path):
    (tmp_path / "results.json").mkdir()
    with pytest.raises(DataError, match=r"can't read .*results\.json: Is a directory"):
        results.read(tmp_path)
    with pytest.raises(DataError, match="nowhere does not exist; name a folder"):
        results.read(tmp_path / "nowhere")
    with pytest.raises(DataError, match="at least one run folder, got none"):
        results.read_all(())


def test_finished_cases_that_are_damaged_are_measured_again(tmp_path):
    case, row = attack_cases.parity("digits")[0], results.Row(**ROW)
    assert case_cache.rows(tmp_path, case, lambda: [row]) == [row]
    (kept,) = (tmp_path / "cases").iterdir()
    kept.write_text(kept.read_text()[:-20])
    again = results.Row(**ROW | {"value": 0.75})
    with pytest.warns(UserWarning, match=f"{kept.name} is damaged"):
        assert case_cache.rows(tmp_path, case, lambda: [again]) == [again]
    assert case_cache.rows(tmp_path, case, lambda: pytest.fail("it was kept")) == [again]
