"""The registry of models: names to constructors, in timm's vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, TypeVar, overload

from torch import nn

from fastgan.checks import unknown

_Constructor = TypeVar("_Constructor", bound=Callable[..., nn.Module])

_MODELS: dict[str, Callable[..., nn.Module]] = {}


@overload
def register_model(constructor: _Constructor, /) -> _Constructor: ...
@overload
def register_model(constructor: str, /) -> Callable[[_Constructor], _Constructor]: ...
def register_model(constructor: Any, /) -> Any:
    """Register a module class, or a function that builds a module, under a name.

    ``@register_model`` takes the name from ``__name__``; ``@register_model("my_generator")`` gives
    it. Registering a second constructor under a name in use raises ValueError.
    """
    if isinstance(constructor, str):
        return lambda wrapped: _register(constructor, wrapped)
    return _register(constructor.__name__, constructor)


def _register(name: str, constructor: _Constructor) -> _Constructor:
    # A module that is imported again, as in a notebook's reload, replaces its own entry.
    old = _MODELS.get(name)
    if old is not None and _identity(old) != _identity(constructor):
        raise ValueError(f"a model named {name!r} is already registered: {old!r}")
    _MODELS[name] = constructor
    return constructor


def _identity(constructor: Callable[..., nn.Module]) -> tuple[str, str]:
    return constructor.__module__, constructor.__qualname__


def create_model(name: str, **kwargs: Any) -> nn.Module:
    """Build the registered model `name`; `kwargs` go to its constructor.

    Raises ValueError with suggestions for an unknown name; the constructor raises TypeError for
    arguments it does not know and ValueError for values it cannot build.
    """
    if name not in _MODELS:
        raise unknown("model", name, list_models())
    return _MODELS[name](**kwargs)


def list_models(filter: str = "") -> list[str]:
    """Sorted names of the registered models that match `filter`, a shell pattern ("dcgan_*").

    An empty filter matches all.
    """
    return sorted(name for name in _MODELS if not filter or fnmatchcase(name, filter))
