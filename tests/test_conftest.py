from transformers import AutoModel, AutoTokenizer


def test_the_tiny_checkpoint_loads_offline_and_reads_any_plain_text(tiny_checkpoint, tiny_config):
    tokenizer = AutoTokenizer.from_pretrained(tiny_checkpoint)
    model = AutoModel.from_pretrained(tiny_checkpoint)
    batch = tokenizer("Not a bad film, but 7 zebras!", "The plot?", return_tensors="pt")

    assert tokenizer.unk_token_id not in batch["input_ids"]
    assert batch["token_type_ids"].max() == 1
    assert model(**batch).last_hidden_state.shape[-1] == tiny_config.hidden_size
