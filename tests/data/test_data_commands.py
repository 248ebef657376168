"""``perscen data`` closes with one line that says what was written and where."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from components.data_commands import data
from perscen.data.download import KUAIRAND_PURE
from perscen.errors import ArtifactError
from tests.data.archives import write_alimama, write_kuairand


def test_the_closing_line_says_rows_days_and_place(tmp_path: Path) -> None:
    source = write_kuairand(tmp_path / "source", days=("20220501", "20220430", "never"))
    to = tmp_path / "raw"

    result = CliRunner().invoke(data, ["kuairand-pure", "--from", str(source), "--to", str(to)])

    assert result.output == (
        f"40 rows over 2 days (2022-04-30 … 2022-05-01), 5 users, 7 items → {to}\n"
    )


@pytest.mark.medium
def test_alimama_and_the_synthetic_log_are_written_too(tmp_path: Path) -> None:
    source = write_alimama(tmp_path / "source", times_s=[1494000000])
    runner = CliRunner()

    ads = runner.invoke(data, ["alimama", "--from", str(source), "--to", str(tmp_path / "ads")])
    made = runner.invoke(data, ["synthetic", "--seed", "2", "--to", str(tmp_path / "made")])

    assert ads.output.startswith("1 rows over 1 days (2017-05-06 … 2017-05-06), 3 users, 4 items")
    assert "over 14 days (2022-04-22 … 2022-05-05), 2,500 users, 800 items" in made.output


def test_without_from_an_archive_in_the_cache_is_imported(tmp_path: Path) -> None:
    folder = write_kuairand(tmp_path / "cache/KuaiRand-Pure/data")
    for member in KUAIRAND_PURE.members:
        path = folder.parent / member
        if not path.exists():
            path.write_bytes((folder / "log_standard_4_22_to_5_08_pure.csv").read_bytes())

    result = CliRunner().invoke(
        data, ["kuairand-pure", "--cache", str(tmp_path / "cache"), "--to", str(tmp_path / "raw")]
    )

    assert result.output.startswith("80 rows over 1 days")


def test_nothing_is_fetched_when_the_target_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/notes.txt").touch()

    result = CliRunner().invoke(
        data, ["kuairand-pure", "--cache", str(tmp_path / "cache"), "--to", str(tmp_path / "raw")]
    )

    assert isinstance(result.exception, ArtifactError)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("command", ["synthetic", "kuairand-pure", "alimama"])
def test_help_has_an_example(command: str) -> None:
    assert f"perscen data {command}" in CliRunner().invoke(data, [command, "--help"]).output
