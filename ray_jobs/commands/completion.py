"""`dxmc completion`: the script by which a shell completes commands, options and files of `dxmc`."""

import argparse

NAME = "completion"
SUMMARY = "Print the completion script of a shell."
EXAMPLES = """\
dxmc completion bash > ~/.local/share/bash-completion/completions/dxmc
dxmc completion zsh > ~/.zfunc/_dxmc                                  with ~/.zfunc in fpath
dxmc completion fish > ~/.config/fish/completions/dxmc.fish"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def execute(arguments: argparse.Namespace) -> None:
    import shtab

    #: Which arguments are files and folders, by the word that stands for them in the help.
    places = {"FILE": shtab.FILE, "RUN_DIR": shtab.DIRECTORY, "DIR": shtab.DIRECTORY, "URI": shtab.DIRECTORY}
    root: argparse.ArgumentParser = arguments.root_parser
    [commands] = (action for action in root._actions if isinstance(action, argparse._SubParsersAction))
    for parser in commands.choices.values():
        for action in parser._actions:
            if action.metavar in places:
                action.complete = places[action.metavar]
    print(shtab.complete(root, shell=arguments.shell))
