"""What the documentation shows is what the code takes."""

import re
from pathlib import Path

import pytest

from hpsearch.spec import load_study
from hpsearch.spec.components import PRUNERS, SAMPLERS

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "studies").glob("*.yaml"))
HEADER = "objective: trials/digits.py:train\nmetric: {name: accuracy, goal: maximize}\nbudget: {trials: 2}\n"


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_studies_that_ship_are_valid_and_name_their_schema(study):
    spec = load_study(str(study), environ={})
    assert spec.name == study.stem
    assert study.read_text().startswith("# yaml-language-server: $schema=schema.json\n")


def test_the_readmes_study_is_the_one_that_ships(tmp_path):
    (tmp_path / "digits.yaml").write_text(blocks("README.md", "yaml")[0])
    shown, shipped = (load_study(str(path / "digits.yaml"), environ={}) for path in (tmp_path, ROOT / "studies"))
    assert shown.parameters.difference(shipped.parameters.to_json()) == []
    for part in ("objective", "metrics", "sampler", "pruner", "budget", "resources", "retry", "storage", "cluster"):
        assert getattr(shown, part) == getattr(shipped, part), part


def test_the_reference_shows_parameters_that_can_be_read(tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text(HEADER + next(block for block in blocks("docs/study-file.md", "yaml") if "parameters:" in block))
    space = load_study(str(study), environ={}).parameters
    params = space.resolve({"layers": "small", "optimizer": "adamw", "batch_size": 64, "augment.flip": True})
    assert params["layers"] == [64, 64]
    assert params["epochs"] == 20
    assert params["schedule"] == [10, 15]
    assert not space.active("momentum", {"optimizer": "adamw", "batch_size": 64})
    assert space.active("augment.flip", {"optimizer": "adamw", "batch_size": 64})


def test_the_page_about_scripts_shows_a_study_that_can_be_read(tmp_path):
    (tmp_path / "train.py").touch()
    (tmp_path / "study.yaml").write_text(blocks("docs/your-script.md", "yaml")[0])
    command = load_study(str(tmp_path / "study.yaml"), environ={}).objective.command
    assert command is not None
    assert command.arguments({"lr": 0.0031})[-1] == "--lr=0.0031"


def test_the_reference_lists_every_sampler_and_pruner():
    text = (ROOT / "docs/study-file.md").read_text()
    listed = {
        kind: set(re.findall(r"`([a-z_]+)`", line))
        for kind in ("Samplers", "Pruners")
        for line in text.splitlines()
        if line.startswith(f"{kind}: ")
    }
    assert listed == {"Samplers": set(SAMPLERS), "Pruners": set(PRUNERS)}


@pytest.mark.parametrize(
    "line",
    [
        line
        for block in blocks("docs/study-file.md", "yaml") + blocks("docs/checkpoints.md", "yaml")
        if "parameters:" not in block
        for line in block.splitlines()
        if "my_package" not in line
    ],
)
def test_components_and_clusters_of_the_reference_are_valid(tmp_path, line):
    study = tmp_path / "study.yaml"
    study.write_text(HEADER + "parameters: {lr: {min: 0.0, max: 1.0}}\n" + line + "\n")
    load_study(str(study), environ={})


@pytest.mark.parametrize("page", ["README.md", "docs/your-objective.md", "docs/checkpoints.md", "docs/python-api.md"])
def test_python_in_the_documentation_is_python(page):
    for block in blocks(page, "python"):
        body = block if not block.startswith("    ") else "def train(trial):\n" + block
        compile(body, page, "exec")


def test_options_in_the_command_line_reference_exist():
    from typer.main import get_command

    from hpsearch.cli import app

    command = get_command(app).commands["run"]
    known = {name for parameter in command.params for name in parameter.opts}
    rows = re.findall(r"^\| `(--[a-z-]+)", (ROOT / "docs/command-line.md").read_text(), flags=re.MULTILINE)
    assert len(rows) > 10
    assert set(rows) == {name for name in known if name.startswith("--")} - {"--help"}
