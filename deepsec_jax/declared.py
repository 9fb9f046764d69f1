"""Declarations of the source code, parsed without importing it.

``deepsec list`` needs only names, titles and references.  Importing the classes would import jax, which takes
seconds; parsing the files takes a fraction of a second.  Declarations are a class's ``card = Card(...)``, a
table's ``{"name": Class}``, and a module's ``COLUMNS = (Column(...), ...)``.  They must be literal;
``tests/test_declared.py`` compares all of them with the imported ones.
"""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from deepsec_jax.catalog import Card

_PACKAGE = "deepsec_jax"
_ROOT = Path(__file__).parent


class DeclarationError(ValueError):
    """A declaration that is not literal; one line with the place and the remedy."""


@dataclass(frozen=True)
class Definition:
    """A class, function or module of this package, as a syntax tree.

    Attributes:
        module: full name of its module.
        node: its syntax tree.
    """

    module: str
    node: ast.ClassDef | ast.FunctionDef | ast.Module

    @property
    def first_line(self) -> str:
        """The first line of its docstring."""
        return (ast.get_docstring(self.node) or "").partition("\n")[0]

    @property
    def card(self) -> Card:
        """The class's ``card``.

        Raises:
            DeclarationError: there is none, or a field is not literal.
        """
        try:
            return Card(**_fields(self.module, _value(self.node, "card")))
        except (DeclarationError, TypeError):
            name = getattr(self.node, "name", "")
            raise DeclarationError(
                f"{self.module}.{name}: write card = Card(...) in its body, with literal fields"
            ) from None


def table(module: str, name: str) -> dict[str, Definition]:
    """Return key -> definition of a module's dict literal of classes, functions or partials of them.

    Args:
        module: full name, such as ``deepsec_jax.attacks.table``.
        name: of the dict; it may include others as ``**OTHER``.

    Raises:
        DeclarationError: it is not a dict literal with literal keys.
    """
    found: dict[str, Definition] = {}
    value = _value(_parsed(module), name)
    if not isinstance(value, ast.Dict):
        raise DeclarationError(f'{module}.{name}: write {{"name": Class, ...}}')
    for key, entry in zip(value.keys, value.values, strict=True):
        if key is None and isinstance(entry, ast.Name):
            found |= table(module, entry.id)
        elif key is not None:
            found[str(_literal(module, key))] = _definition(module, entry)
    return found


def records(module: str, name: str) -> list[dict[str, Any]]:
    """Return the fields of every call in a module's tuple, such as ``COLUMNS = (Column(...), ...)``.

    A field with a value that is not literal, such as a function, is left out; literal defaults are included.

    Raises:
        DeclarationError: it is not a tuple of calls of a class of this package.
    """
    return [_fields(module, call) for call in _tuple(module, name)]


def modules(module: str, name: str) -> list[str]:
    """Return the full names of the modules in a tuple such as ``MODULES = (mr, acac)``."""
    return [_definition(module, entry).module for entry in _tuple(module, name)]


def given(module: str, name: str, word: str) -> dict[str, tuple[str, str]]:
    """Return key -> (module, name) of a keyword argument, for a dict of objects made by calls.

        {"attacks": ATTACKS} and ATTACKS = Study(..., options=Options)
        given(..., "STUDIES", "options") -> {"attacks": (module of Options, "Options")}

    Raises:
        DeclarationError: it is no such dict, or the argument is no name.
    """
    value = _value(_parsed(module), name)
    if not isinstance(value, ast.Dict):
        raise DeclarationError(f'{module}.{name}: write {{"name": OBJECT, ...}}')
    found = {}
    for key, entry in zip(value.keys, value.values, strict=True):
        if key is None or not isinstance(entry, ast.Name):
            raise DeclarationError(f"{module}.{name}: {ast.unparse(entry)} is no name")
        source, made = _origin(module, entry.id)
        call = _value(_parsed(source), made)
        words = {each.arg: each.value for each in call.keywords} if isinstance(call, ast.Call) else {}
        argument = words.get(word)
        if not isinstance(argument, ast.Name):
            raise DeclarationError(f"{source}.{made}: write it as a call with {word}=NAME")
        found[str(_literal(module, key))] = _origin(source, argument.id)
    return found


def literal(module: str, name: str) -> Any:
    """Return the literal value that a module assigns to a name."""
    return _literal(module, _value(_parsed(module), name))


def _tuple(module: str, name: str) -> list[ast.expr]:
    value = _value(_parsed(module), name)
    if not isinstance(value, ast.Tuple):
        raise DeclarationError(f"{module}.{name}: write a tuple, not an expression that makes one")
    return value.elts


def _literal(module: str, node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise DeclarationError(f"{module}: {ast.unparse(node)} is not literal") from None


@cache
def _parsed(module: str) -> ast.Module:
    place = _ROOT.joinpath(*module.split(".")[1:])
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return ast.parse(file.read_text("utf-8"))


def _value(node: ast.Module | ast.ClassDef | ast.FunctionDef, name: str) -> ast.expr:
    """Return the value that a body assigns to a name."""
    for statement in node.body:
        if name in _bound(statement):
            value = getattr(statement, "value", None)
            if isinstance(value, ast.expr):
                return value
    raise DeclarationError(f"{getattr(node, 'name', 'module')} assigns no {name}")


def _definition(module: str, node: ast.expr) -> Definition:
    """Return the definition of a name, or of a partial of a name, through imports within the package."""
    if isinstance(node, ast.Call) and node.args:  # partial(ResNet, depth=20)
        node = node.args[0]
    if not isinstance(node, ast.Name):
        raise DeclarationError(f"{module}: {ast.unparse(node)} is no name")
    return _named(module, node.id)


def _named(module: str, name: str) -> Definition:
    for statement in _parsed(module).body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef) and statement.name == name:
            return Definition(module, statement)
    source, imported = _source_of(module, name)
    place = _ROOT.joinpath(*source.split(".")[1:], imported)
    if place.is_dir() or place.with_suffix(".py").is_file():
        return Definition(f"{source}.{imported}", _parsed(f"{source}.{imported}"))
    return _named(source, imported)


def _origin(module: str, name: str) -> tuple[str, str]:
    """Return the module that defines or assigns a name, and its name there."""
    if any(name in _bound(statement) for statement in _parsed(module).body):
        return module, name
    return _origin(*_source_of(module, name))


def _bound(statement: ast.stmt) -> list[str]:
    """Return the names that a definition or an assignment binds."""
    if isinstance(statement, ast.ClassDef | ast.FunctionDef):
        return [statement.name]
    targets = (
        statement.targets if isinstance(statement, ast.Assign)
        else [statement.target] if isinstance(statement, ast.AnnAssign) else []
    )  # fmt: skip
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _source_of(module: str, name: str) -> tuple[str, str]:
    """Return the module that a name is imported from, and its name there."""
    for statement in _parsed(module).body:
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith(_PACKAGE):
            for alias in statement.names:
                if (alias.asname or alias.name) == name:
                    return str(statement.module), alias.name
    raise DeclarationError(f"{module} neither defines {name} nor imports it from {_PACKAGE}")


def _fields(module: str, call: ast.expr) -> dict[str, Any]:
    """Return field -> value of a call of a dataclass, including defaults, as far as they are literal."""
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
        raise DeclarationError(f"{module}: {ast.unparse(call)} is no call of a class")
    declared = _declared_fields(_named(module, call.func.id))
    given = dict(zip(declared, call.args, strict=False))
    given |= {str(word.arg): word.value for word in call.keywords}
    found = {}
    for name, default in declared.items():
        value = given.get(name, default)
        if value is not None:
            try:
                found[name] = ast.literal_eval(value)
            except ValueError:
                continue
    return found


def _declared_fields(definition: Definition) -> dict[str, ast.expr | None]:
    """Return field -> default of a dataclass, in order."""
    return {
        statement.target.id: statement.value
        for statement in definition.node.body
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and "ClassVar" not in ast.unparse(statement.annotation)
    }
