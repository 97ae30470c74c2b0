import json
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab import toy

import tinymeta.check
from tinymeta import cli, experiments
from tinymeta.data.errors import DataError
from tinymeta.lab import configure

COMMANDS = ("list", "run", "demo", "report", "bench", "check", "doctor")


@pytest.fixture(autouse=True)
def toy_only(monkeypatch, tmp_path):
    monkeypatch.setattr(experiments, "REGISTRY", {"toy": "lab.toy"})
    monkeypatch.setattr(experiments, "DEMO", ("toy",))
    monkeypatch.chdir(tmp_path)


def refused(capsys, *arguments):
    """The one sentence on stderr with which the command is refused."""
    assert cli.main(arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("tinymeta: ")
    assert errors.count("\n") == 1
    return errors


def output(capsys, *arguments):
    assert cli.main(arguments) == 0
    found = capsys.readouterr()
    assert found.err == ""
    return found.out


def run_folder(tmp_path):
    (folder,) = (tmp_path / "runs" / "toy").iterdir()
    return folder


def test_alone_it_prints_its_help(capsys):
    text = output(capsys)
    assert all(f"    {command}" in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys, command):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert len(capsys.readouterr().out) > 100


def test_list_shows_name_title_paper_and_presets(capsys):
    text = output(capsys, "list")
    for words in ("toy\n", "Least squares <by> SGD", "arXiv 1606.04474", "quick (about 0.1 min), paper (about 2 h)"):
        assert words in text


def test_list_shows_the_keys_of_one(capsys):
    text = output(capsys, "list", "toy")
    for words in ("  learning_rate=0.05\n", "  sizes=4,3\n", "steps=20", "A line is fitted", "`sizes` are those of"):
        assert words in text


def test_what_list_shows_of_a_key_is_what_set_takes(capsys):
    keys = output(capsys, "list", "toy").partition("keys, for --set:\n")[2].partition("\n\n")[0]
    settings = [part for line in keys.splitlines() for part in ("--set", line.removeprefix("  "))]
    chosen = cli.build_parser().parse_args(["run", "toy", *settings])
    assert configure(toy.EXPERIMENT, "quick", cli._overrides(chosen)) == toy.Config()


@given(st.floats(0.01, 1e6))
def test_a_duration_is_a_short_number_of_a_unit_that_suits_it(minutes):
    count, unit = cli._rounded(minutes).split()
    assert re.fullmatch(r"[\d.]{1,5}", count)
    assert float(count) * {"min": 1, "h": 60, "days": 1440}[unit] == pytest.approx(minutes, rel=0.051)
    assert float(count) <= 90 or unit == "days"


def test_run_writes_a_folder_and_prints_the_table(capsys, tmp_path):
    text = output(capsys, "run", "toy", "--set", "steps=8", "--set", "sizes=2,2", "--seed", "3")
    assert "published" in text
    assert "✗ did not hold: w is 0 (no)" in text
    folder = run_folder(tmp_path)
    assert f"tinymeta report {folder.relative_to(tmp_path)}" in text
    record = json.loads((folder / "config.json").read_text())
    assert (record["preset"], record["seed"], record["config"]["sizes"]) == ("custom", 3, [2, 2])
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "metrics.jsonl", "checkpoint.npz", "result.json", "figures"
    }  # fmt: skip


def test_a_value_may_hold_an_equals_sign(tmp_path):
    assert cli.main(["run", "toy", "--set", "label=a=b", "--set", "steps=2"]) == 0
    assert json.loads((run_folder(tmp_path) / "config.json").read_text())["config"]["label"] == "a=b"


def test_report_writes_one_page(capsys, tmp_path):
    assert cli.main(["run", "toy"]) == 0
    capsys.readouterr()
    assert output(capsys, "report", "runs") == "runs/report.html\n"
    assert "Least squares &lt;by&gt; SGD" in (tmp_path / "runs" / "report.html").read_text()


def test_demo_says_what_will_be_seen_and_writes_the_page(capsys, tmp_path):
    text = output(capsys, "demo")
    assert "[1/1] Least squares <by> SGD (about 0.1 min)\nA line is fitted & drawn." in text
    assert "runs/demo/report.html" in text
    assert (tmp_path / "runs" / "demo" / "report.html").exists()


def test_demo_does_not_show_what_other_versions_have_found(tmp_path, monkeypatch):
    for version in ("1", "1", "2"):
        monkeypatch.setattr("tinymeta.lab.records.versions", lambda version=version: {"tinymeta": version})
        assert cli.main(["demo"]) == 0
    assert len(list((tmp_path / "runs" / "demo" / "toy").iterdir())) == 2


def test_a_benchmark_that_is_not_there_is_named(capfd):
    assert cli.main(["bench", "sorting"]) == 2
    assert "there is no benchmark sorting; there are overhead" in capfd.readouterr().err


def test_without_the_source_tree_there_are_no_benchmarks(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "tinymeta" / "cli.py"))
    assert "part of the source tree" in refused(capsys, "bench")


def test_doctor_finds_numpy(capsys):
    text = output(capsys, "doctor")
    assert "numpy" in text
    assert "runs is writable" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ruin", "toy"), "invalid choice: 'ruin'"),
        (("run",), "required: NAME; see: tinymeta run --help"),
        (("run", "toi"), "there is no experiment 'toi'; did you mean toy?"),
        (("list", "xyz"), "there is no experiment 'xyz'; choose one of toy"),
        (("run", "toy", "--preset", "quack"), "toy has no preset 'quack'; did you mean quick?"),
        (("run", "toy", "--preset", ""), "toy has no preset ''"),
        (("run", "toy", "--set", "step=3"), "toy has no key 'step'; did you mean steps?"),
        (("run", "toy", "--set", "steps"), "--set 'steps' is not of the form KEY=VALUE"),
        (("run", "toy", "--set", "=3"), "--set '=3' is not of the form KEY=VALUE"),
        (("run", "toy", "--set", "steps=many"), "steps = 'many' is not a whole number"),
        (("run", "toy", "--set", "steps=-3"), "steps = -3, expected 0 or more"),
        (("run", "toy", "--seed", "x"), "seed = 'x' is not a whole number"),
        (("run", "toy", "--sed", "3"), "unrecognized arguments: --sed 3"),
        (("run", "toy", "--resume", "nowhere"), "nowhere is no run folder"),
        (("run", "toy", "--resume", "x", "--seed", "1"), "--resume keeps the folder and the configuration"),
        (("run", "toy", "--resume", "x", "--runs", "runs"), "leave out --preset, --set, --seed and --runs"),
        (("run", "toy", "--runs", "file"), "cannot make the folder file/toy"),
        (("demo", "--runs", "file"), "cannot make the folder file/demo/toy"),
        (("report", "nowhere"), "there is no finished run below nowhere"),
        (("report",), "required: DIR"),
        (("run", "toy", "--trace"), "toy has nothing to trace"),
        (("check", "--order", "3"), "invalid choice: 3"),
        (("check", "tahn"), "there is no check of an op 'tahn'; did you mean"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(capsys, tmp_path, arguments, words):
    (tmp_path / "file").touch()
    assert words in refused(capsys, *arguments)


def test_a_run_that_diverges_says_where_without_a_traceback(capsys):
    with toy.failing_at(25, FloatingPointError("the loss is inf at step 25: lower learning_rate")):
        assert cli.main(["run", "toy"]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert errors.startswith(
        "tinymeta: the run diverged: the loss is inf at step 25: lower learning_rate; a resumed run meets it again: start a new "
    )


def test_an_error_of_ours_keeps_its_traceback_and_says_how_to_go_on(capsys, tmp_path):
    with toy.failing_at(7, KeyError("a bug")), pytest.raises(KeyError, match="a bug") as raised:
        cli.main(["run", "toy"])
    folder = run_folder(tmp_path).relative_to(tmp_path)
    assert raised.value.__notes__ == [f"to go on: tinymeta run toy --resume {folder}"]
    capsys.readouterr()
    assert "published" in output(capsys, "run", "toy", "--resume", str(folder))


@pytest.mark.parametrize("name", ["checkpoint.npz", "config.json"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"{}", b'{"format": 99}'])
def test_a_damaged_run_is_refused_and_left_alone(capsys, tmp_path, name, content):
    with toy.failing_at(25, KeyboardInterrupt()):
        assert cli.main(["run", "toy"]) == 130
    capsys.readouterr()
    folder = run_folder(tmp_path)
    (folder / name).write_bytes(content)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert name in refused(capsys, "run", "toy", "--resume", str(folder))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("result.json", "; delete it and go on with: "),
        ("figures/captions.json", "; draw it again by: "),
        ("figures/weights.svg", "; draw it again by: "),
    ],
)
def test_what_can_be_made_again_is_so_by_the_command_in_the_sentence(capsys, tmp_path, name, remedy):
    assert cli.main(["run", "toy"]) == 0
    capsys.readouterr()
    folder = run_folder(tmp_path)
    names = (*toy.contents(folder), "figures/captions.json")
    before = {name: (folder / name).read_bytes() for name in names}
    if name.endswith(".svg"):
        (folder / name).unlink()
    else:
        (folder / name).write_text("{")
    command = refused(capsys, "report", "runs").rpartition(remedy)[2]
    if "delete it" in remedy:
        assert remedy in refused(capsys, *shlex.split(command)[1:])
        (folder / name).unlink()
    output(capsys, *shlex.split(command)[1:])
    assert {name: (folder / name).read_bytes() for name in names} == before
    output(capsys, "report", "runs")


@pytest.mark.parametrize("command", ["list", "run toy", "demo", "check tanh"])
def test_a_backend_that_cannot_be_used_is_refused_before_the_work(capsys, monkeypatch, tmp_path, command):
    monkeypatch.setenv("TINYMETA_BACKEND", "Numba")
    assert "TINYMETA_BACKEND: backend 'Numba' is unknown" in refused(capsys, *command.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["Unable to allocate 74.5 GiB for an array", ""])
def test_too_little_memory_is_one_sentence(capsys, words):
    with toy.failing_at(3, MemoryError(words)):
        sentence = refused(capsys, "run", "toy")
    assert sentence.startswith(
        f"tinymeta: out of memory: {words or 'none is left'}; free some, or choose smaller settings"
    )
    assert "; to go on: tinymeta run toy --resume" in sentence


@pytest.mark.parametrize(("package", "extra"), [("matplotlib", "lab"), ("hypothesis", "check"), ("numba", "fast")])
def test_a_missing_package_is_one_sentence_that_says_how_to_get_it(capsys, monkeypatch, package, extra):
    def needs_it(stage, i):
        __import__(package)

    monkeypatch.setattr(toy, "before_step", needs_it)
    monkeypatch.setitem(sys.modules, package, None)
    sentence = refused(capsys, "run", "toy")
    assert f"{package} is not installed" in sentence
    assert f"pip install 'tinymeta[{extra}]'" in sentence


def test_a_missing_matplotlib_is_told_before_the_training(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    refused(capsys, "run", "toy")
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_broken_is_not_called_missing(capsys, monkeypatch):
    def needs_it(stage, i):
        from matplotlib import no_such_name  # noqa: F401

    monkeypatch.setattr(toy, "before_step", needs_it)
    sentence = refused(capsys, "run", "toy")
    assert "matplotlib is installed but cannot be imported: cannot import name 'no_such_name'" in sentence


def test_the_version_is_that_of_the_package(capsys):
    assert output(capsys, "--version") == f"tinymeta {tinymeta.__version__}\n"
    assert re.match(r"\d+\.\d+", tinymeta.__version__)


@pytest.mark.parametrize("arguments", [("run", "toy", "--resume"), ("report",)])
def test_a_name_that_no_folder_can_have_is_one_sentence(capsys, arguments):
    assert "File name too long" in refused(capsys, *arguments, "x" * 300)


def test_spaces_around_a_value_are_no_part_of_it():
    chosen = cli.build_parser().parse_args(["run", "toy", "--set", " momentum = false "])
    assert cli._overrides(chosen) == {"momentum": "false"}


def test_a_missing_module_of_our_own_is_a_bug_and_not_hidden(monkeypatch):
    monkeypatch.setattr(experiments, "REGISTRY", {"toy": "tinymeta.experiments.no_such_module"})
    with pytest.raises(ModuleNotFoundError):
        cli.main(["list"])


def test_damaged_data_is_one_sentence(capsys):
    with toy.failing_at(0, DataError("train.gz", "9 bytes", "90", "fetch it again")):
        sentence = refused(capsys, "run", "toy")
    assert sentence.startswith(
        "tinymeta: train.gz: found 9 bytes, expected 90; fetch it again; to go on: tinymeta run toy "
    )


@pytest.mark.parametrize("arguments", [["list"], ["run", "toy", "--set", "steps=2"]])
def test_an_output_that_is_full_is_one_sentence(tmp_path, arguments):
    with open("/dev/full", "w") as full:
        found = subprocess.run(
            [*toy_command(), *arguments], stdout=full, stderr=subprocess.PIPE, cwd=tmp_path, text=True
        )
    assert found.stderr == "tinymeta: cannot write the output: No space left on device\n"
    assert found.returncode == 2


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
@pytest.mark.parametrize("arguments", [["list"], ["run", "toy", "--set", "steps=2"]])
def test_an_output_that_is_closed_is_no_error(tmp_path, arguments, closed):
    command = f"{shlex.join([*toy_command(), *arguments])} {closed}"
    found = subprocess.run(command, shell=True, capture_output=True, cwd=tmp_path, text=True)
    assert (found.returncode, found.stderr) == (0, "")


def test_a_folder_with_spaces_is_quoted_in_the_command_for_its_page(capsys, tmp_path):
    text = output(capsys, "run", "toy", "--set", "steps=2", "--runs", "my runs")
    (folder,) = (tmp_path / "my runs" / "toy").iterdir()
    assert f"as a page: tinymeta report '{folder.relative_to(tmp_path)}'" in text


@pytest.mark.parametrize(("failures", "code"), [([], 0), (["tanh"], 1)])
def test_check_passes_names_and_order_and_fails_by_its_exit_code(monkeypatch, failures, code):
    asked = []

    def print_all(names, order):
        asked.append((names, order))
        return failures

    rows = [SimpleNamespace(op=name, name=name) for name in ("tanh", "exp")]
    monkeypatch.setitem(vars(tinymeta.check), "table", SimpleNamespace(print_all=print_all, ROWS=rows))
    assert cli.main(["check", "tanh", "exp", "--order", "1"]) == code
    assert cli.main(["check"]) == code
    assert asked == [(["tanh", "exp"], 1), ([], 2)]


def toy_command():
    """The command in a process of its own, which knows the toy experiment."""
    code = (
        f"import sys; sys.path.insert(0, {str(toy.__file__).removesuffix('lab/toy.py')!r})\n"
        "from tinymeta import cli, experiments\nexperiments.REGISTRY = {'toy': 'lab.toy'}\nsys.exit(cli.main(sys.argv[1:]))"
    )
    return [sys.executable, "-c", code]


def test_a_terminal_without_unicode_still_gets_the_table():
    found = subprocess.run(
        [*toy_command(), "run", "toy", "--set", "steps=2"],
        capture_output=True,
        check=True,
        env={"PYTHONIOENCODING": "ascii"},
    )
    assert b"held: w stays finite" in found.stdout
    assert found.stderr == b""
