"""Reference of the command line, made from click's own commands."""

import inspect
import textwrap
from collections.abc import Iterator

import click

from raymlops.cli import VERBS, raymlops
from reference_pages.markdown import code, sentence, table


def write_page() -> str:
    """The page of all commands."""
    parts = [
        "# Commands",
        "Every command is `raymlops VERB`; `raymlops VERB --help` prints what stands here. Exit codes: 0 done, 2 you can "
        "fix it (the message says how), 1 a bug in raymlops, 130 interrupted. `raymlops --debug VERB` shows the "
        "traceback of a failure. Each verb that has a script in `jobs/` also runs as a job of a cluster: "
        "`raymlops submit VERB ARGUMENTS`.",
        table(
            ["command", "what it does"],
            [[f"[{code(verb)}](#{verb})", line] for verb, (_, line) in VERBS.items()],
        ),
    ]
    for path, command in walk():
        depth = "##" + "#" * (len(path) - 1)
        parts += [f"{depth} {' '.join(path)} {{ #{'-'.join(path)} }}", *_write_command(path, command)]
    return "\n\n".join(parts) + "\n"


def walk() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that is not hidden, with the words that call it, groups before their commands."""
    context = click.Context(raymlops)
    for verb in VERBS:
        command = raymlops.get_command(context, verb)
        if command is None or command.hidden:
            continue
        yield (verb,), command
        if isinstance(command, click.Group):
            inner = click.Context(command)
            for name in command.list_commands(inner):
                found = command.get_command(inner, name)
                if found is not None and not found.hidden:
                    yield (verb, name), found


def _write_command(path: tuple[str, ...], command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=" ".join(("raymlops", *path)))
    yield f"```text\n{' '.join([context.command_path, *command.collect_usage_pieces(context)])}\n```"
    yield _to_markdown(command.help or "")
    options = [
        parameter
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.hidden
    ]
    if options:
        yield table(["option", "meaning"], [[_name(option), _meaning(option)] for option in options])


def _name(option: click.Option) -> str:
    names = ", ".join(code(name) for name in (*option.opts, *option.secondary_opts))
    if option.is_flag:
        return names
    if isinstance(option.type, click.Choice):
        return f"{names} {' or '.join(code(choice) for choice in option.type.choices)}"
    return f"{names} {option.metavar or (option.name or '').upper()}"


def _meaning(option: click.Option) -> str:
    parts = [sentence(option.help or "")]
    if option.required:
        parts.append("Required.")
    if option.multiple:
        parts.append("May be given several times.")
    if isinstance(option.default, (str, int, float)) and not option.is_flag and option.default != "":
        parts.append(f"Default {code(option.default)}.")
    if option.envvar:
        parts.append(f"Also from the variable {code(option.envvar)}.")
    return " ".join(part for part in parts if part)


def _to_markdown(text: str) -> str:
    """The paragraphs of a docstring; those that click is told not to wrap become code."""
    parts = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b"):
            parts.append(f"```text\n{textwrap.dedent(paragraph.removeprefix(chr(8)).strip(chr(10)))}\n```")
        else:
            parts.append(" ".join(paragraph.split()))
    return "\n\n".join(parts)
