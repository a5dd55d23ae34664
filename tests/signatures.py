"""Binds the calls of a source file to the real signatures of a library, without running them.

A name is followed from its import, its one assignment or its annotation; what cannot be followed is not judged.
"""

import ast
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any

UNKNOWN = object()


@dataclass(frozen=True)
class Instance:
    """Some object of a class."""

    of: type


@dataclass
class Calls(ast.NodeVisitor):
    """Calls of a file into `modules` (names of packages): `fitting` as line and function, `faults` with what is wrong.

    known: what names stand for that nothing in the file tells. returns: what functions make, by their text or name.
    forwards: functions that hand all they are given to another one.
    """

    modules: tuple[str, ...]
    known: Mapping[str, Any]
    returns: Mapping[str, Any]
    forwards: Mapping[Any, Callable[..., Any]]
    fitting: list[tuple[int, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    scopes: list[dict[str, Any]] = field(default_factory=lambda: [{}])

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            first = alias.name.split(".")[0]
            self._import(alias.asname or first, alias.name if alias.asname else first)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self._import(alias.asname or alias.name, f"{node.module}.{alias.name}")

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        self.scopes.append({argument.arg: self._annotated(argument) for argument in arguments})
        self.generic_visit(node)
        self.scopes.pop()

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for one, value in zip(target.elts, node.value.elts, strict=False):
                    self._bind(one, self._resolve(value))
            else:
                self._bind(target, self._resolve(node.value))

    def visit_withitem(self, node: ast.withitem) -> None:
        self.generic_visit(node)
        if node.optional_vars is not None:
            self._bind(node.optional_vars, self._resolve(node.context_expr))

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        function, name = self._resolve(node.func), ast.unparse(node.func)
        if function is UNKNOWN or not self._is_judged(function):
            return
        is_method = isinstance(node.func, ast.Attribute) and isinstance(self._resolve(node.func.value), Instance)
        wrong = misfit(self.forwards.get(function, function), node, is_method=is_method)
        if wrong is None:
            self.fitting.append((node.lineno, getattr(function, "__qualname__", name)))
        else:
            self.faults.append(f"line {node.lineno}: {name}: {wrong}")

    def _import(self, name: str, path: str) -> None:
        if path.split(".")[0] in {module.split(".")[0] for module in self.modules}:
            self.scopes[-1][name] = imported(path)

    def _bind(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Tuple):
            for element in target.elts:
                self._bind(element, value if isinstance(value, Instance) else UNKNOWN)
        elif isinstance(target, ast.Name):
            self.scopes[-1][target.id] = value

    def _annotated(self, argument: ast.arg) -> Any:
        annotation = UNKNOWN if argument.annotation is None else self._resolve(argument.annotation)
        return Instance(annotation) if isinstance(annotation, type) else self.known.get(argument.arg, UNKNOWN)

    def _is_judged(self, function: Any) -> bool:
        module = getattr(function, "__module__", None) or ""
        return any(module == name or module.startswith(f"{name}.") for name in self.modules)

    def _resolve(self, node: ast.expr) -> Any:
        """The object that an expression stands for, an Instance, or UNKNOWN."""
        if isinstance(node, ast.Name):
            return next((scope[node.id] for scope in reversed(self.scopes) if node.id in scope), UNKNOWN)
        if isinstance(node, ast.IfExp):
            chosen = [self._resolve(node.body), self._resolve(node.orelse)]
            return next((one for one in chosen if one is not UNKNOWN), UNKNOWN)
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        if isinstance(node, ast.Call):
            return self._made_by(node)
        return UNKNOWN

    def _attribute(self, node: ast.Attribute) -> Any:
        owner = self._resolve(node.value)
        if not isinstance(owner, ModuleType | type | Instance):
            return UNKNOWN
        owner = owner.of if isinstance(owner, Instance) else owner
        found = getattr(owner, node.attr, UNKNOWN)
        is_submodule = isinstance(owner, ModuleType) and found is UNKNOWN
        found = imported(f"{owner.__name__}.{node.attr}") if is_submodule else found
        if found is UNKNOWN and self._is_judged(owner if isinstance(owner, type) else _Named(owner.__name__)):
            self.faults.append(f"line {node.lineno}: {ast.unparse(node)} does not exist")
        return found

    def _made_by(self, node: ast.Call) -> Any:
        text = ast.unparse(node.func)
        if text in self.returns:
            return self.returns[text]
        function = self._resolve(node.func)
        if isinstance(function, type):
            return Instance(function)
        made = (
            self.returns.get(getattr(function, "__name__", ""), inspect.get_annotations(function).get("return"))
            if (callable(function))
            else UNKNOWN
        )
        return Instance(made) if isinstance(made, type) else made if isinstance(made, Instance) else UNKNOWN


@dataclass(frozen=True)
class _Named:
    __module__: str


def imported(path: str) -> Any:
    """The module or the member of a module of this name; UNKNOWN if there is none."""
    try:
        return import_module(path)
    except ImportError:
        owner, _, name = path.rpartition(".")
        return getattr(imported(owner), name, UNKNOWN) if owner else UNKNOWN


def misfit(function: Callable[..., Any], call: ast.Call, *, is_method: bool) -> str | None:
    """What is wrong with the arguments of a call; None if nothing is, or if the function tells nobody its signature.

    A keyword that only a function's `**` would take is wrong: it is misspelled, or meant for a positional parameter.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:
        return None
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    named = {
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    keywords = list(_keywords(call))
    if None in keywords and inspect.Parameter.VAR_KEYWORD in kinds:
        return "nobody can see which keywords its ** holds, and it takes any"
    unknown = [name for name in keywords if name is not None and name not in named]
    if unknown:
        return f"it has no parameter that takes the keyword {unknown[0]}"
    is_open = None in keywords or any(isinstance(argument, ast.Starred) for argument in call.args)
    positional = [None] * (is_method + sum(not isinstance(argument, ast.Starred) for argument in call.args))
    try:
        bind = signature.bind_partial if is_open else signature.bind
        bind(*positional, **dict.fromkeys(filter(None, keywords)))
    except TypeError as error:
        return str(error)
    return None


def _keywords(call: ast.Call) -> Iterator[str | None]:
    """Names of keywords; None for those that cannot be seen."""
    for keyword in call.keywords:
        if keyword.arg is not None:
            yield keyword.arg
        elif isinstance(keyword.value, ast.Dict):
            yield from (key.value if isinstance(key, ast.Constant) else None for key in keyword.value.keys)
        else:
            yield None
