"""A tiny classification model on disk, and tables of samples."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from raft_core.records.tables import SAMPLES, to_table
from raft_core.types import Prompt, Sample

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "good", "bad", "film", "was"]


@pytest.fixture
def samples_of() -> Callable[[Sequence[str]], tuple[pa.Table, dict[str, Prompt]]]:
    """``completions`` as samples of one prompt "p", and the prompts by id."""

    def build(completions: Sequence[str]) -> tuple[pa.Table, dict[str, Prompt]]:
        prompt = Prompt.of("p ", reference="r")
        rows = [
            Sample(f"s{k:06d}", prompt.prompt_id, k, k, text, (1,), (2,), (-1.0,), (-1.0,), "stop")
            for k, text in enumerate(completions)
        ]
        return to_table(SAMPLES, rows), {prompt.prompt_id: prompt}

    return build


@pytest.fixture(scope="session")
def classifier_maker() -> Callable[..., Path]:
    """Write a random BERT classifier with ``labels`` outputs and a tokenizer of nine words to a folder."""

    def make(
        folder: Path, *, labels: Sequence[str] = ("LABEL_0",), tokenizer: bool = True, chat_template: str | None = None
    ) -> Path:
        import torch
        from tokenizers import Tokenizer, models, pre_tokenizers, processors
        from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(WORDS),
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=16,
            num_labels=len(labels),
            initializer_range=1.0,
            id2label=dict(enumerate(labels)),
            label2id={name: i for i, name in enumerate(labels)},
        )
        BertForSequenceClassification(config).save_pretrained(folder)
        if tokenizer:
            words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
            words.pre_tokenizer = pre_tokenizers.Whitespace()
            words.post_processor = processors.TemplateProcessing(
                single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
            )
            PreTrainedTokenizerFast(
                tokenizer_object=words,
                unk_token="[UNK]",
                pad_token="[PAD]",
                cls_token="[CLS]",
                sep_token="[SEP]",
                chat_template=chat_template,
            ).save_pretrained(folder)
        return folder

    return make
