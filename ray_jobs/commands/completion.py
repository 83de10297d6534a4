"""`dxmc completion`: the script by which a shell completes commands, options and files of `dxmc`."""

import argparse

import shtab

NAME = "completion"
SUMMARY = "Print the completion script of a shell."
EXAMPLES = """\
dxmc completion bash > ~/.local/share/bash-completion/completions/dxmc
dxmc completion zsh > ~/.zfunc/_dxmc                                  with ~/.zfunc in fpath
dxmc completion fish > ~/.config/fish/completions/dxmc.fish"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def execute(arguments: argparse.Namespace) -> None:
    print(shtab.complete(arguments.root_parser, shell=arguments.shell))
