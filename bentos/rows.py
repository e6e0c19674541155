"""Bodies of requests and answers: one row or many in, the same shape out."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, Discriminator, Field, RootModel, Tag, ValidationError, WrapValidator

from bentos.runtime.answers import RowError
from bentos.runtime.scoring.inputs import MAX_ROWS

MAX_VALUES = 10_000  # of one row
TOO_WIDE = f"A row has at most {MAX_VALUES:,} values"


class Rows(RootModel[Any]):
    """A request's body: one row, or a list of rows."""

    __root_input__: ClassVar[bool] = True  # how BentoML marks that the body itself is the value
    row: ClassVar[type[BaseModel]]
    takes_one: ClassVar[bool]  # row, not only a list of them
    example: ClassVar[dict[str, Any]]

    @property
    def single(self) -> bool:
        """Whether the body is one row, not a list."""
        return not isinstance(self.root, list)


def one_or_many(row: type[BaseModel], *, example: dict[str, Any]) -> type[Rows]:
    """The body model for rows of one kind. A malformed row of a list becomes its own error, a single one a 400."""
    many = Annotated[list[Annotated[row, WrapValidator(_set_aside)]], Field(max_length=MAX_ROWS), Tag("rows")]  # type: ignore[valid-type]
    body: Any = Annotated[
        Annotated[row, Tag("row")] | many,  # type: ignore[valid-type]
        Discriminator(_kind, custom_error_type="too_wide", custom_error_message=TOO_WIDE),
        Field(json_schema_extra={"example": example}),
    ]
    return _rows(f"{row.__name__}s", row, body, takes_one=True, example=example)


def many(row: type[BaseModel], *, example: dict[str, Any]) -> type[Rows]:
    """The body model for a list of rows of one kind; a malformed row becomes its own error."""
    rows: Any = list[Annotated[row, WrapValidator(_set_aside)]]  # type: ignore[valid-type]
    schema = {"example": [example]}
    return _rows(
        f"{row.__name__}List",
        row,
        Annotated[rows, Field(max_length=MAX_ROWS, json_schema_extra=schema)],
        takes_one=False,
        example=example,
    )


def _rows(name: str, row: type[BaseModel], body: Any, *, takes_one: bool, example: dict[str, Any]) -> type[Rows]:
    return type(
        name,
        (Rows,),
        {
            "__annotations__": {"root": body},
            "__module__": row.__module__,
            "__doc__": Rows.__doc__,
            "row": row,
            "takes_one": takes_one,
            "example": example,
        },
    )


def one_or_many_answers(answer: type[BaseModel]) -> type[RootModel[Any]]:
    """The response model that documents answers; replies are encoded directly."""
    body = Annotated[
        Annotated[answer, Tag("row")] | Annotated[list[answer], Tag("rows")],  # type: ignore[valid-type]
        Discriminator(lambda value: "rows" if isinstance(value, list) else "row"),
    ]
    return type(
        f"{answer.__name__}s",
        (RootModel,),
        {
            "__annotations__": {"root": body},
            "__module__": answer.__module__,
            "__doc__": "One answer, or a list in the order of the rows.",
        },
    )


def _kind(value: Any) -> str | None:
    """Whether a body is a list of rows or one; neither if the one has absurdly many values."""
    return "rows" if isinstance(value, list) else None if _too_wide(value) else "row"


def _too_wide(value: Any) -> bool:
    """Whether a row has more values than any model: each wrong one would be an error of its own in the reply."""
    if not isinstance(value, dict):
        return False
    return len(value) + sum(len(part) for part in value.values() if isinstance(part, dict | list)) > MAX_VALUES


def _set_aside(value: Any, handler: Callable[[Any], BaseModel]) -> BaseModel | RowError:
    if _too_wide(value):
        return RowError(400, TOO_WIDE)
    try:
        return handler(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        return RowError(400, f"{field or 'row'}: {first['msg']}", {"field": field} if field else {})
