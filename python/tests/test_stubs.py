"""The stubs say what the module has: the same names, the same parameters, the same defaults."""

import ast
import inspect
from pathlib import Path

import twinsan
from twinsan import _twinsan

STUBS = ast.parse((Path(twinsan.__file__).parent / "_twinsan.pyi").read_text())


def classes_of_stubs():
    return {node.name: node for node in STUBS.body if isinstance(node, ast.ClassDef)}


def is_property(function):
    return any(isinstance(decorator, ast.Name) and decorator.id == "property" for decorator in function.decorator_list)


def is_static(function):
    return any(isinstance(decorator, ast.Name) and decorator.id == "staticmethod" for decorator in function.decorator_list)


def parameters_of_stub(function):
    """(name, kind, default) of each parameter but `self` and `cls`."""
    arguments = function.args
    plain = arguments.posonlyargs + arguments.args
    defaults = [None] * (len(plain) - len(arguments.defaults)) + arguments.defaults
    found = [(a.arg, "plain", d) for a, d in zip(plain, defaults)]
    found += [(a.arg, "keyword", d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults)]
    return [(name, kind, default and ast.literal_eval(default)) for name, kind, default in found if name not in ("self", "cls")]


def parameters_of_module(function):
    found = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        kind = "keyword" if parameter.kind is parameter.KEYWORD_ONLY else "plain"
        default = None if parameter.default is parameter.empty else parameter.default
        found.append((parameter.name, kind, default))
    return found


def test_the_names_are_the_same():
    in_module = {name for name in vars(_twinsan) if not name.startswith("_")}
    assert set(classes_of_stubs()) == in_module
    assert set(twinsan.__all__) == in_module | {"__version__"}


def test_the_classes_have_the_same_bases():
    for name, stub in classes_of_stubs().items():
        bases = [base.id for base in stub.bases] or ["object"]
        assert [base.__name__ for base in getattr(_twinsan, name).__bases__] == bases, name


def test_the_members_have_the_same_parameters():
    for name, stub in classes_of_stubs().items():
        real = getattr(_twinsan, name)
        functions = {node.name: node for node in stub.body if isinstance(node, ast.FunctionDef)}
        public = {member for member in vars(real) if not member.startswith("_")}
        assert {member for member in functions if not member.startswith("_")} == public, name
        for member, function in functions.items():
            where = f"{name}.{member}"
            if member == "__new__":
                assert parameters_of_module(real) == parameters_of_stub(function), where
            elif is_property(function):
                assert inspect.isgetsetdescriptor(vars(real)[member]), where
            else:
                assert isinstance(vars(real)[member], staticmethod) == is_static(function), where
                assert parameters_of_module(getattr(real, member)) == parameters_of_stub(function), where


def test_the_package_says_that_it_is_typed():
    assert (Path(twinsan.__file__).parent / "py.typed").exists()
