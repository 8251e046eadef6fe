from bebert_ray.pipeline.driver import Run
from bebert_ray.pipeline.prepare import open_run
from bebert_ray.pipeline.shared import link_stages
from bebert_ray.storage import find


def test_a_run_that_is_given_the_stages_trains_members_alone(runner, finished, tmp_path, snapshot):
    before = snapshot(runner.output)
    output = tmp_path / "other"
    link_stages(runner.output, output)
    (output / "teacher" / "model.safetensors").unlink()
    link_stages(runner.output, output)  # what is damaged is mended
    assert {path.name for path in output.iterdir()} == {
        *("data", "encoder", "teacher", "half", "ternary", "split")
    }
    again = runner(output=output)
    assert runner.taken == ["member 000", "member 001"]
    assert again.summary()["members"] == finished.summary()["members"]
    assert snapshot(runner.output) == before


def test_stages_only(runner, finished):
    prepared = runner.prepare()
    run = Run(prepared, open_run(prepared), stages_only=True)
    due, names = run.start(), []
    while due:
        [step] = due
        names.append(step.name)
        due = run.advance(step, find(step.path, step.inputs), {})
    assert names == ["teacher", "half", "ternary", "split"]
