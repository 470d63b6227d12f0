"""Build the pages of the documentation site that follow from the code or from files outside docs/ (a hook of MkDocs).

`{{ name }}` alone on a line of docs/reference/*.md stands for a list that a function of REFERENCE generates. README.md,
CONTRIBUTING.md, CHANGELOG.md, ARCHITECTURE.md and the reports become pages. Links between files of the repository
work on the site as they do in a checkout; a link to a file that the site does not have becomes plain text.
"""

import ast
import enum
import importlib
import inspect
import os
import pkgutil
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = {  # files outside docs/ and their pages
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "ARCHITECTURE.md": "architecture.md",
}


# The reference, from the code


def command_line() -> str:
    """Every verb with its arguments and options."""
    import typer

    from asr_lora.cli.verbs import app

    group = typer.main.get_command(app)
    return "\n".join(_verb(name, verb) for name, verb in group.commands.items())  # type: ignore[attr-defined]


def _verb(name: str, verb: Any) -> str:
    shown = [each for each in verb.params if not getattr(each, "hidden", False)]
    arguments = [each for each in shown if each.param_type_name == "argument"]
    words = [_argument_word(each) for each in arguments]
    lines = [
        f"## {name}\n",
        f"{_plain(verb.help)}\n",
        "```text",
        f"asr-lora {name} {' '.join([*words, '[OPTIONS]'])}",
        "```\n",
    ]
    if arguments:
        lines += ["| argument | meaning |", "| --- | --- |"]
        lines += [f"| `{word}` | {_cell(each.help)} |" for word, each in zip(words, arguments, strict=True)]
        lines.append("")
    lines += ["| option | value | default | meaning |", "| --- | --- | --- | --- |"]
    lines += [_option(each) for each in shown if each.param_type_name == "option"]
    return "\n".join([*lines, ""])


def _argument_word(argument: Any) -> str:
    word = str(argument.metavar or argument.name.upper()).removesuffix("...")
    word += "..." if argument.nargs == -1 else ""
    return word if argument.required else f"[{word}]"


def _option(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else _kind(option.type_descriptor.annotation)  # typer's own record of the annotation
    if option.required:
        default = "required"
    elif option.default in (None, "", (), []) or callable(option.default):
        default = ""
    elif option.is_flag:
        on, off = option.opts[0], option.secondary_opts[0] if option.secondary_opts else ""
        default = f"`{on}`" if option.default else f"`{off}`" if off else "off"
    else:
        default = f"`{getattr(option.default, 'value', option.default)}`"
    meaning = _cell(option.help) + (
        " May be repeated." if option.multiple and "repeated" not in str(option.help) else ""
    )
    return f"| {names} | {value} | {default} | {meaning} |"


def config_keys() -> str:
    """Every key of a run's YAML file."""
    from asr_lora.config import RunConfig

    return _section_tables(RunConfig)


def sweep_keys() -> str:
    """Every key of a sweep's YAML file."""
    from asr_lora.config import SweepConfig

    return _section_tables(SweepConfig)


def _section_tables(model: Any) -> str:
    plain, sections = [], []
    for key, field in model.model_fields.items():
        inner = inner_model(field.annotation)
        if inner is None:
            plain.append((key, field))
        else:
            sections.append((key, inner, field.description))
    text = _table_of_keys("", plain)
    for key, inner, description in sections:
        about = description or inner.__doc__ or ""
        text += f"\n### {key}\n\n{_plain(about)}\n\n" + _table_of_keys(f"{key}.", inner.model_fields.items())
    return text


def inner_model(annotation: Any) -> Any:
    from pydantic import BaseModel

    for each in (annotation, *typing.get_args(annotation)):
        if inspect.isclass(each) and issubclass(each, BaseModel):
            return each
    return None


def _table_of_keys(prefix: str, fields: Any) -> str:
    rows = ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    for key, field in fields:
        bounds = [*field.metadata, *_bounds(field.annotation)]
        limits = ", ".join(dict.fromkeys(filter(None, map(_limit, bounds))))
        value = _kind(field.annotation) + (f", {limits}" if limits else "")
        default = "required" if field.is_required() else f"`{_yaml(field.default)}`"
        rows.append(f"| `{prefix}{key}` | {value} | {default} | {_cell(field.description)} |")
    return "\n".join(rows) + "\n"


def _kind(annotation: Any) -> str:
    """What a key's or an option's value is, in words."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Annotated, list):
        return _kind(inner[0])
    if inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        return ", ".join(f"`{each.value}`" for each in annotation)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_kind(each) for each in inner if each is not type(None))
    if origin is tuple:
        return f"list of {_kind(inner[0])}"
    words = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "Path": "path"}
    return "mapping" if origin is dict else words.get(getattr(annotation, "__name__", ""), "any value")


def _bounds(annotation: Any) -> Iterator[Any]:
    for each in typing.get_args(annotation):
        if hasattr(each, "metadata"):
            yield from each.metadata
        elif typing.get_origin(each) is typing.Annotated or typing.get_args(each):
            yield from _bounds(each)
        else:
            yield each


def _limit(bound: Any) -> str:
    signs = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
    for each in [bound, *getattr(bound, "metadata", ())]:
        for name, words in signs.items():
            if type(each).__name__.lower() == name:
                return f"{words} {getattr(each, name):g}"
    return ""


def _yaml(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float | int) else str(value)


def python_api() -> str:
    """Every public function and class of the package with its signature and docstring."""
    import asr_lora

    named = {name: getattr(asr_lora, name) for name in asr_lora.__all__ if name != "__version__"}
    return "\n".join(_documented(name, thing) for name, thing in named.items())


def _documented(name: str, thing: Any) -> str:
    lines = [f"## {name}\n", "```python", _signature(name, thing), "```\n", _docstring(inspect.getdoc(thing) or "")]
    return "\n".join([*lines, ""])


def _signature(name: str, thing: Any) -> str:
    tree = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
    if isinstance(tree, ast.ClassDef):
        fields = [ast.unparse(each) for each in tree.body if isinstance(each, ast.AnnAssign)]
        return "\n    ".join([f"class {name}:", *fields])
    assert isinstance(tree, ast.FunctionDef)
    arguments, positional = tree.args, [*tree.args.posonlyargs, *tree.args.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    words = [_argument(each, value) for each, value in zip(positional, defaults, strict=True)]
    words += [f"*{ast.unparse(arguments.vararg)}"] if arguments.vararg else ["*"] if arguments.kwonlyargs else []
    words += [_argument(*each) for each in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    words += [f"**{ast.unparse(arguments.kwarg)}"] if arguments.kwarg else []
    returns = f" -> {ast.unparse(tree.returns)}" if tree.returns else ""
    return f"{name}(\n    " + ",\n    ".join(words) + f",\n){returns}" if words else f"{name}(){returns}"


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(argument) + (f" = {ast.unparse(default)}" if default is not None else "")


def _docstring(text: str) -> str:
    """A docstring in Google's style as Markdown."""
    out, section, entries = [], "", []  # type: ignore[var-annotated]

    def close() -> None:
        if section:
            out.append(f"**{section}**\n")
            out.extend(f"- {entry}" for entry in entries)
            out.append("")

    for line in text.splitlines():
        if header := re.fullmatch(r"(Args|Raises|Returns|Yields|Attributes):", line):
            close()
            section, entries = {"Args": "Arguments"}.get(header[1], header[1]), []
        elif section and line and not line.startswith(" "):
            close()
            section = ""
            out.append(line)
        elif section and (entry := re.fullmatch(r"    ([\w, .]+): (.*)", line)):
            entries.append(f"`{entry[1]}`: {_cell(entry[2])}")
        elif section and line.strip():
            if line.startswith("     ") and entries:
                entries[-1] += f" {_cell(line.strip())}"
            else:
                entries.append(_cell(line.strip()))
        elif not section:
            out.append(line)
    close()
    return "\n".join(out)


def exit_codes() -> str:
    """Every error of the package with its exit code."""
    from asr_lora import errors

    rows = ["| error | exit code | when |", "| --- | ---: | --- |"]
    for name, thing in vars(errors).items():
        if inspect.isclass(thing) and issubclass(thing, errors.AsrLoraError):
            about = (inspect.getdoc(thing) or "").split("\n\n")[0]
            rows.append(f"| `{name}` | {thing.exit_code} | {_cell(about)} |")
    return "\n".join(rows) + "\n"


def folders_on_disk() -> str:
    """Every folder that a job writes, with the files in it."""
    import asr_lora.folders
    from asr_lora.folders.manifests import Folder

    for module in pkgutil.iter_modules(asr_lora.folders.__path__):
        importlib.import_module(f"asr_lora.folders.{module.name}")
    return "\n".join(_folder(each) for each in Folder.__subclasses__() if each.__module__.startswith("asr_lora."))


def _folder(kind: Any) -> str:
    own = kind.__doc__ if "__doc__" in vars(kind) and not str(kind.__doc__).startswith(f"{kind.__name__}(") else ""
    rows = ["| file | meaning |", "| --- | --- |"]
    rows.append(
        f"| `{kind.manifest_name}` | The manifest. It is written last: the folder is complete when it exists. |"
    )
    for name, member in vars(kind).items():
        path = None if name.startswith("_") else _path(kind, member)
        if path is not None and path != kind.manifest_name:
            rows.append(f"| `{path}` | {_cell(inspect.getdoc(member)) or name.replace('_', ' ').capitalize() + '.'} |")
    return "\n".join([f"### {kind.kind.capitalize()}\n", f"{_plain(own or '')}\n", *rows, ""])


def _path(kind: Any, member: Any) -> str | None:
    """The name of the file that a property or a method of a folder stands for; None where it stands for none."""
    from asr_lora.errors import AsrLoraError

    root = Path("/folder")
    function = member.fget if isinstance(member, property) else member
    if not inspect.isfunction(function):
        return None
    returned = typing.get_type_hints(function, {**vars(inspect.getmodule(kind))}).get("return")
    if not inspect.isclass(returned) or not (returned is Path or hasattr(returned, "manifest_name")):
        return None
    given = {"int": 0, "float": 0.5, "Path": Path("DATASET")}
    arguments = [
        given.get(getattr(each.annotation, "__name__", ""), each.name.upper())
        for each in [*inspect.signature(function).parameters.values()][1:]
        if each.default is inspect.Parameter.empty
    ]
    try:
        found = function(kind(root), *arguments)
        return str((found if isinstance(found, Path) else found.root).relative_to(root)) + (
            "" if returned is Path else "/"
        )
    except (AsrLoraError, TypeError, ValueError, OSError):
        return None


def _plain(text: str | None) -> str:
    return " ".join((text or "").split())


def _cell(text: str | None) -> str:
    return _plain(text).replace("|", "\\|").replace("<", "&lt;")


REFERENCE = {
    each.__name__: each for each in (command_line, config_keys, sweep_keys, python_api, exit_codes, folders_on_disk)
}


def filled(text: str) -> str:
    """A page of the reference with its lists generated."""
    return re.sub(r"^\{\{ (\w+) \}\}$", lambda found: REFERENCE[found[1]](), text, flags=re.MULTILINE)


# Pages from files outside docs/


def outside_pages() -> dict[str, Path]:
    """Pages and other files of the site that come from outside docs/, by their place on the site."""
    found = {site: ROOT / name for name, site in PAGES.items() if (ROOT / name).is_file()}
    for path in sorted((ROOT / "reports").rglob("*")):
        if path.is_file() and path.suffix in (".md", ".html", ".csv", ".png"):
            found[place_of(path)] = path  # type: ignore[index]
    return found


def place_of(path: Path) -> str | None:
    """Where a file of the repository is on the site; None where it is not there."""
    name = PurePosixPath(path.relative_to(ROOT).as_posix())
    if str(name) in PAGES:
        return PAGES[str(name)]
    if name.parts[0] == "reports" and len(name.parts) == 3:
        return f"results/{name.parts[1]}.md" if name.name == "README.md" else f"results/{name.parts[1]}/{name.name}"
    return str(PurePosixPath(*name.parts[1:])) if name.parts[0] == "docs" and path.exists() else None


def linked(text: str, source: Path, place: str) -> str:
    """A page's text with its links as the site needs them."""

    def link(found: re.Match[str]) -> str:
        image, label, target = found.groups()
        where, mark, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target) or not where:
            return found[0]
        path = Path(os.path.normpath(source.parent / where))
        there = place_of(path / "README.md" if path.is_dir() else path) if path.is_relative_to(ROOT) else None
        if there is None:
            return "" if image else label
        return f"{image}[{label}]({os.path.relpath(there, os.path.dirname(place) or '.')}{mark}{anchor})"

    text = re.sub(r"^\[!\[.*\]\(.*(badge|badges)/.*\)$\n", "", text, flags=re.MULTILINE)
    inner = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
    pieces = re.split(r"(^```.*?^```)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(each if each.startswith("```") else inner.sub(link, _images(each, link)) for each in pieces)


def _images(text: str, link: Any) -> str:
    """Links around an image hold two addresses: the image's comes first."""
    return re.sub(r"(!)\[([^\[\]]*)\]\(([^()\s]+)\)(?=\])", link, text)


# Hooks of MkDocs


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from outside docs/."""
    from mkdocs.structure.files import File

    for place, path in outside_pages().items():
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in the reference, and turn links between files into links between pages."""
    return linked(
        filled(markdown), Path(page.file.abs_src_path or ROOT / "docs" / page.file.src_uri), page.file.src_uri
    )
