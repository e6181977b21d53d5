"""Loading and validation of YAML recipes, with one-line errors that name the path of a key."""

from __future__ import annotations

import copy
import difflib
import itertools
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from downscale.errors import InputError, OptionError, listing
from downscale.io.paths import regular_file

_SHOWN = reprlib.Repr()
_SHOWN.maxlevel, _SHOWN.maxstring, _SHOWN.maxother = 2, 100, 100

# Limits of hand-written recipes: larger files, deeper nesting or more values are refused.
MOST_BYTES, DEEPEST, MOST_VALUES = 1_000_000, 50, 100_000

BlockT = TypeVar("BlockT", bound="Block")


class Block(BaseModel):
    """A section of a recipe: unknown keys are refused, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class _Loader(yaml.SafeLoader):
    """Safe YAML with unique keys; the library itself would take the last of two equal keys.

    Aliases that expand too far are refused: ten lines could stand for a billion values.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return a node, or raise an error if nodes are nested too deeply or expand too far."""
        self._depth += 1
        alias = self.check_event(yaml.AliasEvent)
        if self._depth > DEEPEST:
            raise yaml.YAMLError(f"more than {DEEPEST} levels of nesting")
        try:
            node = super().compose_node(parent, index)
        finally:
            self._depth -= 1
        if id(node) not in self._sizes:
            if alias:
                raise yaml.YAMLError("an alias inside the value that it names")
            # The items of a mapping are pairs of a key and a value.
            children = node.value if isinstance(node, yaml.SequenceNode) else ()
            children = itertools.chain(*node.value) if isinstance(node, yaml.MappingNode) else children
            self._sizes[id(node)] = 1 + sum(self._sizes.get(id(child), 1) for child in children)
        if self._sizes[id(node)] > MOST_VALUES:
            raise yaml.YAMLError(f"aliases that expand to more than {MOST_VALUES} values")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping, or raise an error if a key occurs twice."""
        line_by_key: dict[Any, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                line = key.start_mark.line + 1
                if key.value in line_by_key:
                    raise yaml.YAMLError(f"key {key.value!r} in line {line_by_key[key.value]} again in line {line}")
                line_by_key[key.value] = line
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the keys and values of a YAML file; no code in it is executed. Raises an InputError if there are none."""
    file = regular_file(path, "recipe")
    if not file.is_file():
        raise InputError(f"expected an existing recipe file, received {file}; check the path")
    try:
        size = file.stat().st_size
        if size > MOST_BYTES:
            raise InputError(f"expected a recipe of at most {MOST_BYTES:,} bytes, received {file} of {size:,} bytes")
        content = _Loader(file.read_text(encoding="utf-8")).get_single_data()
    except PermissionError:
        raise InputError(f"expected a readable recipe, received {file} without permission; see ls -l") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        # Invalid dates and unhashable keys raise various Python errors.
        if isinstance(error, InputError):
            raise
        raise InputError(f"expected a YAML recipe, received {file} ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise InputError(f"expected a recipe of keys and values, received {type(content).__name__} in {file}")
    return content


def apply_changes(content: dict[str, Any], change: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Return the content of a recipe with values replaced by the path of their key; None removes a key.

    Items of lists are named by their number; raises an OptionError if a path passes through a value without keys.

    Examples
    --------
    >>> apply_changes({"network": {"name": "unet"}, "outputs": [{"name": "pr"}]}, {"outputs.0.name": "tas"}, "r.yml")
    {'network': {'name': 'unet'}, 'outputs': [{'name': 'tas'}]}
    """
    recipe = copy.deepcopy(content)
    for path, value in change.items():
        *parents, last = path.split(".")
        node: Any = recipe
        for part in parents:
            node = _get_item(node, part, path, origin)
        if isinstance(node, list):
            _get_item(node, last, path, origin)
            node[int(last)] = value
        elif isinstance(node, dict):
            node[last] = value
            if value is None:
                del node[last]
        else:
            raise _path_error(path, last, origin)
    return recipe


def _get_item(parent: Any, part: str, path: str, origin: str) -> Any:
    """Return the value of a key or number; missing keys are created."""
    if isinstance(parent, dict):
        return parent.setdefault(part, {})
    if isinstance(parent, list) and part.isdigit() and int(part) < len(parent):
        return parent[int(part)]
    raise _path_error(path, part, origin)


def _path_error(path: str, part: str, origin: str) -> OptionError:
    return OptionError(f"{origin}: expected the path of a key to change, received {path!r}: nothing at {part!r}")


def read_recipe(
    kind: type[BlockT], source: str | Path | Mapping[str, Any] | BlockT, change: Mapping[str, Any] | None = None
) -> BlockT:
    """Return a recipe from a YAML file, its content or a recipe, with values changed by the path of their key.

    Raises an InputError if the file is missing or not YAML, and an OptionError that names the path of a faulty key.
    """
    if isinstance(source, kind) and not change:
        return source
    if isinstance(source, str | Path):
        origin, content = str(Path(source).expanduser()), read_yaml(source)
    elif isinstance(source, Mapping):
        origin, content = "recipe", dict(source)
    elif isinstance(source, kind):
        origin, content = "recipe", source.model_dump(mode="json", by_alias=True, exclude_unset=True)
    else:
        raise InputError(f"expected a recipe: a YAML file or its content, received {type(source).__name__}")
    return validate_block(kind, apply_changes(content, change or {}, origin), origin)


def validate_block(kind: type[BlockT], content: dict[str, Any], origin: str) -> BlockT:
    """Return a block from plain values; raises an OptionError with one line about the first fault.

    Examples
    --------
    >>> class Sizes(Block):
    ...     patch: int = 16
    >>> validate_block(Sizes, {"pach": 8}, "r.yml")
    Traceback (most recent call last):
    downscale.errors.OptionError: r.yml: expected a key among 'patch', received 'pach'; did you mean 'patch'?
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        # A fault of a key is more specific than the alternative that a section may be another kind of value.
        first = min(error.errors(), key=lambda fault: (fault["type"] != "extra_forbidden", -len(fault["loc"])))
        raise OptionError(f"{origin}: {_reason(kind, first)}") from None


def _reason(kind: type[Block], fault: Any) -> str:
    loc = tuple(part for part in fault["loc"] if not _is_tag(kind, part))
    place = ".".join(str(part) for part in loc)
    if fault["type"] == "extra_forbidden":
        legal = _legal_keys(kind, loc[:-1])
        matches = difflib.get_close_matches(str(loc[-1]), legal, n=1)
        hint = f"; did you mean {matches[0]!r}?" if matches else ""
        return f"expected a key among {listing(legal)}, received {place!r}{hint}"
    if fault["type"] == "missing":
        return f"expected the key {place!r}, received none; add it"
    expected = fault["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if fault["type"] == "model_type":
        expected = f"the keys {listing(_legal_keys(kind, loc))}"
    return f"key {place!r}: expected {expected}, received {_SHOWN.repr(fault['input'])}"


def _is_tag(kind: type[Block], part: object) -> bool:
    """Return whether part of a path is pydantic's name of a member of a union, which no user wrote."""
    if not isinstance(part, str):
        return False
    is_scalar_tag = part in {"str", "int", "float", "bool", "none"} or part.startswith("constrained-")
    return is_scalar_tag or "[" in part or part in _names_of_blocks(kind)


def _names_of_blocks(kind: type[Block]) -> set[str]:
    names = {kind.__name__}
    for field in kind.model_fields.values():
        for block in _blocks_in(field.annotation):
            names |= _names_of_blocks(block)
    return names


def _legal_keys(kind: type[Block], place: tuple[Any, ...]) -> list[str]:
    """Return the legal keys of the section at ``place``."""
    block = kind
    for part in place:
        fields = {(field.alias or name): field for name, field in block.model_fields.items()}
        if part in fields:
            block = next(iter(_blocks_in(fields[part].annotation)), block)
    return [field.alias or name for name, field in block.model_fields.items()]


def _blocks_in(annotation: Any) -> list[type[Block]]:
    """Return the section classes in an annotation, including those in lists and unions."""
    if isinstance(annotation, type) and issubclass(annotation, Block):
        return [annotation]
    return [block for part in get_args(annotation) for block in _blocks_in(part)]
