"""``tvm-sparse completion``: prints what lets a shell complete verbs and options."""

from __future__ import annotations

import argparse

from tvm_sparse.cli import arguments, streams

_BASH = """\
_tvm_sparse() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} verb=${{COMP_WORDS[1]}} words=""
    if [ "$COMP_CWORD" = 1 ]; then
        words="{verbs}"
    elif [[ $word == -* ]]; then
        case $verb in
{cases}
        esac
    fi
    if [ -n "$words" ]; then
        COMPREPLY=($(compgen -W "$words" -- "$word"))
    else
        COMPREPLY=($(compgen -f -- "$word"))
    fi
}}
complete -o filenames -F _tvm_sparse tvm-sparse
"""

_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"

_FISH = "complete -c tvm-sparse -n __fish_use_subcommand -f -a '{verbs}'\n"

SHELLS = ("bash", "zsh", "fish")


def declare(verbs: arguments.Verbs) -> None:
    """Declare the verb and its arguments."""
    command = arguments.add_verb(
        verbs, "completion", "prints a script for a shell that completes verbs and options", run
    )
    command.add_argument("shell", choices=SHELLS, help="the shell that reads the script")
    # The verbs themselves, which this one describes.
    command.set_defaults(verbs=verbs)


def run(options: argparse.Namespace) -> None:
    """Print the script."""
    streams.write(script(options.shell, options.verbs.choices))


def script(shell: str, verbs: dict[str, argparse.ArgumentParser]) -> str:
    """Return the script.

    Parameters
    ----------
    shell : str
        One of `SHELLS`.
    verbs : dict of str to ArgumentParser
        The verbs and their parsers.
    """
    options = {name: _options(parser) for name, parser in verbs.items()}
    if shell == "fish":
        lines = [_FISH.format(verbs=" ".join(verbs))]
        for name, words in options.items():
            for word in words:
                kind = "-l" if word.startswith("--") else "-o" if len(word) > 2 else "-s"
                lines.append(
                    f"complete -c tvm-sparse -n '__fish_seen_subcommand_from {name}' "
                    f"{kind} {word.lstrip('-')}\n"
                )
        return "".join(lines)
    cases = "\n".join(
        f'            {name}) words="{" ".join(w)}" ;;' for name, w in options.items()
    )
    bash = _BASH.format(verbs=" ".join(verbs), cases=cases)
    return _ZSH + bash if shell == "zsh" else bash


def _options(parser: argparse.ArgumentParser) -> list[str]:
    return [name for action in parser._actions for name in action.option_strings]
