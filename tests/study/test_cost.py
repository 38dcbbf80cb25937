"""What a plan says it costs: tokens and operations by hand, speeds stated and measured, the paper's studies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synthmix.config import HardwareConfig, StudyConfig, load_hardware, load_study
from synthmix.data.encoding import encode_documents
from synthmix.data.records import load_split
from synthmix.errors import ConfigError
from synthmix.evaluation.confidence import P_TRUE_OPTIONS, P_TRUE_QUESTION
from synthmix.models.loading import load_tokenizer
from synthmix.study.cells import Cell, Plan, make_plan
from synthmix.study.cost import P_TRUE_TOKENS, PHASES, Estimator, Job, Load, job_of, stated_seconds
from synthmix.study.lengths import SAMPLE, by_characters, measure
from synthmix.study.plan_view import estimate
from synthmix.study.published import published_cost
from synthmix.study.store import Store
from synthmix.study.throughput import Forecast

Run = Callable[..., tuple[int, str]]
#: Profiles that state round figures.
FAST = "accelerator: cpu\npeak_tflops: 1\ntrain_utilisation: 0.5\nread_utilisation: 0.2\nwrite_utilisation: 0.1\n"


@pytest.fixture
def plan(workplace: Path) -> Plan:
    """The tiny study on a profile that states its speed."""
    folder = workplace / "configs/hardware"
    folder.mkdir()
    (folder / "fast.yaml").write_text(FAST)
    (folder / "silent.yaml").write_text("accelerator: cpu\n")
    return make_plan(load_study("tiny", ["hardware=fast"]))


def finish(store: Store, plan: Plan, cell: Cell, slowness: float, kept: float = 1.0, **work: Any) -> None:
    """A cell's result, as if every phase had taken ``slowness`` times its stated time."""
    counts, attempts = plan.counts(cell), job_of(plan, cell, 1.0).attempts
    job = Job(plan.models[cell.model], plan.tasks[cell.task], plan.config, counts.total, attempts)
    known = Estimator().work(job)
    seconds = {f"{phase}_seconds": slowness * stated_seconds(known[phase], plan.hardware_of(cell)) for phase in PHASES}
    folder = store.folder(cell)
    folder.mkdir(parents=True)
    result = {
        "hash": cell.hash,
        "task": cell.task,
        "alert": {},
        "mixture": {"external": counts.external, "synthetic": sum(counts.synthetic)},
        "pool": {"tries": attempts, "kept": attempts * kept, "tokens": 0.5 * known["generate"].tokens},
        "train": {"tokens": known["train"].tokens},
        "timings": {phase: seconds[f"{phase}_seconds"] for phase in PHASES},
        "work": {"hardware": plan.hardware_of(cell).name, "devices": 1, "nodes": 1, "device": "a box", **seconds}
        | work,
    }
    (folder / "result.json").write_text(json.dumps(result))


# -- work -------------------------------------------------------------------------------------------------------------


def test_lengths_are_those_of_the_training_tokens(plan: Plan) -> None:
    model, task, data = plan.models["tiny"], plan.tasks["nano-math"], plan.config.data
    found = measure(task, data, model, None)
    documents = [task.render(e.record) for e in load_split(task, "train", data)]
    real = [len(e.ids) for e in encode_documents(load_tokenizer(model), documents)]
    assert len(real) == 64 < SAMPLE and found.document == sum(real) / len(real)
    assert found.seen == pytest.approx(sum(n * n for n in real) / sum(real)) and found.seen > found.document
    assert found.document == pytest.approx(found.prompt + found.completion + 1) and found.header < found.prompt
    assert {name: split.n for name, split in found.splits.items()} == {"validation": 12, "test": 20}
    cut = measure(task, data, model, 20)
    assert cut.document <= 20 < found.document


def test_characters_stand_in_for_a_tokenizer(plan: Plan) -> None:
    assert by_characters(["", "a", "12345678"]) == [0.0, 1.0, 2.0]
    task, data = plan.tasks["nano-math"], plan.config.data
    far = type(plan.models["tiny"])("far", "hub", "nobody/nothing-of-this-name", parameters=1000)
    texts = [task.render(e.record) for e in load_split(task, "train", data)]
    found = measure(task, data, far, None)
    parts = [(part, max(len(part) / 4, 1)) for t in texts for part in (t.header, t.body, t.completion) if part]
    assert found.document == pytest.approx(sum(n for _, n in parts) / len(texts) + 1)


def test_the_work_of_a_cell_by_hand(plan: Plan) -> None:
    estimator = Estimator()
    cell = plan.cells[0]
    job = Job(plan.models["tiny"], plan.tasks["nano-math"], plan.config, 64, attempts=40)
    lengths, shape = estimator.lengths(job), estimator.shape(job.model)
    work, test, validation = estimator.work(job), lengths.splits["test"], lengths.splits["validation"]
    assert work["train"].tokens == pytest.approx(2 * 64 * lengths.document)
    per_token = 6 * shape.multiplied + 12 * 1 * 32 * lengths.seen  # one layer, two heads of 16
    assert work["train"].flops == work["train"].trained == pytest.approx(work["train"].tokens * per_token)
    items = [(20, test), (12, validation)]
    read = sum(n * (2 * split.prompt + split.completion) for n, split in items)  # the answer, then the gold one
    assert work["evaluate"].tokens == pytest.approx(read + sum(n * split.completion for n, split in items))
    assert work["generate"].tokens == pytest.approx(40 * (lengths.document - lengths.header))
    assert work["generate"].read == 0 < work["evaluate"].written < work["evaluate"].read
    assert job_of(plan, cell, 1.0).attempts == 32 and job_of(plan, plan.cells[-1], 1.0).attempts == 20
    assert job_of(plan, cell, 100.0).attempts == 32 * plan.config.generation.max_tries


def config(**changes: Any) -> StudyConfig:
    return load_study("tiny", [f"{key.replace('__', '.')}={value}" for key, value in changes.items()])


def work_of(settings: StudyConfig, task: str = "nano-math") -> dict[str, Load]:
    plan = make_plan(settings)
    return Estimator().work(Job(plan.models["tiny"], plan.tasks[task], settings, 64, 40))


def test_settings_that_make_more_work(plan: Plan) -> None:
    plain = work_of(plan.config)
    lengths = Estimator().lengths(Job(plan.models["tiny"], plan.tasks["nano-math"], plan.config, 64, 40))
    sampled = work_of(config(evaluation__pass_samples=2))
    assert sampled["evaluate"].written == pytest.approx(3 * plain["evaluate"].written)
    asked = work_of(config(evaluation__p_true="true"))
    more = sum(s.n * (s.prompt + s.completion + P_TRUE_TOKENS) for s in lengths.splits.values())
    assert asked["evaluate"].tokens - plain["evaluate"].tokens == pytest.approx(more)
    question = by_characters([P_TRUE_QUESTION, P_TRUE_OPTIONS[1]])
    assert question[0] <= P_TRUE_TOKENS <= sum(question)
    answers = work_of(config(generation__mode="answer"))
    assert answers["generate"].read > 0 and answers["generate"].written < plain["generate"].written
    shown = work_of(config(generation__mode="fewshot", generation__shots=2))
    assert shown["generate"].tokens == pytest.approx(40 * (3 * lengths.document), rel=0.05)
    assert work_of(config(training__max_steps=1))["train"].tokens == pytest.approx(32 * lengths.document)
    designed = make_plan(config(generation__filter="wellformed", design__move="diversity"))
    assert Forecast(designed, Store("runs")).job(designed.cells[0]).attempts == 3 * 32


def test_choices_share_their_stem(workplace: Path) -> None:
    settings = load_study("tiny", ["tasks=[nano-commonsense]"])
    plan = make_plan(settings)
    task, model = plan.tasks["nano-commonsense"], plan.models["tiny"]
    tokenizer = load_tokenizer(model)
    read = 0
    for split in ("validation", "test"):
        for example in load_split(task, split, settings.data):
            prompt = encode_documents(tokenizer, [task.render(example.record)])[0].completion_start
            choices = tokenizer(task.choices(example.record), add_special_tokens=False)["input_ids"]
            read += prompt + sum(len(choice) - 1 for choice in choices)
    load = work_of(settings, "nano-commonsense")["evaluate"]
    assert load.tokens == pytest.approx(read) and load.written == 0


# -- time -------------------------------------------------------------------------------------------------------------


def test_stated_speeds() -> None:
    profile = HardwareConfig(peak_tflops=2, train_utilisation=0.5, read_utilisation=0.1, write_utilisation=0.01)
    assert stated_seconds(Load(1, trained=3e12, read=1e12, written=1e11), profile) == pytest.approx(3 + 5 + 5)


def test_speeds_that_cannot_be(plan: Plan, workplace: Path) -> None:
    (workplace / "configs/hardware/bad.yaml").write_text("peak_tflops: 0\ntrain_utilisation: 40\nread_utilisation: 0\n")
    with pytest.raises(ConfigError) as caught:
        load_hardware("bad")
    assert [problem.split(" = ")[0] for problem in caught.value.problems] == [
        "peak_tflops", "train_utilisation", "read_utilisation",
    ]  # fmt: skip


def test_without_finished_cells_the_speed_is_the_stated_one(plan: Plan) -> None:
    forecast = Forecast(plan, Store("runs"))
    cell = plan.cells[1]
    assert forecast.predict(cell).seconds == forecast.stated(cell).seconds
    assert set(forecast.predict(cell).basis.values()) == {"stated"} and forecast.errors() == {}
    said = estimate(plan, Store("runs"))
    assert said.total.device_hours == pytest.approx(sum(forecast.stated(c).total for c in plan.cells) / 3600)
    assert said.total.left == said.total.device_hours == pytest.approx(said.total.stated_hours)
    assert said.total.done == 0 and said.basis == {"stated": 15}


def test_a_profile_that_states_no_peak_is_unknown_until_a_cell_has_finished_on_it(plan: Plan) -> None:
    silent = make_plan(load_study("tiny", ["hardware=silent"]))
    said = estimate(silent, Store("runs"))
    assert said.total.device_hours is None and said.total.stated_hours is None and said.total.flops > 0
    store = Store("runs")
    finish(store, silent, silent.cells[0], slowness=7.0)
    assert estimate(silent, store).total.device_hours == pytest.approx(
        sum(7 * stated_seconds(load, HardwareConfig()) for c in silent.cells for load in Forecast(silent, store).work(c).values())
        / 3600
    )  # fmt: skip


def test_finished_cells_correct_the_speed_and_the_error_is_told(plan: Plan) -> None:
    store = Store("runs")
    finish(store, plan, plan.cells[0], slowness=3.0)
    forecast = Forecast(plan, store)
    for cell in plan.cells:
        assert forecast.predict(cell).total == pytest.approx(3 * forecast.stated(cell).total)
        assert set(forecast.predict(cell).basis.values()) == {"task"}
    # one cell alone cannot be compared with others
    assert set(forecast.errors()) == {"stated", "train", "generate"}
    assert forecast.errors()["stated"].median == pytest.approx(1 / 3)
    for cell, slowness in zip(plan.cells[1:3], (3.0, 6.0), strict=True):
        finish(store, plan, cell, slowness)
    errors = Forecast(plan, store).errors()
    measured = errors["measured"]  # each against the middle of the two others: 4.5 / 3, 4.5 / 3 and 3 / 6
    assert (measured.n, measured.low, measured.median, measured.high) == (3, *map(pytest.approx, (0.5, 1.5, 1.5)))
    assert errors["train"].median == pytest.approx(1) and errors["generate"].of_sum == pytest.approx(2)
    said = estimate(plan, store)
    assert (
        said.total.done == 3 and said.measured_on == 3 and 0 < (said.total.left or 0) < (said.total.device_hours or 0)
    )


def test_results_of_before_they_told_their_work_count_by_their_timings(plan: Plan) -> None:
    store = Store("runs")
    finish(store, plan, plan.cells[0], slowness=3.0)
    path = store.folder(plan.cells[0]) / "result.json"
    result = json.loads(path.read_text())
    del result["work"]
    path.write_text(json.dumps(result))
    forecast = Forecast(plan, store)
    assert forecast.predict(plan.cells[1]).total == pytest.approx(3 * forecast.stated(plan.cells[1]).total)


def test_several_devices_take_several_device_hours(plan: Plan) -> None:
    store = Store("runs")
    finish(store, plan, plan.cells[0], slowness=1.0, devices=4, nodes=2)
    assert Forecast(plan, store).predict(plan.cells[1]).total == pytest.approx(
        8 * Forecast(plan, store).stated(plan.cells[1]).total
    )


def test_a_filter_s_attempts_are_measured(plan: Plan) -> None:
    store = Store("runs")
    finish(store, plan, plan.cells[0], slowness=1.0, kept=0.25)
    forecast = Forecast(plan, store)
    assert forecast.job(plan.cells[1]).attempts == 4 * job_of(plan, plan.cells[1], 1.0).attempts
    assert forecast.job(plan.cells[1], learn=False).attempts == job_of(plan, plan.cells[1], 1.0).attempts


def test_another_study_of_the_store_teaches_its_profile_s_speed(plan: Plan, workplace: Path) -> None:
    from synthmix.study.frozen import to_plain

    text = (workplace / "configs/model/tiny.yaml").read_text()
    (workplace / "configs/model/twin.yaml").write_text(text.replace("parameters: 60000", "parameters: 90000"))
    settings = ["hardware=fast", "models=[twin]", "tasks=[nano-facts]", "data.train_examples=96", "name=other"]
    other, store = make_plan(load_study("tiny", settings)), Store("runs")
    cell = other.cells[0]
    finish(store, other, cell, slowness=5.0)
    model = vars(other.models["twin"])
    described = {"cell": cell.to_dict(), "model": model, "study": to_plain(other.config)}
    (store.folder(cell) / "config.yaml").write_text(json.dumps(described))  # JSON is YAML
    forecast = Forecast(plan, store)
    assert forecast.predict(plan.cells[0]).total == pytest.approx(5 * forecast.stated(plan.cells[0]).total)
    assert set(forecast.predict(plan.cells[0]).basis.values()) == {"hardware"} and forecast.errors() == {}
    # of a profile that this study does not use, or with settings that cannot be read, it says nothing
    assert Forecast(make_plan(load_study("tiny")), store).learned.finished == []
    for name, content in (("config.yaml", "study: {no_such_key: 1}\nmodel: {}\n"), ("result.json", "{torn")):
        (store.folder(cell) / name).write_text(content)
        assert Forecast(plan, store).learned.finished == []


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_plan_in_words_and_as_json(plan: Plan, in_process: Run) -> None:
    status, words = in_process("plan", "tiny", "hardware=fast", "--dry-run")
    assert status == 0 and not Path("runs").exists()
    for said in ("study tiny: 5 cells", "the model's tokenizer", "fast: stated at 1 TFLOP/s", "stated speeds alone"):
        assert said in " ".join(words.split())
    status, text = in_process("plan", "tiny", "hardware=fast", "--json")
    told = json.loads(text)
    assert status == 0 and Path("runs/studies/tiny/plan.json").is_file()
    assert told["total"]["cells"] == 5 and [row["level"] for row in told["rows"]] == [0, 1, 2]
    assert sum(row["cost"]["device_hours"] for row in told["rows"]) == pytest.approx(told["total"]["device_hours"])
    assert sum(row["cost"]["disk"] for row in told["rows"]) == pytest.approx(told["total"]["disk"])
    parameters, inner = 60_000, 2  # two chains; at level 1 the models of both start level 2
    assert told["peak"] == {"checkpoints": 24.0 * parameters, "models": 4.0 * parameters * inner, "at_once": 1}
    assert told["published"] is None


def test_two_profiles_have_two_rows(plan: Plan, workplace: Path) -> None:
    text = (workplace / "configs/model/tiny.yaml").read_text()
    (workplace / "configs/model/twin.yaml").write_text(text)
    (workplace / "configs/hardware/wide.yaml").write_text(FAST + "slurm: {max_tasks: 3}\n")
    both = make_plan(
        load_study("tiny", ["models=[tiny, twin]", "hardware=fast", "hardware_of.twin=wide", "seeds=[0, 1]"])
    )
    said = estimate(both, Store("runs"))
    assert [(row.level, row.hardware) for row in said.rows] == [
        (i, name) for i in range(3) for name in ("fast", "wide")
    ]
    # at level 1 one worker and three of the array's tasks
    assert said.peak.at_once == 4 and said.peak.checkpoints == 4 * 24 * 60_000


# -- the paper --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paper(real_data: Path) -> dict[str, Plan]:
    """The paper's studies."""
    names = ("paper", "paper-table1", "paper-table2", "paper-table4")
    return {name: make_plan(load_study(name, [f"data.root={real_data}"])) for name in names}


def test_the_paper_is_the_union_of_its_tables(paper: dict[str, Plan]) -> None:
    sizes = {name: len(plan.cells) for name, plan in paper.items()}
    assert sizes == {"paper": 189, "paper-table1": 105, "paper-table2": 48, "paper-table4": 78}
    one, two, four = (set(paper[f"paper-table{i}"].by_hash) for i in (1, 2, 4))
    assert one | two | four == set(paper["paper"].by_hash)
    assert (len(one & two), len(one & four), len(one & two & four)) == (12, 30, 12)


def test_the_paper_s_cost_beside_the_published(paper: dict[str, Plan], tmp_path: Path) -> None:
    said = estimate(paper["paper"], Store(tmp_path / "runs"))
    assert said.published is not None and (said.published.runs, said.published.device_hours) == (300, 2400)
    assert [(row.level, row.hardware) for row in said.rows[:3]] == [(0, f"a100-40x{n}") for n in (1, 4, 8)]
    assert said.total.device_hours is not None and said.at_published_sizes is not None
    assert said.at_published_sizes > said.total.device_hours > 1
    assert published_cost(paper["paper-table1"]) is None
    # 6 N D of GSM8K's baselines: 7,273 documents of 130 to 160 tokens, three epochs, three seeds
    twelve = [cell for cell in paper["paper"].cells if cell.model == "pythia-12b" and cell.iteration == 0]
    forecast = Forecast(paper["paper"], Store(tmp_path / "runs"))
    trained = sum(forecast.work(cell)["train"].flops for cell in twelve)
    assert trained == pytest.approx(6 * 11.6e9 * 7273 * 145 * 9, rel=0.2)
