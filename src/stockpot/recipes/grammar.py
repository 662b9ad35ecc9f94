"""Text to expressions: a small part of Python's grammar, read by its own parser.

The text is untrusted. Python's parser would read it too, but its answer to deep nesting, to long
sums and to huge numbers depends on its version and stack, and it hands decimals over as binary
floats. This parser walks the text once, loops over chains of operators, recurses only into
brackets and signs (at most `MAX_DEPTH`), and stops at the first thing it does not allow.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NoReturn

from .errors import one_problem
from .expressions import Call, Expr, Items, Name, Number, Text, is_bare, operate
from .functions import OPERATORS
from .numbers import parse_decimal
from .printing import MAX_CHARS, MAX_DEPTH

__all__ = ["MAX_NODES", "parse_counted", "parse_expression"]

#: Most names, numbers, calls and operators in one expression.
MAX_NODES = 20_000

_BINARY = {sign: (name, bind) for name, (sign, n, bind) in OPERATORS.items() if n == 2}
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
      | (?P<name>[^\W\d]\w*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<sign>\*\*|//|<<|>>|[<>=!:]=|.)
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_PLAIN_ESCAPES = {"\\": "\\", '"': '"', "'": "'", "n": "\n", "t": "\t"}
_REFUSED = {
    "**": ("powers are not allowed", "write the number that it gives"),
    "//": ("`//` is not allowed", "write `/`"),
    "%": ("`%` is not allowed", "write 0.3 for 30 %"),
    ".": ("attributes are not allowed", "write names, numbers and calls only"),
    "[": ("subscripts are not allowed", "write names, numbers and calls only"),
    "=": ("`=` may only name an option of a call", "name intermediates with `let`"),
}
_WORDS = frozenset("and as else for if in is lambda not or await yield async from import".split())


def parse_expression(text: str) -> Expr:
    """Read an expression.

    Args:
        text: Names, string literals, decimal numbers, ``+ - * / | &``, brackets and calls, with
            Python's precedence. A string literal is the name of a model, save where a function
            takes a text.

    Raises:
        RecipeError: The text is no such expression, or breaks a limit; says where and what to do.

    Example:
        >>> parse_expression("a + 1/2 * (b - c)")
        <a + 0.5*(b - c)>
    """
    return parse_counted(text)[0]


def parse_counted(text: str, limit: int = MAX_NODES) -> tuple[Expr, int]:
    """Read an expression as `parse_expression` does, and count its parts.

    Args:
        text: The expression.
        limit: Most parts that it may have; at most `MAX_NODES` count.

    Raises:
        RecipeError: As `parse_expression`.

    Example:
        >>> parse_counted("a + b")
        (<a + b>, 3)
    """
    if len(text) > MAX_CHARS:
        raise one_problem(
            "too-long", f"an expression may have {MAX_CHARS} characters, but this has {len(text)}",
            remedy="give its parts names with `let`",
        )  # fmt: skip
    parser = _Parser(text, min(limit, MAX_NODES))
    expression = parser.expression(0)
    if parser.kind:
        parser.refuse_follower()
    if isinstance(expression, Text):
        if not expression.value:
            parser.fail("empty-name", "the name of a model cannot be empty", at=0)
        expression = Name(expression.value)
    return expression, parser.nodes


class _Parser:
    """One token of look-ahead over a text."""

    def __init__(self, text: str, limit: int) -> None:
        self.text, self.end, self.limit = text.rstrip(), 0, limit
        self.depth = self.nodes = 0
        self.advance()

    def advance(self) -> None:
        match = _TOKEN.match(self.text, self.end)
        if match is None:
            self.kind, self.token, self.start = "", "", len(self.text)
            return
        self.kind = str(match.lastgroup)
        self.token, self.start, self.end = match[self.kind], match.start(self.kind), match.end()

    def fail(self, code: str, message: str, remedy: str = "", at: int | None = None) -> NoReturn:
        column = (self.start if at is None else at) + 1
        raise one_problem(code, message, f"column {column}", remedy)

    def refuse_follower(self) -> NoReturn:
        """Say why the token at hand cannot follow a complete expression."""
        if self.token in _REFUSED:
            self.fail("not-allowed", *_REFUSED[self.token])
        if self.token == "(":
            self.fail("not-allowed", "only a function's plain name can be called",
                      "write an operator before the bracket, such as 0.5*(a + b)")  # fmt: skip
        if self.token in _WORDS:
            self.fail("not-allowed", f"`{self.token}` is not allowed",
                      "write arithmetic and calls only")  # fmt: skip
        if self.token in ")]}":
            self.fail("syntax", f"`{self.token}` closes nothing", "remove it")
        if self.kind in ("name", "number", "string"):
            self.fail("syntax", f"an operator is missing before `{self.token[:40]}`",
                      "put a name that has spaces or signs in quotes")  # fmt: skip
        self.fail("syntax", f"`{self.token}` cannot stand here")

    def expression(self, binding: int) -> Expr:
        """Read operands joined by operators that bind at least so tightly."""
        left = self.operand()
        while self.kind == "sign" and self.token in _BINARY:
            function, own = _BINARY[self.token]
            if own < binding:
                break
            at = self.start
            self.advance()
            right = self.expression(own + 1)
            self.count()
            left = self.operate(at, function, left, right)
        return left

    def operate(self, at: int, function: str, *operands: Expr) -> Expr:
        if any(isinstance(operand, Text) and not operand.value for operand in operands):
            self.fail("empty-name", "the name of a model cannot be empty", at=at)
        try:
            return operate(function, *operands)
        except ValueError as error:
            self.fail("number", str(error), at=at)

    def operand(self) -> Expr:
        """Read a sign and its operand, or a single name, number, text, list, call or bracket."""
        self.count()
        at, kind, token = self.start, self.kind, self.token
        if not kind:
            self.fail("syntax", "the expression ends where a name or a number is needed")
        if token in ("-", "+") and kind == "sign":
            self.enter()
            self.advance()
            value = self.operand()
            self.depth -= 1
            return self.operate(at, "negate", value) if token == "-" else value
        if kind == "sign":
            if token in ("(", "[", "{"):
                return self.bracket()
            if token in _REFUSED and token != "[":
                self.fail("not-allowed", *_REFUSED[token])
            if token in ("'", '"'):
                self.fail("syntax", "a quote is not closed", f"close it with {token}")
            self.fail("syntax", f"a name or a number is needed, but got `{token}`")
        self.advance()
        if kind == "number":
            try:
                return Number(parse_decimal(token))
            except ValueError as error:
                self.fail("number", str(error), "write a shorter number", at=at)
        if kind == "string":
            return Text(self.unescape(token, at))
        name = unicodedata.normalize("NFKC", token)
        if not is_bare(name):
            self.fail("not-allowed", f"`{token[:40]}` is no name that may stand bare",
                      "if it is a model, put it in quotes", at=at)  # fmt: skip
        return self.call(name, at) if self.token == "(" and self.kind == "sign" else Name(name)

    def call(self, function: str, at: int) -> Expr:
        if function in OPERATORS:
            sign = OPERATORS[function][0]
            self.fail("not-allowed", f"`{function}` is an operator", f"write `{sign}`", at=at)
        self.enter()
        self.advance()
        args: list[Expr] = []
        options: dict[str, Expr] = {}
        while not self.closes(")"):
            start, value = self.start, self.expression(0)
            if self.token == "=" and self.kind == "sign" and isinstance(value, Name):
                if value.name in options or not is_bare(value.name):
                    self.fail("repeated", f"the option `{value.name}` comes twice", at=start)
                self.advance()
                options[value.name] = self.expression(0)
            elif options:
                self.fail("syntax", "an argument without a name stands after one with a name",
                          "put named ones last", at=start)  # fmt: skip
            else:
                args.append(value)
            self.separate(")")
        self.leave()
        try:
            return Call(function, tuple(args), tuple(options.items()))
        except ValueError as error:
            self.fail("syntax", str(error), at=at)

    def bracket(self) -> Expr:
        """Read `(…)`, or a list in any of Python's three brackets."""
        at, opening = self.start, self.token
        closing = {"(": ")", "[": "]", "{": "}"}[opening]
        self.enter()
        self.advance()
        items: list[Expr] = []
        comma = False
        while not self.closes(closing):
            items.append(self.expression(0))
            comma = self.separate(closing) or comma
        self.leave()
        if opening == "(" and len(items) == 1 and not comma:
            return items[0]
        if any(isinstance(item, Text) and not item.value for item in items):
            self.fail("empty-name", "the name of a model cannot be empty", at=at)
        if opening == "{" and len(set(items)) < len(items):
            self.fail("repeated", "a set names each of its members once", "remove the repetition "
                      "or write a list in [ ]", at=at)  # fmt: skip
        return Items(tuple(items))

    def closes(self, closing: str) -> bool:
        if not self.kind:
            self.fail("syntax", f"`{closing}` is missing", "close the bracket")
        return self.kind == "sign" and self.token == closing

    def separate(self, closing: str) -> bool:
        """Step over a comma; anything else must be the closing bracket."""
        if self.kind == "sign" and self.token == ",":
            self.advance()
            return True
        if not self.closes(closing):
            self.refuse_follower()
        return False

    def leave(self) -> None:
        self.depth -= 1
        self.advance()

    def enter(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail("too-deep", f"an expression may nest {MAX_DEPTH} deep, but this nests deeper",
                      "give its parts names with `let`")  # fmt: skip

    def count(self) -> None:
        self.nodes += 1
        if self.nodes > self.limit:
            self.fail("too-many", f"an expression may have {self.limit} parts, but this has more",
                      "give its parts names with `let`, or average a set: mean(pool)")  # fmt: skip

    def unescape(self, token: str, at: int) -> str:
        def plain(match: re.Match[str]) -> str:
            code = match[1] or match[2] or match[3]
            if code is None:
                known = _PLAIN_ESCAPES.get(match[4])
            else:
                known = chr(number) if (number := int(code, 16)) < 0x110000 else None
            if known is None or "\ud800" <= known <= "\udfff":
                self.fail("syntax", f"`{match[0]}` is no character",
                          "write \\\\ for a backslash", at=at)  # fmt: skip
            return known

        return _ESCAPE.sub(plain, token[1:-1])
