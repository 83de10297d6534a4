"""The command line as a whole: every command has help with examples, `--json`, and a place in completions."""

import shlex
import shutil
import subprocess

import pytest

from ray_jobs.cli import COMMANDS, main, make_parser

WITHOUT_JSON = {"completion"}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.NAME)
def test_help_has_examples_that_parse(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command.NAME, "--help"])
    text = capsys.readouterr().out
    assert command.SUMMARY.split(";")[0] in " ".join(text.split())
    assert ("--json" in text) == (command.NAME not in WITHOUT_JSON)
    examples = [line.strip() for line in command.EXAMPLES.splitlines()]
    assert examples
    for example in examples:
        assert example in text
        typed = example.split("   ")[0].split(" > ")[0]
        program, *arguments = shlex.split(typed)
        assert program == "dxmc"
        assert make_parser().parse_args(arguments).command is command


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n    {command.NAME}" in text


def test_no_command_is_an_error(capsys):
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "COMMAND" in capsys.readouterr().err


def test_progress_is_named_after_the_command_whatever_its_arguments_are_called(monkeypatch):
    names = []
    monkeypatch.setattr("ray_jobs.cli.guarded", lambda program, *, name, quiet: names.append(name))
    for arguments in (["edit", "run", "rename", "4", "staff"], ["edit", "run", "merge", "3", "7", "--name", "cats"]):
        with pytest.raises(SystemExit):
            main(arguments)
    assert names == ["edit", "edit"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_options(shell, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["completion", shell])
    script = capsys.readouterr().out
    for command in COMMANDS:
        assert command.NAME in script
    assert "labels" in script
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=script, text=True, capture_output=True, check=False)
        assert checked.returncode == 0, checked.stderr


def test_bash_completes(tmp_path, capsys):
    """Bash itself, asked as it asks at the Tab key."""
    with pytest.raises(SystemExit, match="0"):
        main(["completion", "bash"])
    script = tmp_path / "dxmc.bash"
    script.write_text(capsys.readouterr().out)

    def complete(*words: str) -> set[str]:
        asked = " ".join(shlex.quote(word) for word in words)
        program = (
            f"source {script}; COMP_WORDS=({asked}); COMP_CWORD={len(words) - 1}; "
            "$(complete -p dxmc | sed 's/.*-F \\([^ ]*\\).*/\\1/') dxmc; printf '%s\\n' \"${COMPREPLY[@]}\""
        )
        done = subprocess.run(["bash", "-c", program], text=True, capture_output=True, check=False)
        return set(done.stdout.split())

    assert {"evaluate", "status"} <= complete("dxmc", "")
    assert complete("dxmc", "eval") == {"evaluate"}
    assert {"--labels", "--json"} <= complete("dxmc", "evaluate", "--")
