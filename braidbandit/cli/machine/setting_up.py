"""Commands around an installation: init, doctor, serve."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from braidbandit.cli.shell.exits import Exit
from braidbandit.cli.shell.options import Config, Folder, Json
from braidbandit.cli.shell.output import note, show
from braidbandit.cli.shell.output import table as table_of
from braidbandit.cli.shell.place import SETTINGS, Place, place_of, read_settings
from braidbandit.cli.shell.progress import progress, waiting

if TYPE_CHECKING:
    from braidbandit.catalogue.cards import ModelCard
    from braidbandit.cli.machine.finding_models import Found

_NOTHING = """\
No model was found: no GGUF file, no adapter, and no server at a usual port.
Start a server (such as `ollama serve`), name a folder with --look, or for a try
`pip install 'braidbandit[full,demo]'`, which brings a small model."""
_MARKS = {"ok": "ok", "warning": "WARNING", "error": "ERROR"}


_Look = Annotated[
    list[Path] | None,
    typer.Option(help="One more folder to search; again for more."),
]
_OnlyLook = Annotated[
    bool,
    typer.Option("--only-look", help="Search only what --look and --server name."),
]
_Server = Annotated[
    list[str] | None,
    typer.Option(
        help="URL of one more server, such as http://127.0.0.1:9000/v1; again for more."
    ),
]
_Encoder = Annotated[
    str | None,
    typer.Option(
        help="What reads tasks: a model of sentence-transformers, or 'words', "
        "which needs none. By default what is installed."
    ),
]
_Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Take all that is found; do not ask.")
]
_Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace settings that are there.")
]
_Folder = Annotated[
    str, typer.Option("--folder", "-f", help="Where the agent is to keep things.")
]
_Config = Annotated[
    Path, typer.Option("--config", "-c", help="File of settings to write.")
]


def init(
    look: _Look = None,
    only_look: _OnlyLook = False,
    server: _Server = None,
    encoder: _Encoder = None,
    yes: _Yes = False,
    overwrite: _Overwrite = False,
    folder: _Folder = "braid",
    config: _Config = Path(SETTINGS),
    json: Json = False,
) -> None:
    """Find the models of this machine, and write braid.toml.

    Looks for GGUF files and adapters here and where other programs keep models, for
    models that come as packages, and for local servers (Ollama, llama.cpp, LM Studio,
    vLLM and others) on loopback. Nothing is loaded, and nothing leaves this machine.
    """
    from braidbandit.cli.machine.settings_text import settings_text

    file = config.expanduser().absolute()
    if file.exists() and not overwrite:
        raise ValueError(f"{file} is there already; --overwrite replaces it")
    found = _found(look or [], server or [], only_look)
    if not found:
        raise FileNotFoundError(_NOTHING)
    taken = found if yes else [model for model in found if _wanted(model)]
    if not taken:
        raise ValueError("no model was taken; nothing was written")
    text = settings_text(
        [m.card for m in taken], _learning(folder, encoder), file.parent
    )
    _write(file, text)
    _tell_of_client(taken)
    show(
        {"path": file, "pool": [model.card for model in taken]},
        table_of(
            ("model", "from", "good at", "where"),
            [(m.card["model_name"], m.kind, m.card["domain"], m.where) for m in taken],
        ),
        f"{file} has {len(taken)} of {len(found)} models that were found.",
        'Next: braidbandit recommend "Write a sorting function"',
    )


def doctor(
    folder: Folder = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Tell what is wrong with the installation or the agent, and how to fix it.

    Checks packages, folder, ledger, saved policy, encoder, caches, memory, and every
    model and server of the pool. Nothing is changed and no model is loaded. The exit
    code is 1 if there is an error; warnings leave it at 0.
    """
    from braidbandit.cli.machine.doctor.examination import checks_of
    from braidbandit.cli.machine.doctor.finding import Finding, error

    findings: list[Finding] = []
    place, encoder = Place(Path(folder or "braid").absolute()), None
    try:
        place = place_of(folder, config)
    except (ImportError, ValueError, OSError) as problem:
        findings.append(error("settings", str(problem), _mend_settings(problem)))
    if place.settings is not None:
        encoder = place.settings.learning.encoder
    checks = list(checks_of(place.folder, _cards_of(place), encoder))
    with progress("checking", len(checks)) as advance:
        for check in checks:
            findings.append(check())
            advance()
    errors = sum(finding.level == "error" for finding in findings)
    lines: list[str] = []
    for finding in findings:
        lines.append(f"{_MARKS[finding.level]:<8} {finding.name}: {finding.found}")
        if finding.fix:
            lines.append(f"{'':<8} fix: {finding.fix}")
    show(
        {
            "healthy": not errors,
            "folder": place.folder,
            "findings": [asdict(finding) for finding in findings],
        },
        "\n".join(lines),
        "" if errors else "Nothing keeps it from working.",
    )
    if errors:
        raise typer.Exit(int(Exit.FAILED))


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen at.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535)] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Answer OpenAI clients over HTTP.

    What may be set is in braid.toml, below \\[server]; docs/service.md lists it.
    """
    file = config or Path(SETTINGS)
    settings = read_settings(file.expanduser())
    given = {"host": host, "port": port}
    changed = {key: value for key, value in given.items() if value is not None}
    if changed:
        server = {**settings.server.model_dump(), **changed}
        whole: dict[str, Any] = {**settings.model_dump(), "server": server}
        settings = type(settings)(**whole)
    try:
        from braidbandit.service import run
    except ImportError as error:
        if "braidbandit[serve]" in str(error):
            raise
        raise ImportError(
            f"serving needs packages that are missing ({error}): pip install "
            "'braidbandit[serve]'"
        ) from error
    run(settings)


def _found(look: list[Path], urls: list[str], only_look: bool) -> list[Found]:
    from braidbandit.cli.machine.finding_models import (
        find_models,
        packaged_models,
        usual_folders,
    )
    from braidbandit.cli.machine.servers import find_servers, server_at

    named = [place.expanduser().resolve() for place in look]
    for place in named:
        if not place.is_dir():
            raise FileNotFoundError(f"there is no folder {place} to look in")
    servers = [server_at(url) for url in urls]
    if only_look:
        return find_models(named, servers)
    with waiting("looking for models and servers"):
        usual = [s for s in find_servers() if s.endpoint not in urls]
        folders = [*named, *usual_folders()]
        return find_models(folders, [*servers, *usual], packaged_models())


def _wanted(model: Found) -> bool:
    name = model.card["model_name"]
    return typer.confirm(f"Take {name} ({model.kind}: {model.where})?", default=True)


def _learning(folder: str, encoder: str | None) -> dict[str, Any]:
    from braidbandit.tasks.embedder import WORDS

    learning = {"folder": folder}
    if encoder is not None:
        learning["encoder"] = encoder
    elif importlib.util.find_spec("sentence_transformers") is None:
        # What is installed can read tasks by their words only.
        learning["encoder"] = WORDS
    return learning


def _write(file: Path, text: str) -> None:
    from braidbandit._files import write_atomic

    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, text.encode())
    if importlib.util.find_spec("pydantic_settings") is not None:
        read_settings(file)  # what was written can be read


def _tell_of_client(taken: list[Found]) -> None:
    served = any("endpoint" in model.card for model in taken)
    if served and importlib.util.find_spec("openai") is None:
        note("answers of servers need: pip install 'braidbandit[endpoints]'")


def _cards_of(place: Place) -> list[ModelCard]:
    """Return the pool: of the settings, else of the saved policy; [] if unreadable."""
    from braidbandit.catalogue.cards import ModelCard

    if place.settings is not None:
        return place.settings.cards
    try:
        manifest = place.manifest() or {"catalogue": {"cards": []}}
        return [ModelCard.from_dict(card) for card in manifest["catalogue"]["cards"]]
    except (ValueError, KeyError, TypeError):
        return []  # a damaged policy is a finding of its own


def _mend_settings(problem: Exception) -> str:
    if isinstance(problem, ImportError):
        return "pip install 'braidbandit[cli]'"
    if isinstance(problem, FileNotFoundError):
        return "braidbandit init"
    return "correct the line that is named"
