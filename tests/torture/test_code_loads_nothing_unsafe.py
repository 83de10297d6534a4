"""No load path runs what it reads: pickles, unsafe YAML, evaluated text, shells, HTML that is not escaped."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("dxmc_core/**/*.py"), *ROOT.glob("ray_jobs/**/*.py")])
_FORBIDDEN = {
    "eval", "exec", "compile", "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load",
    "cloudpickle.loads", "joblib.load", "shelve.open", "marshal.loads", "yaml.load", "yaml.unsafe_load",
    "yaml.full_load", "os.system", "os.popen", "pd.read_pickle", "pandas.read_pickle", "faiss.read_index",
    "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter",
}  # fmt: skip
_REQUIRED = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}
#: OpenAI's own CLIP weights are TorchScript, whose reader makes tensors and script objects, not Python ones.
#: An index of FAISS is arrays, of which size and checksum are compared before it is opened.
#: Edits are read by PyYAML's BaseLoader, which makes text, lists and mappings alone.
_ALLOWED = {
    "dxmc_core/encoders/open_clip_model.py": "torch.jit.load",
    "dxmc_core/artifacts/index_file.py": "faiss.read_index",
    "dxmc_core/edits/file.py": "yaml.load",
}


def unsafe_calls(source: str) -> Iterator[str]:
    """Line and call of everything that may run what it reads."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if name in _FORBIDDEN:
            yield f"{node.lineno}: {name}"
        if name in _REQUIRED:
            option, value = _REQUIRED[name]
            if not (isinstance(given.get(option), ast.Constant) and given[option].value is value):
                yield f"{node.lineno}: {name} without {option}={value}"
        if name.startswith("subprocess.") and "shell" in given:
            yield f"{node.lineno}: {name} with a shell"
        if name.endswith("Environment") and "loader" in given and "autoescape" not in given:
            yield f"{node.lineno}: {name} without autoescape"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_library(path):
    allowed = _ALLOWED.get(path.relative_to(ROOT).as_posix())
    assert [call for call in unsafe_calls(path.read_text()) if call.partition(": ")[2] != allowed] == []


@pytest.mark.parametrize(
    "source",
    [
        "pickle.loads(data)", "torch.load(file)", "torch.load(file, weights_only=False)", "np.load(path)",
        "np.load(path, allow_pickle=True)", "yaml.load(text, Loader=yaml.Loader)", "eval(text)",
        "subprocess.run(text, shell=True)", "jinja2.Environment(loader=x)",
    ],
)  # fmt: skip
def test_the_test_sees(source):
    assert list(unsafe_calls(source))


def test_templates_escape_everything():
    for path in ROOT.glob("dxmc_core/report/templates/*.html"):
        assert "autoescape false" not in path.read_text(), path
