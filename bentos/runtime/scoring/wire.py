"""The wire: rows as they come in JSON, decoded and checked in one pass instead of one for each.

Only what is sure to be right is taken: what does not fit a service's row exactly is left to its pydantic model, which
refuses it in its own words.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache, reduce
from operator import or_
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import AwareDatetime, BaseModel, Strict
from pydantic.fields import FieldInfo

from bentos.runtime.scoring.manifest import Manifest

FEATURES = "features"
ENCODER = msgspec.json.Encoder()
BOUNDS = {Ge: "ge", Gt: "gt", Le: "le", Lt: "lt", MinLen: "min_length", MaxLen: "max_length"}


class Row(msgspec.Struct, gc=False):
    """A row that has its fields by name, as a mapping does."""

    def get(self, name: str, default: Any = None) -> Any:
        """A field's value."""
        return getattr(self, name, default)

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def __contains__(self, name: str) -> bool:
        return name in self.__struct_fields__


class Order(NamedTuple):
    """The features that releases expect, in order, and which of them are texts; none if releases differ."""

    names: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


def order(manifest: Manifest) -> Order:
    """What one release expects."""
    return Order(tuple(manifest.names), manifest.categorical)


class Values(msgspec.Struct, gc=False):
    """A row's features in their order, each a finite float, or a text where it is one, or None."""

    order: ClassVar[Order] = Order()


ANY = Order()


class Unfit(TypeError):
    """A model of rows has a field that cannot be decoded here as pydantic does it."""


class Wire:
    """Decodes the bodies of one route for releases that expect these features; any names if there are none.

    `single` allows for one row beside a list of rows. Unfit if the model asks for more than types and bounds.
    """

    def __init__(self, model: type[BaseModel], order: Order = ANY, *, single: bool = True) -> None:
        row: Any = _row_type(model, order)
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(row | list[row] if single else list[row])

    def decode(self, body: bytes) -> Any:
        """A Row or a list of them; None if the body is anything else."""
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None


def assembled(
    entity: str, keys: Sequence[Any], order: Order = ANY, values: Iterable[Sequence[Any]] | None = None
) -> list[Row]:
    """Rows from keys and, if there are values, the features of each in their order."""
    made = _bare_type(entity)
    if values is None:
        return list(map(made, keys))
    kind = values_type(order)
    return list(map(made, keys, [kind(*row) for row in values]))


def encoded(order: Order, columns: Sequence[Sequence[Any]]) -> list[bytes]:
    """The JSON object of each row's features from their columns in order; NaN becomes null."""
    return lines_of(list(map(values_type(order), *columns)))


def lines_of(values: Sequence[Values]) -> list[bytes]:
    """The JSON object of each row's features."""
    lines: list[bytes] = ENCODER.encode_lines(values).split(b"\n")
    return lines[:-1]


@cache
def values_type(order: Order) -> Any:
    """The Values of these features; Unfit if JSON keys cannot have one of their names."""
    fields = [(f"v{j}", (str if name in order.texts else float) | None) for j, name in enumerate(order.names)]
    rename = {f"v{j}": name for j, name in enumerate(order.names)}
    try:
        return msgspec.defstruct(
            "Values",
            fields,
            bases=(Values,),
            namespace={"order": order},
            rename=rename,
            forbid_unknown_fields=True,
            gc=False,
        )
    except ValueError as error:
        raise Unfit(str(error)) from error


@cache
def _bare_type(entity: str) -> Any:
    return msgspec.defstruct("Row", [(entity, Any), (FEATURES, Any, None)], bases=(Row,), gc=False)


def _row_type(model: type[BaseModel], order: Order) -> Any:
    decorators = model.__pydantic_decorators__
    if decorators.field_validators or decorators.model_validators or decorators.validators:
        raise Unfit(f"{model.__name__} has validators of its own")
    hints = get_type_hints(model, include_extras=True)
    fields: list[Any] = []
    for name, info in model.model_fields.items():
        if info.alias or info.default_factory or not (info.is_required() or info.default is None):
            raise Unfit(f"{model.__name__}.{name} has an alias or a default")
        kind = _kind(hints[name])
        if name == FEATURES and order.names:
            if order.texts and str not in _of_values(kind):
                raise Unfit(f"{model.__name__}.{FEATURES} takes no texts")
            kind = values_type(order) | None
        fields.append((name, kind) if info.is_required() else (name, kind, None))
    fields.sort(key=len)  # those without a default first
    return msgspec.defstruct("Row", fields, bases=(Row,), forbid_unknown_fields=True, gc=False)


def _kind(hint: Any) -> Any:
    """msgspec's type for pydantic's."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint in (int, float, str, NoneType):
        return hint
    if hint is AwareDatetime:
        return Annotated[datetime, msgspec.Meta(tz=True)]
    if origin is Annotated:
        return _bounded(parts[0], parts[1:])
    if origin in (Union, UnionType):
        return reduce(or_, map(_kind, parts))
    if origin is dict and parts[0] is str:
        return dict[str, _kind(parts[1])]  # type: ignore[misc]
    raise Unfit(f"{hint!r} has no counterpart")


def _of_values(kind: Any) -> tuple[Any, ...]:
    """The types of the values of an optional dict."""
    return next((get_args(get_args(part)[1]) for part in get_args(kind) if get_origin(part) is dict), ())


def _bounded(hint: Any, metadata: Sequence[Any]) -> Any:
    bounds: dict[str, Any] = {}
    for item in metadata:
        for bound in item.metadata if isinstance(item, FieldInfo) else [item]:
            if type(bound) in BOUNDS:
                name = BOUNDS[type(bound)]
                bounds[name] = getattr(bound, name)
            elif not isinstance(bound, Strict):
                raise Unfit(f"{bound!r} has no counterpart")
    kind = _kind(hint)
    return Annotated[kind, msgspec.Meta(**bounds)] if bounds else kind
