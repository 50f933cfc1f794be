"""The table, the spec and the first commands of the quick start, as they stand, end in a champion and its answers."""

import csv
import pathlib

import pytest

from raymlops import cli
from raymlops.settings import Settings
from tests.documented_commands import FEWER, QUICK_START, commands_on_a_cluster, write_quick_start
from tests.monitored_versions import list_ticks

pytestmark = pytest.mark.slow


def test_the_quick_start_ends_in_a_champion_and_its_answers(
    ray_cluster: int,
    settings: Settings,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAYMLOPS_HOME", str(settings.home))
    write_quick_start(tmp_path)
    # The cluster of these tests was started elsewhere, where its workers read and write what is relative.
    spec = tmp_path / "cells.yaml"
    spec.write_text(spec.read_text().replace("cells.csv", str(tmp_path / "cells.csv")))
    table, search, predict = commands_on_a_cluster([QUICK_START])[:3]
    exec((tmp_path / table.words[1]).read_text(), {})
    with pytest.raises(SystemExit) as ended:
        cli.main([*search.words[1:], *FEWER])
    told = capsys.readouterr()
    assert ended.value.code == 0, told.err
    assert "models:/cells/1  (@champion)" in told.out
    places = {"cells.csv": str(tmp_path / "cells.csv"), "scores/": str(tmp_path / "scores")}
    with pytest.raises(SystemExit) as ended:
        cli.main([places.get(word, word) for word in predict.words[1:]])
    assert ended.value.code == 0, capsys.readouterr().err
    rows = [row for file in (tmp_path / "scores").glob("*.csv") for row in csv.DictReader(file.open())]
    assert len(rows) == 569
    assert set(rows[0]) == {"target", "label", "probability"}
    counted = [tick for tick in list_ticks(settings, "predict") if not tick.place.segment]
    assert [(tick.place.model, tick.place.role, tick.rows, tick.answered) for tick in counted] == [
        ("cells", "table", 569, 569)
    ]
