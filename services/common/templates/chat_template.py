"""Chat templates, rendered as transformers renders them (5.23, utils/chat_template_utils.py)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

import jinja2.exceptions
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.utils
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_TEXT = 4 * 1024**2
"""Characters that a conversation may become: some times what a request can hold."""

Message = Mapping[str, str]
"""A turn by the names that templates use: role, content, name."""


class ChatTemplateError(Exception):
    """The template refuses the conversation; the message is the template's own words, or what is amiss."""


class ChatTemplate:
    """A compiled template.

    Jinja's sandbox keeps what a template does inside the template; how long it takes and how much memory, it does not.
    One that the operator has not chosen is rendered in a process of its own: `template_sandbox`.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Raises ChatTemplateError for what is no template."""
        environment = _environment()
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ChatTemplateError(f"line {error.lineno}: {error.message}") from error
        except RecursionError as error:
            raise ChatTemplateError("it is nested too deeply") from error
        except ValueError as error:  # a number of thousands of digits
            raise ChatTemplateError(str(error)) from error
        self._special_tokens = dict(special_tokens)

    def render(self, messages: Sequence[Message]) -> str:
        """The conversation as text that ends where the assistant's answer begins. Raises ChatTemplateError."""
        pieces, size = [], 0
        try:
            for piece in self._template.generate(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self._special_tokens,
            ):
                size += len(piece)
                if size > MAX_TEXT:
                    raise ChatTemplateError(f"the conversation becomes more than {MAX_TEXT} characters")
                pieces.append(piece)
            text = "".join(pieces)
            text.encode()
        except jinja2.TemplateError as error:
            raise ChatTemplateError(error.message or type(error).__name__) from error
        except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            # Expressions of the template itself: an unknown role as a key, a slice of the wrong thing.
            raise ChatTemplateError(f"{type(error).__name__} in the template") from error
        return text


@dataclass(frozen=True)
class TemplateWords:
    """What a template says, as far as it can be seen without rendering it."""

    names: frozenset[str]
    """The variables that it looks up."""
    text: str
    """All its literal text, pieces apart by a NUL."""


def words_of(source: str) -> TemplateWords:
    """Raises ChatTemplateError for what is no template."""
    try:
        tree = _environment().parse(source)
        names = frozenset(jinja2.meta.find_undeclared_variables(tree))
    except jinja2.TemplateSyntaxError as error:
        raise ChatTemplateError(f"line {error.lineno}: {error.message}") from error
    except RecursionError as error:
        raise ChatTemplateError("it is nested too deeply") from error
    texts = [data.data for data in tree.find_all(jinja2.nodes.TemplateData)]
    texts += [one.value for one in tree.find_all(jinja2.nodes.Const) if isinstance(one.value, str)]
    return TemplateWords(names, "\0".join(texts))


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's text for training; here it only renders its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja declares it as an instance's

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        line = next(parser.stream).lineno
        # What is set in it stays in it, as in transformers' block.
        return [
            jinja2.nodes.Scope(
                parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line
            )
        ]


class _Namespace(jinja2.utils.Namespace):
    """Refuses names that would reach into Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        # Any: whatever values the template sets.
        namespace, rest = args[0], args[1:]
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _check_name(name)
        jinja2.utils.Namespace.__init__(namespace, attributes)

    def __setitem__(self, name: str, value: Any) -> None:  # Any: as above
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a template cannot set {name!r} on a namespace")


class _Dict:
    """`dict` without its attributes."""

    # Any: whatever values the template passes.
    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(
        raise_exception=_raise_exception,
        strftime_now=_strftime_now,
        dict=_Dict(),
        namespace=_Namespace,
    )
    return environment


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


# Any: json.dumps' own arguments. Jinja's filter would escape HTML characters.
def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)  # noqa: DTZ005 - local time, as the templates expect
