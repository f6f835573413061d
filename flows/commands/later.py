"""The commands that are imported once they are asked for, so that the others do not wait for what only these need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

_LATER = {
    "evaluate": "evaluation_commands",
    "history": "evaluation_commands",
    "import-features": "feature_commands",
    "export-features": "feature_commands",
    "verify": "feature_commands",
    "inspect": "inspect_command",
    "search": "search_command",
    "setup": "setup_command",
    "sweep": "sweep_command",
    "worker": "worker_command",
}
"""In the order of the help, and the module of `flows` whose `add_MODULE` adds each to an app."""


class Commands(TyperGroup):
    """The commands of an app, and those that come later."""

    def list_commands(self, ctx: Any) -> list[str]:
        self._add(*_LATER)
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands:
            self._add(*([cmd_name] if cmd_name in _LATER else _LATER))  # All of them, to suggest one of.
        return super().get_command(ctx, cmd_name)

    def _add(self, *names: str) -> None:
        for module in dict.fromkeys(_LATER[name] for name in names if name not in self.commands):
            app = typer.Typer()
            getattr(import_module(f"flows.{module}"), f"add_{module}")(app)
            for command in typer.main.get_group(app).commands.values():
                self.add_command(command)
