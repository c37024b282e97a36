"""The reference: a page a room, made from signatures and docstrings, which are prose with code between backticks."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from functools import cached_property, lru_cache
from importlib import import_module
from types import ModuleType

import mctrace_nb

PACKAGE = mctrace_nb.__name__
_CODE = re.compile(r"(`[^`]+`)")
_SPECIAL = re.compile(r"([*_<>\[\]|$#])")


class _Plain(str):
    """A text that stands in a signature without quotation marks."""

    __repr__ = str.__str__


def rooms() -> list[str]:
    """The rooms that hold a public name, in alphabetical order."""
    return sorted({*mctrace_nb._WHERE.values(), *mctrace_nb._ROOMS})


def public(room: ModuleType) -> dict[str, object]:
    """The public names of a room: those that it lists, else the functions and classes that are written in it, and what the package takes from it."""
    taken = [name for name, where in mctrace_nb._WHERE.items() if f"{PACKAGE}.{where}" == room.__name__]
    written = [name for name, thing in vars(room).items() if not name.startswith("_") and (inspect.isclass(thing) or inspect.isroutine(thing))
               and getattr(thing, "__module__", None) == room.__name__]
    return {name: getattr(room, name) for name in dict.fromkeys([*getattr(room, "__all__", written), *taken])}


@lru_cache(None)
def _homes() -> dict[type, str]:
    """Where the reference has each class: the first room that lists it."""
    homes: dict[type, str] = {}
    for name in rooms():
        for thing in public(room := import_module(f"{PACKAGE}.{name}")).values():
            if inspect.isclass(thing):
                homes.setdefault(thing, f"{room.__name__}.{thing.__name__}")
    return homes


def _type(annotation, owner) -> str:
    """An annotation with the classes of this package by their full names, so that each leads to its own entry, whoever else has that name."""
    text = annotation.strip("'\"") if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    names = vars(import_module(getattr(owner, "__module__", None) or PACKAGE))

    def full(found: re.Match) -> str:
        known = names.get(found[0])
        ours = inspect.isclass(known) and known.__module__.startswith(PACKAGE)
        return f"~{_homes().get(known, f'{known.__module__}.{known.__qualname__}')}" if ours else found[0]  # ~: the last name is shown

    return re.sub(r"(?<![\w.])[A-Za-z_]\w*", full, text)


def _signature(thing) -> str:
    found = inspect.signature(thing)

    def shown(p: inspect.Parameter) -> inspect.Parameter:
        default = p.default
        if default is not p.empty:
            text = repr(default)
            default = _Plain(getattr(default, "__name__", "...") if text.startswith("<") else text)
        return p.replace(annotation=p.annotation if p.annotation is p.empty else _Plain(_type(p.annotation, thing)), default=default)

    returned = found.empty if inspect.isclass(thing) else found.return_annotation
    return str(found.replace(parameters=[shown(p) for p in found.parameters.values()],
                             return_annotation=returned if returned is found.empty else _Plain(_type(returned, thing))))


def _language(block: str) -> str:
    """What an indented block of a docstring is written in: examples, code, or formulas and tables."""
    if ">>>" in block:
        return "pycon"
    try:
        ast.parse(inspect.cleandoc(block))
        return "python"
    except SyntaxError:
        return "text"


def _prose(thing, names=()) -> str:
    """A docstring as Markdown: what it says of a parameter begins with the parameter's name as code, other signs mean themselves."""
    text = inspect.getdoc(thing) or ""
    if names:
        either = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
        text = re.sub(rf"(^|[.;] +|\n *)((?:{either})(?:, (?:{either}))*)(?=:\s)",
                      lambda m: m[1] + ", ".join(f"`{n}`" for n in m[2].split(", ")), text)
    blocks = []
    for block in re.split(r"\n{2,}", text):
        if block.startswith("    "):  # an example
            blocks.append(f"```{_language(block)}\n" + inspect.cleandoc(block) + "\n```")
        else:
            blocks.append("".join(part if part.startswith("`") else _SPECIAL.sub(r"\\\1", part) for part in _CODE.split(block)))
    return re.sub(r"\n```\n\n```(python|pycon|text)\n", "\n\n", "\n\n".join(blocks))


def _first(thing) -> str:
    """The first sentence of a docstring."""
    return re.split(r"(?<=[.?!])(?<!al\.) (?=[A-Z`]|\w+(?:, \w+)*: )", " ".join(_prose(thing).split("\n\n")[0].split()))[0].rstrip(":")


def _directive(kind: str, head: str, body: str, depth: int = 4, **options) -> str:
    lines = [f":{name}: {value}" for name, value in options.items()]
    return "\n".join(["`" * depth + f"{{py:{kind}}} {head}", *lines, "", body, "`" * depth, ""])


def _members(thing: type) -> dict[str, object]:
    """Public attributes of a class that are written in this package, inherited ones last."""
    found: dict[str, object] = {}
    for base in thing.__mro__:
        if base.__module__.startswith(PACKAGE):
            for name, member in vars(base).items():
                if not name.startswith("_") and isinstance(member, (property, cached_property, classmethod, staticmethod)) or inspect.isfunction(member):
                    found.setdefault(name, member)
    return {n: m for n, m in found.items() if not n.startswith("_")}


def _member(name: str, member) -> str:
    if isinstance(member, (property, cached_property)):
        getter = member.fget if isinstance(member, property) else member.func
        returned = inspect.signature(getter).return_annotation
        options = {} if returned is inspect.Signature.empty else {"type": _type(returned, getter)}
        return _directive("property", name, _prose(getter), 3, **options)
    function = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
    head = _signature(function)
    if not isinstance(member, staticmethod):
        head = re.sub(r"^\((?:self|cls)(?:, )?", "(", head)
    kind = {classmethod: "classmethod", staticmethod: "staticmethod"}.get(type(member), "method")
    return _directive(kind, name + head, _prose(function, inspect.signature(function).parameters), 3)


def _entry(name: str, thing, room: str) -> str:
    where = f"In `mctrace_nb` itself: `mct.{name}`." if mctrace_nb._WHERE.get(name) == room.split(".")[1] else ""
    options = {"module": room}
    if getattr(thing, "__module__", PACKAGE).split(".")[0] != PACKAGE:  # taken from another package, which explains it
        return _directive("data", name, where, type=f"{thing.__module__}.{getattr(thing, '__qualname__', type(thing).__name__)}", **options)
    if inspect.isclass(thing):
        fields = [f.name for f in dataclasses.fields(thing)] if dataclasses.is_dataclass(thing) else []
        head = name + ("" if issubclass(thing, BaseException) else _signature(thing))
        said = _prose(thing, [*fields, *inspect.signature(thing).parameters]) if not issubclass(thing, BaseException) else _prose(thing)
        body = [said, where, *(_member(n, m) for n, m in _members(thing).items())]
        return _directive("exception" if issubclass(thing, BaseException) else "class", head, "\n\n".join(filter(None, body)), **options)
    if callable(thing):
        return _directive("function", name + _signature(thing), "\n\n".join(filter(None, [_prose(thing, inspect.signature(thing).parameters), where])), **options)
    return _directive("data", name, where, type=type(thing).__name__, **options)


def _page(room: ModuleType, level: str = "#") -> str:
    file = inspect.getsourcefile(room)
    text = [f"{level} {room.__name__}", _prose(room), f"Source: `{file[file.index(PACKAGE):]}`"]
    for name, thing in public(room).items():
        text.append(_page(thing, level + "#") if isinstance(thing, ModuleType) else _entry(name, thing, room.__name__))
    return "\n\n".join(filter(None, text)) + "\n"


def _index(found: dict[str, ModuleType]) -> str:
    names = [f"| {{py:obj}}`mct.{n} <{PACKAGE}.{r}.{n}>` | {_first(getattr(mctrace_nb, n))} |" for n, r in sorted(mctrace_nb._WHERE.items(), key=lambda x: x[0].lower())]
    pages = [f"| [`{room}`]({room}.md) | {_first(module)} |" for room, module in found.items()]
    return "\n".join(["# Reference", "", "Every public name, made from the docstrings. All have an example, which is tested. Examples begin with", "",
                      "```python", inspect.cleandoc(mctrace_nb.__doc__.split("\n\n", 1)[1].split("\n\nThe examples")[0]), "```", "", "`mct` gives:", "",
                      "| name | |", "|---|---|", *names, "", "## Rooms", "", "A room imports only from those on lower floors; the README draws them.", "",
                      "| room | |", "|---|---|", *pages, "", "```{toctree}", ":hidden:", "", *(f"{name} <{name}>" for name in found), "```", ""])


def reference() -> dict[str, str]:
    """The pages of the reference as Markdown, by name: `index`, and one for each room."""
    found = {name: import_module(f"{PACKAGE}.{name}") for name in rooms()}
    return {"index": _index(found), **{name: _page(room) for name, room in found.items()}}
