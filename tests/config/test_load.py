"""Configuration: precedence, every problem at once, every shipped file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from synthmix.config import config_names, describe, find_config, load_hardware, load_model, load_study
from synthmix.errors import ConfigError
from synthmix.study.cells import identity


def problems(*overrides: str, study: str = "quickstart") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_study(study, overrides)
    return caught.value.problems


@pytest.mark.parametrize("name", config_names("study"))
def test_every_shipped_study_loads_and_names_its_command(name: str) -> None:
    assert load_study(name).name == name
    header = find_config("study", name).read_text().splitlines()[0]
    assert header.startswith("#") and f"synthmix run {name}" in find_config("study", name).read_text()


@pytest.mark.parametrize("name", config_names("model"))
def test_every_shipped_model_loads(name: str) -> None:
    model = load_model(name)
    assert model.name == name and model.parameters > 0 and find_config("model", name).read_text().startswith("#")


@pytest.mark.parametrize("name", config_names("hardware"))
def test_every_shipped_profile_loads(name: str) -> None:
    assert load_hardware(name).devices >= 1 and find_config("hardware", name).read_text().startswith("#")


def test_the_command_line_has_the_last_word(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("tasks: [nano-math]\nmodels: [nano-0.9m]\niterations: 2\ntraining: {epochs: 5}\n")
    config = load_study(str(path), ["training.epochs=7"])
    assert (config.name, config.iterations, config.training.epochs, config.training.batch_size) == ("mine", 2, 7, 32)


def test_an_axis_on_the_command_line_changes_every_grid(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("tasks: [nano-math]\nmodels: [nano-0.9m]\ngrids: [{tasks: [nano-code], iterations: 3}]\n")
    assert load_study(str(path)).grids[0].tasks == ["nano-code"]
    config = load_study(str(path), ["tasks=[nano-facts]"])
    assert config.grids[0].tasks is None and config.grids[0].iterations == 3


def test_all_problems_are_reported_at_once() -> None:
    found = problems(
        "trainig.epochs=3", "training.epoch=3", "proportions=[0.1,1.3,-0.1]", "tasks=[nano-mth]", "workers=0"
    )
    assert len(found) == 6
    text = "\n".join(found)
    for expected in (
        "Did you mean 'training'",
        "Did you mean 'epochs'",
        "1.3",
        "-0.1",
        "Did you mean 'nano-math'",
        "workers = 0",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("proportions=[1.3]", r"proportions: 1.3 is not a share .* expected 0 to 1"),
        ("proportions=[-0.1]", r"proportions: -0.1 is not a share"),
        ('proportions=["20%"]', r"proportions = \['20%'\]: .*could not be converted to Float; expected list\[float\]"),
        ("proportions=0.3", r"proportions = 0.3: .*expected list\[float\]"),
        ("tasks=[]", r"tasks = \[\]: expected at least one"),
        ("seeds=[1,1]", r"seeds = \[1, 1\]: the same value twice"),
        ("modes=[mix]", r"modes = 'mix': expected one of replace, augment"),
        ("models=[pythia-410]", r"models: unknown model 'pythia-410'"),
        ("training.learning_rate=fast", r"training.learning_rate = 'fast': .*expected float"),
        ("training.schedule=linaer", r"Did you mean 'linear'"),
        ("data.train_examples=8", r"data.train_examples = 8: smaller than one batch"),
        ("generation.top_p=0", r"generation.top_p = 0.0: expected 1e-06 to 1"),
        ("data=4", r"data = 4: expected keys below it"),
        ("grids=[{tsks: [gsm8k]}]", r"grids\[0\].tsks .*Did you mean 'tasks'"),
        ("iterations", r"'iterations': expected key=value"),
        ("hardware=tpu", r"hardware: unknown hardware profile 'tpu'.*a file ./configs/hardware/NAME.yaml"),
        ("name=a/b", r"name = 'a/b': expected letters, digits"),
        ("name=${x}", r"name = '\$\{x\}': expected a plain value"),
        ("training.betas=[0.9]", r"training.betas = \[0.9\]: expected two numbers from 0 to less than 1"),
        ("training.betas=[1.5,2]", r"training.betas = \[1.5, 2.0\]: expected two numbers"),
        ("monitoring.critical=0.1", r"monitoring.critical = 0.1: expected at least monitoring.warning"),
    ],
)
def test_a_bad_value_names_key_value_and_what_was_expected(override: str, expected: str) -> None:
    assert any(re.search(expected, problem) for problem in problems(override)), problems(override)


def test_recursive_without_iterations_and_full_share_with_augment() -> None:
    assert "iterations = 0 with mode recursive" in problems("modes=[recursive]", "iterations=0", "grids=[]")[0]
    assert "1 with mode augment" in problems("modes=[augment]", "proportions=[1]", "grids=[]")[0]


def test_unknown_study_names_a_near_match() -> None:
    with pytest.raises(ConfigError, match="unknown study 'quikstart'. Did you mean 'quickstart'"):
        load_study("quikstart")


def test_a_file_that_is_no_yaml(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("tasks: [nano-math\n")
    with pytest.raises(ConfigError, match=r"bad.yaml: (?s:.)*not YAML"):
        load_study(str(tmp_path / "bad.yaml"))


def test_every_key_is_described() -> None:
    for key, kind, _, about in describe():
        assert kind and about, key


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("devices: 0", "devices = 0: expected 1 or more"),
        ("nodes: 0", "nodes = 0: expected 1 or more"),
        ("micro_batch: 0", "micro_batch = 0: expected 1 or more"),
    ],
)
def test_hardware_that_a_study_cannot_use_is_refused(tmp_path: Path, line: str, expected: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(line + "\n")
    with pytest.raises(ConfigError, match=re.escape(expected)):
        load_hardware(str(path))


def test_programs_of_models_from_outside_are_a_matter_of_the_study_file() -> None:
    """Said before anything is trained, and no other cells for it: nothing that is finished depends on the word."""
    with pytest.raises(ConfigError, match="run_generated_code = false: humaneval is scored by running what the model"):
        load_study("quickstart", ["tasks=[humaneval]", "grids=[]"])
    config = load_study("quickstart", ["tasks=[humaneval]", "grids=[]", "evaluation.run_generated_code=true"])
    assert "run_generated_code" not in identity(config.evaluation)
