"""Every number of Table 1 and of the claims leads to a page of the runs that made it."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from nesf.files import read_json
from nesf.records import RecordedRun, all_runs, run_folders
from nesf_studies import claims, links, run_pages, tables
from nesf_studies.page import RESULTS, TABLE1, TITLES
from nesf_studies.trials import changes_table

SEED = RESULTS / "lcs6" / "nesf" / "cpu" / "seed-0"


@pytest.fixture(scope="module")
def runs() -> list[RecordedRun]:
    """All recorded runs."""
    return all_runs(RESULTS)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pages of the runs."""
    folder = tmp_path_factory.mktemp("site")
    run_pages.write_pages(folder)
    return folder


def tables_of(runs: list[RecordedRun]) -> dict[str, str]:
    """The tables of the page Table 1 as HTML."""
    found = {
        f"{name} {split}": tables.comparison_table(runs, name, split)
        for name in (*TITLES, "starter")
        for split in ("test", "val", "train")
    }
    found |= {
        f"difference {against}": tables.difference_table(runs, against=against)
        for against in ("nesf", "icsg3d")
    }
    for name in ("lcs6", "ybco", "icsg3d-recovered"):
        found[f"sources {name}"] = tables.error_sources(runs, name)
        found[f"atoms {name}"] = tables.linked_atoms(name)
        found[f"atoms that differ {name}"] = tables.linked_differences(name)
    found["worst"] = tables.largest_errors(runs, "icsg3d-recovered")
    found["cost"], found["recipes"] = tables.cost_table(runs), tables.recipes_table(runs)
    found["paper"] = tables.paper_lattice_table()
    shown = {name: links.as_html(table).data for name, table in found.items()}
    changes = links.sourced(changes_table(runs, "ybco"), anchor="val")
    return shown | {"changes": changes.data}


def targets_of(text: str) -> set[str]:
    """Where links to runs lead."""
    return set(re.findall(r'<a class="run" href="([^"]*)"', text))


def test_every_number_of_table_1_leads_to_its_runs(runs: list[RecordedRun], site: Path) -> None:
    leading = set()
    for name, text in tables_of(runs).items():
        assert links.numbers_without_source(text) == [], name
        leading |= targets_of(text)
    assert len(leading) > 50
    for target in leading:
        page, _, anchor = target.removeprefix("../").partition("#")
        assert target.startswith("../runs/") and (site / page).exists(), target
        assert not anchor or f'id="{anchor}"' in (site / page).read_text(), target


def test_every_number_of_a_claim_leads_to_its_runs(runs: list[RecordedRun], site: Path) -> None:
    rows = claims.claims(runs)
    assert len(rows) > 12
    for row in rows:
        # neither the level of intervals, a setting, nor the name of a table is measured
        cell = re.sub(r"95 %|latent vectors of 1024|Table 1", "", row.found)
        assert links.numbers_without_source(f"<td>{cell}</td>") == [], row.says
        for target in targets_of(row.found):
            page, _, anchor = target.partition("#")
            assert f'id="{anchor}"' in (site / page).read_text() or not anchor, target


@pytest.mark.parametrize("page", ["notebooks/table1.py", "book/claims.md"])
def test_prose_holds_no_measured_number(page: str) -> None:
    """A measured number has a point or a unit; in prose it would lead nowhere."""
    text = (RESULTS.parent / page).read_text(encoding="utf-8")
    if page.endswith(".py"):
        cells = re.split(r"^# %%", text, flags=re.MULTILINE)
        text = "\n".join(cell for cell in cells if cell.startswith(" [markdown]"))
    else:
        text = text.split("---", 2)[2]
    text = re.sub(r"```.*?```|`[^`]*`|\$[^$]*\$|Section \d\.\d", "", text, flags=re.DOTALL)
    found = re.findall(r"(?<!\w)\d+\.\d+|(?<!\w)\d+(?=\s?(?:Å|°|%))", text)
    assert [number for number in found if number != "95"] == []


def test_a_number_without_a_link_is_found() -> None:
    table = pd.DataFrame({"a": ["1.25", links.quoted("2.5"), links.linked("3.5", [SEED])]})
    assert links.numbers_without_source(links.as_html(table).data) == ["1.25"]
    outside = links.linked("4.5", [Path("/elsewhere/run")])  # nothing to lead to
    assert links.numbers_without_source(f"<td>{outside}</td>") == ["4.5"]


def test_several_runs_lead_to_the_page_of_their_recipe() -> None:
    seeds = [SEED.parent / f"seed-{k}" for k in range(3)]
    assert links.address(seeds, "test") == "runs/lcs6/nesf/cpu.html#test"
    assert links.address(seeds[:1]) == "runs/lcs6/nesf/cpu/seed-0.html"
    assert links.address([SEED, RESULTS / "ybco" / "nesf" / "cpu" / "fold-0"]) == ""
    assert links.address([SEED, RESULTS / "lcs6/nesf/plus/seed-0"]) == "runs/index.html#lcs6"


def test_analyses_and_other_records_lead_to_their_part_of_a_page(site: Path) -> None:
    parts = {
        "lcs6/nesf/cpu/seed-0/analysis/decoding": "lcs6/nesf/cpu/seed-0.html#analysis-decoding",
        "benchmarks/cpu-lcs6/speed.json": "benchmarks/cpu-lcs6.html#speed",
        "robustness/campaign-before.json": "robustness.html#campaign-before",
        "workflow/slurm.json": "workflow.html#slurm",
    }
    for record, target in parts.items():
        assert links.address([RESULTS / record]) == f"runs/{target}"
        page, _, anchor = target.partition("#")
        text = (site / "runs" / page).read_text()
        command = next((RESULTS / record).glob("*.json"), RESULTS / record)
        assert f'id="{anchor}"' in text and read_json(command)["commit"] in text, target
    lcs6 = links.address([RESULTS / "lcs6/nesf/cpu", RESULTS / "lcs6/nesf/plus"])
    assert 'id="lcs6"' in (site / lcs6.partition("#")[0]).read_text()


def test_a_table_says_of_each_number_where_it_is_from() -> None:
    table = pd.DataFrame(
        {"n": [3, 4], "error": [0.25, 2.0], "formula": ["NaCl", "PbS2"]}, index=["ours", "paper"]
    )
    links.from_runs(table, {"n": links.GIVEN, "paper": links.PAPER})
    for shown in (table, table.style.format({"error": "{:.3f}"})):
        made = links.sourced(shown, SEED, anchor="test").data
        (found,) = re.findall('<a class="run" href="([^"]*)">0.250?</a>', made)
        assert found == "../runs/lcs6/nesf/cpu/seed-0.html#test"
        assert made.count('class="count"') == 2 and made.count('class="paper"') == 1
        assert re.search(r'class="paper" title="[^"]*">2.000?</span>', made)
        assert links.numbers_without_source(made) == []
    outside = links.sourced(table, Path("/elsewhere/run")).data
    assert links.numbers_without_source(outside) == ["0.25"] and "href" not in outside
    with_rows = links.from_runs(table.reset_index(drop=True), rows=[SEED, links.HERE])
    made = links.sourced(with_rows).data
    assert made.count('class="here"') == 2 and made.count('class="run"') == 2


def test_a_sentence_says_of_each_number_where_it_is_from() -> None:
    text = links.prose("**65 minutes** on LCS6Å and MP-20, `--epochs 3`, 1,200 of them", SEED).data
    assert re.findall(r'<a class="run" [^>]*>([^<]*)</a>', text) == ["65", "1,200"]
    page = '<div class="cell_output"><p>took 3.5 hours, <code>4</code>, mp-1265</p></div><p>7</p>'
    assert links.numbers_without_source(page) == ["3.5"]
    caption = '<div class="cell_output"><figcaption><p>Fig. 3 shows 5</p></figcaption></div>'
    assert links.numbers_without_source(caption) == []


def test_a_page_tells_what_made_a_run_and_how_to_repeat_it(site: Path) -> None:
    text = (site / "runs" / "lcs6" / "nesf" / "cpu" / "seed-0.html").read_text()
    about = read_json(SEED / "run.json")
    for part in (about["command"], about["commit"], about["device_name"], about["dataset"]["hash"]):
        assert part in text, part
    assert "git checkout " + about["commit"] in text and "nesf data fetch lcs6" in text
    for name in ("repeat", "loss", "test", "val", "worst", "analysis-sensitivity"):
        assert f'id="{name}"' in text, name
    assert (
        text.count("<polyline") == 2 and "../../../../results/lcs6/nesf/cpu/seed-0/run.json" in text
    )
    value = read_json(SEED / "metrics.json")["test"]["position_error_actual_angstrom"]
    assert f"{value:.4f}" in text


def test_the_page_of_a_recipe_has_the_mean_that_the_table_shows(
    runs: list[RecordedRun], site: Path
) -> None:
    text = (site / "runs" / "lcs6" / "nesf" / "cpu.html").read_text()
    cells = tables.judged(runs).query("dataset == 'lcs6' and preset == 'cpu'")
    assert len(cells) == len(TABLE1)
    for shown in cells["ours"]:
        mean, deviation = shown.split(" ± ")
        assert f"<td>{mean}</td>" in text and f"<td>{deviation}</td>" in text


def test_every_run_has_a_page_that_links_only_to_what_is_there(site: Path) -> None:
    for folder in run_folders(RESULTS):
        assert (site / "runs" / f"{folder.relative_to(RESULTS)}.html").exists(), folder
    for page in [*(site / "runs").glob("*.html"), site / "runs" / "lcs6" / "nesf" / "cpu.html"]:
        for target in re.findall(r'href="([^"#:]+\.html)"', page.read_text()):
            if "index.html" not in target:
                assert (page.parent / target).resolve().exists(), target
    for page in (site / "runs").rglob("*.html"):
        text = page.read_text()
        assert not re.search(r'(?:src|href)="https?:', text), page
        for target in re.findall(r'href="(?:\.\./)+results/([^"]+)"', text):
            assert (RESULTS / target).exists(), target


def test_a_page_is_made_again_when_its_run_changes(tmp_path: Path) -> None:
    root, folder = (
        tmp_path / "results",
        tmp_path / "results" / "starter" / "copy" / "default" / "seed-0",
    )
    folder.mkdir(parents=True)
    recorded = RESULTS / "starter" / "copy" / "default" / "seed-0"
    for file in recorded.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    page = tmp_path / "site" / "runs" / "starter" / "copy" / "default" / "seed-0.html"
    run_pages.write_pages(tmp_path / "site", root)
    before = page.stat().st_mtime_ns
    run_pages.write_pages(tmp_path / "site", root)
    assert page.stat().st_mtime_ns == before
    run = (folder / "run.json").read_text().replace('"nesf run', '"nesf  run')
    (folder / "run.json").write_text(run.replace('"command": "', '"command": "changed '))
    run_pages.write_pages(tmp_path / "site", root)
    assert "changed nesf" in page.read_text()


def test_a_number_has_as_many_digits_as_its_column_needs() -> None:
    nothing = float("nan")
    table = pd.DataFrame(
        {
            "whole": [7.0, 230.0, nothing],
            "fraction": [0.664452, 0.5, -5.6e-17],
            "large": [92.81149, 1.0, 98.0],
            "tiny": [3e-12, 2e-9, 0.02],
        }
    )
    shown = str(links.sourced(table).data)
    cells = re.findall("<td>(?:<[^>]*>)*([^<]*)", shown)
    assert cells[:4] == ["7", "0.6645", "92.81", "3.0e-12"]
    assert cells[4:8] == ["230", "0.5000", "1.00", "2.0e-09"]
    assert cells[8:] == ["–", "0.0000", "98.00", "2.0e-02"]
