"""Directive ``downscale-commands``: the reference of the command line, generated from the program."""

from __future__ import annotations

from typing import Any

import typer.main
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def markdown_of(name: str, command: Any) -> list[str]:
    """Return a section on one command: purpose, usage, arguments and options."""
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    words = " ".join(_metavar(p) for p in arguments)
    usage = " ".join(part for part in ("downscale", name, words, "[OPTIONS]" if options else "") if part)
    lines = [f"## downscale {name}", "", command.help or "", "", "```text", usage, "```", ""]
    rows = [(f"`{_metavar(p)}`", p.help or "") for p in arguments]
    rows += [(f"`{_spelling(p)}`", _explained(p)) for p in options]
    if rows:
        lines += ["| | |", "|---|---|", *(f"| {left} | {right.replace('|', ', ')} |" for left, right in rows), ""]
    return lines


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _spelling(option: Any) -> str:
    names = ", ".join([*option.opts, *option.secondary_opts])
    return names if option.is_flag else f"{names} {option.metavar or _kind(option)}"


def _kind(option: Any) -> str:
    """Return the type of an option from its annotation: number, whole number, file or text."""
    said = str(option.type_descriptor.annotation)
    kinds = {"float": "NUMBER", "int": "INTEGER", "Path": "PATH"}
    return next((kind for word, kind in kinds.items() if word in said), "TEXT")


def _explained(option: Any) -> str:
    default = option.default
    said = option.is_flag or default is None or callable(default)
    return (option.help or "") + ("" if said else f" Default: `{default}`.")


class Commands(SphinxDirective):
    """Write a section for every command."""

    def run(self) -> list[nodes.Node]:
        from downscale.cli.main import app

        root: Any = typer.main.get_command(app)
        lines = [line for name, command in root.commands.items() for line in markdown_of(name, command)]
        holder = nodes.section()
        holder.document = self.state.document
        self.state.nested_parse(StringList(lines, source="commands"), self.content_offset, holder, match_titles=True)
        return holder.children


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("downscale-commands", Commands)
    return {"parallel_read_safe": True}
