"""Finding the training function that a spec names, and saying what parameters it takes."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEFAULT_FUNCTION = "train"


class JobError(Exception):
    """The job cannot be used: the message says what was looked for, and where."""


def load_job(reference: str, root: Path) -> Callable[..., Any]:
    """The function named by `jobs.digits`, `package.module:function` or `jobs/digits.py:function`, from `root`.

    Raises JobError if it is not there; an error of the job's own code is raised as it is.
    """
    target, _, function = reference.partition(":")
    function = function or DEFAULT_FUNCTION
    if str(root) not in sys.path[:1]:
        sys.path.insert(0, str(root))
    module = _import_file(root / target) if target.endswith(".py") else _import_module(target, root)
    found = getattr(module, function, None)
    if found is None:
        names = [n for n, v in vars(module).items() if inspect.isfunction(v) and not n.startswith("_")]
        raise JobError(
            f"{target} has no function {function!r}; it has: {', '.join(sorted(names)) or 'no function at all'}"
        )
    if not callable(found):
        raise JobError(f"{target}: {function} is not a function but {type(found).__name__}")
    return found


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise JobError(f"no such file: {path.name} (looked for {path})")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise JobError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _import_module(name: str, root: Path) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise JobError(f"no module named {error.name!r} (looked in {root} and on the Python path)") from None
        raise


def describe(function: Callable[..., Any]) -> dict[str, Any]:
    """The parameters after `run`: `{"parameters": {name: {"required": bool}}, "takes_any": bool}`. Raises JobError."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise JobError(f"the parameters of {function!r} cannot be read: {error}") from None
    if not parameters or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    ):
        raise JobError(f"{getattr(function, '__name__', function)}: its first parameter must take the run")
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        "parameters": {p.name: {"required": p.default is p.empty} for p in parameters[1:] if p.kind in named},
        "takes_any": any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters),
    }


def user_place(error: BaseException, root: Path) -> str:
    """`FILE:LINE: ` of the deepest line of the user's own code in a traceback, where the mistake most likely is."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(root)]
    return f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""


def preload_lazy_imports() -> None:
    """Import once, now, what would be imported at first use in every child.

    The first optimizer of a process pulls in torch._dynamo (some 800 modules, most of a second), the first prediction
    numpy's zip writer. No tensor is computed with: that could start threads, which a fork does not copy.
    """
    if torch := sys.modules.get("torch"):
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    if "numpy" in sys.modules:
        from dlcluster.worker.predictions import npz_bytes

        npz_bytes([0, 1], [True, False], None)
