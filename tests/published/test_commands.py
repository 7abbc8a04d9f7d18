import pytest
from typer.testing import CliRunner

from circuits.cli.app import app
from circuits.effects.activations import component_means
from circuits.effects.heads import head_effects
from circuits.effects.importance import sublayer_importance
from circuits.effects.neurons import neuron_effects
from circuits.errors import RunError
from circuits.files import write_json


def command(*words):
    found = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.output


def test_import_assemble_show_and_export_follow_each_other(authors, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    (authors / "notes.txt").write_text("x")
    shown = command("import", authors, "--out", run)
    assert "HeadImportance" in shown
    assert "not read: notes.txt" in shown
    command("show", run)
    shown = command("assemble", run, "--preset", "published")
    assert "anger" in shown
    assert "known" in shown
    command("show", run)
    command("export", run, "--format", "json", "--out", tmp_path / "graphs")
    command("export", run, "--format", "published", "--out", out)
    circuits = out / "06_emotion_circuit_integration" / "global_circuit"
    assert sorted(path.name for path in circuits.iterdir()) == [
        "anger.json",
        "anger_alloc_log.csv",
        "fear.json",
        "fear_alloc_log.csv",
    ]
    # What was assembled is a published circuit like any other.
    again = command("import", out, "--out", tmp_path / "again")
    assert "AllocationLog" in again
    shown = command("assemble", tmp_path / "again")
    assert "3/3" in shown


def test_an_export_of_the_whole_folder_is_refused_where_it_cannot_be(authors, tmp_path):
    command("import", authors, "--out", tmp_path / "run")
    for words, said in (
        (("published",), "not empty"),
        (("json,published",), "give it alone"),
        (("published", "--emotion", "anger"), "give it alone"),
    ):
        with pytest.raises(RunError, match=said):
            command("export", tmp_path / "run", "--out", authors, "--format", *words)


@pytest.fixture
def run_of_ours(llama, grid, swept, directions, tmp_path):
    """A run folder in which the first stages have run."""
    folder = tmp_path / "ours"
    directions.save(folder / "directions")
    head_effects(llama, swept, directions, draws=2).save(folder / "effects" / "heads")
    neuron_effects(llama, swept, directions, draws=2).save(folder / "effects" / "neurons")
    component_means(swept).save(folder / "effects" / "means")
    sublayer_importance(llama, grid, directions, stable=(1, 2), doses=(0.1,), n_random=0)[0].save(
        folder / "importance"
    )
    receipt = {"passes": 0, "steps": 0, "token_layers": 0}
    done = {"key": "", "seconds": 0.0, "receipt": receipt}
    stages = dict.fromkeys(("directions", "effects", "importance"), done)
    plan = {"model": "org/Tiny", "emotions": list(directions.emotion)}
    write_json(folder / "run.json", {"plan": plan, "versions": {}, "stages": stages})
    return folder


def test_a_run_of_ours_is_exported_with_what_is_lost_and_can_be_imported(run_of_ours, tmp_path):
    shown = command("export", run_of_ours, "--format", "published", "--out", tmp_path / "out")
    assert "note: circuits: not written, the stage has not run" in shown
    assert "note: head importances: read at resid_mid" in shown
    command("import", tmp_path / "out", "--out", tmp_path / "run")
    by_tables = command("assemble", tmp_path / "run")
    directly = command("assemble", run_of_ours)
    assert by_tables.splitlines()[:10] == directly.splitlines()[:10]
    for path in (run_of_ours / "assembled").iterdir():
        assert path.read_text() == (tmp_path / "run" / "assembled" / path.name).read_text()
    # The circuits of a run of ours stay those that its own stage makes.
    assert not (run_of_ours / "circuits").exists()
