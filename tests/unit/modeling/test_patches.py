"""Whatever changes a library while it runs stands in `modeling/patches.py`, and says why."""

from __future__ import annotations

import ast
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

import deleatur
from deleatur.modeling import patches
from deleatur.modeling.token_model import TokenModel

SOURCE = Path(deleatur.__file__).parent
SET_BY_NAME = {"setattr", "delattr"}
REGISTERED = {"AttentionInterface", "AttentionMaskInterface"}
PATCHED = {
    "forward",
    "_attn_implementation",
    "__class__",
    "__call__",
    "_tokenizer",
    "tie_word_embeddings",
}  # attributes of objects that are a library's

QUIETED = ("setLevel", "addFilter", "set_verbosity", "disable_progress_bar", "filterwarnings", "simplefilter")


def patches_in(source: str) -> list[str]:
    """Statements that replace an attribute of a module, or one that a library looks for on its own objects."""
    tree = ast.parse(source)
    modules = {a.asname or a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    found = []
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else node.targets if isinstance(node, ast.Delete) else []
        for target in (t for group in targets for t in (group.elts if isinstance(group, ast.Tuple) else [group])):
            text = ast.unparse(target)
            attribute = target.attr if isinstance(target, ast.Attribute) else ""
            of_module = isinstance(target, ast.Attribute) and ast.unparse(target.value) in modules
            own = text.startswith(("sys.std", "os.environ"))
            if text.startswith("sys.modules[") or (of_module and not own) or attribute in PATCHED:
                found.append(text)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in SET_BY_NAME or (called.endswith(".register") and called.split(".")[0] in REGISTERED):
                found.append(ast.unparse(node))
            if called.endswith(QUIETED) or called.startswith(("torch.set_float", "torch.set_default", "torch.backends.")):
                found.append(ast.unparse(node))
    return found


ALLOWED = {
    "cli/main.py": ["warnings.simplefilter('ignore')"],  # only the first process speaks
    "report/figures.py": ["warnings.filterwarnings('ignore', message='Glyph')"],  # while a figure is drawn
    "metrics/__init__.py": ["sys.modules[__name__]"],  # an alias of our own
    "modeling/loading.py": ["setattr(holder.get_submodule(parent), child, layer)"],  # a merged layer in its place
}


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("import torch\ntorch.load = None", 1),
        ("import torch\nload, torch.load = torch.load, None", 1),
        ("import sys\nsys.modules['kernels'] = None", 1),
        ("layer.forward = f", 1),
        ("del layer.forward", 1),
        ("setattr(config, 'x', 1)", 1),
        ("AttentionInterface.register('x', f)", 1),
        ("import torch\ntorch.set_float32_matmul_precision('high')", 1),
        ("logging.getLogger('peft').setLevel(50)", 1),
        ("tokenizer._tokenizer = Tokenizer.from_str(text)", 1),
        ("import torch\nself.load = torch.load", 0),
        ("import os\nos.environ['A'] = '1'", 0),
    ],
)
def test_a_patch_is_seen(source, count):
    assert len(patches_in(source)) == count


def test_no_other_file_patches_a_library():
    found = {}
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE).as_posix()
        if name != "modeling/patches.py" and (seen := patches_in(path.read_text(encoding="utf-8"))):
            found[name] = seen
    assert found == ALLOWED


def test_every_patch_says_why_and_of_which_library():
    public = [v for k, v in vars(patches).items() if callable(v) and v.__module__ == patches.__name__ and k[0] != "_"]
    assert len(public) >= 10
    for patch in public:
        text = patch.__doc__ or ""
        assert "Reason:" in text or patch.__name__ == "restore_forwards", patch.__name__
        assert patch.__name__ == "restore_forwards" or any(name in text for name in patches.CHECKED), patch.__name__


def test_patches_are_checked_with_the_major_versions_installed():
    for name, checked in patches.CHECKED.items():
        if checked is None:
            continue
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue
        assert checked.split(".")[0] == installed.split(".")[0], f"{name} {installed}: run the tests of its patches, note it"


def test_constructing_a_token_model_leaves_every_modules_mode(llama):
    llama.train()
    llama.model.layers[0].eval()
    before = [module.training for module in llama.modules()]
    model = TokenModel(llama)
    assert [module.training for module in llama.modules()] == before
    assert [module.training for module in model.prepare().lm.modules()] == before


def test_undo_gives_the_model_back_as_it_came(llama):
    """Its attention, and every layer's own forward."""
    attention = llama.config._attn_implementation
    model = TokenModel(llama).prepare()
    assert llama.config._attn_implementation != attention
    assert any("forward" in vars(module) for module in llama.modules())
    model.undo()
    assert llama.config._attn_implementation == attention
    assert not any("forward" in vars(module) for module in llama.modules())


def test_the_precision_of_products_is_a_users_own_afterwards():
    was = torch.get_float32_matmul_precision()
    with patches.matmul_precision_restored():
        patches.exact_matmul()
    assert torch.get_float32_matmul_precision() == was


def test_a_gguf_file_is_read_once_and_the_library_is_as_before(monkeypatch, tmp_path):
    """Also by another path to the same file; a file that is to be changed is opened anew each time."""
    gguf = pytest.importorskip("gguf")
    opened = []
    monkeypatch.setattr(gguf, "GGUFReader", lambda path, mode="r": opened.append((Path(path).name, mode)) or object())
    before = gguf.GGUFReader, gguf.get_tensor_name_map
    (tmp_path / "m.gguf").touch()
    (tmp_path / "same.gguf").symlink_to(tmp_path / "m.gguf")
    with patches.gguf_read_once():
        assert gguf.GGUFReader(tmp_path / "m.gguf") is gguf.GGUFReader(str(tmp_path / "same.gguf"))
        assert gguf.GGUFReader(tmp_path / "m.gguf", "r+") is not gguf.GGUFReader(tmp_path / "m.gguf", "r+")
        names = [gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2) for _ in range(2)]
        assert names[0] is names[1]
    assert opened == [("m.gguf", "r"), *[("m.gguf", "r+")] * 2]
    assert before == (gguf.GGUFReader, gguf.get_tensor_name_map)


def test_the_stemmer_comes_without_the_rest_of_nltk(monkeypatch):
    """Who asks the module that rouge-score keeps for more gets it then."""
    for name in [name for name in sys.modules if name.split(".")[0] == "nltk"]:
        monkeypatch.delitem(sys.modules, name)
    with patches.stemmer_alone():
        import nltk
        from nltk.stem import porter

        assert porter.PorterStemmer().stem("running") == "run"
        assert "nltk.corpus" not in sys.modules
    assert "nltk" not in sys.modules
    assert nltk.word_tokenize.__module__ == "nltk.tokenize"
