"""Chats as transformers renders, tokenizes and continues them."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from kerasllm.data.examples.conversations import encode_conversations
from kerasllm.data.sources.conversations import read_record
from kerasllm.errors import InputError
from kerasllm.tokenizers.byte_level_bpe import train_byte_level_bpe
from kerasllm.tokenizers.chat_template import DEFAULT_CHAT_TEMPLATE, render
from kerasllm.tokenizers.loading import load_tokenizer, read_chat_template
from kerasllm.tokenizers.saving import save_tokenizer
from kerasllm.tokenizers.special_tokens import template_tokens
from kerasllm.tokenizers.wordpiece import train_wordpiece

transformers = pytest.importorskip("transformers", reason="transformers is not installed in this environment")
torch = pytest.importorskip("torch", reason="transformers computes with torch, which is not installed")

CALL = {"type": "function", "function": {"name": "clock", "arguments": {"zone": "\u5317\u4eac <b>"}}}
TOOL = {
    "type": "function",
    "function": {"name": "clock", "description": "It's \u00e9", "parameters": {"type": "object"}},
}
TALK = [
    {"role": "system", "content": "Be brief & kind."},
    {"role": "user", "content": "It's <b>3 > 2</b>, \uc548\ub155 \U0001f642", "name": None},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "12:00", "name": "clock"},
    {"role": "assistant", "content": "  It is noon.\n", "reasoning": "I asked."},
    {"role": "user", "content": "d'accord"},
]
HEAD = "{% for m in messages %}{{ m.role }}: {{ m['content'] }}"
TEMPLATES = {
    "plain": DEFAULT_CHAT_TEMPLATE,
    "json": "{{ messages | tojson }}{{ tools | tojson(indent=4) }}"
    "{{ tools | tojson(separators=(',', ':'), sort_keys=True) }}",
    "absent": "{{ tools }} {{ documents }} {{ other }} {{ image_token }}"
    "{% if bos_token is defined %}{{ bos_token }}{% endif %}{{ pad_token }}",
    "loop": HEAD
    + "{% if loop.index > 3 %}{% break %}{% endif %}{% if m.content %}{% continue %}{% endif %}|{% endfor %}",
    "date": "{{ strftime_now('%d %b %Y') }}{% set ns = namespace(n=0) %}{% for m in messages %}"
    "{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "tags": """
        {%- for m in messages %}
            {%- if m.role == 'assistant' -%}
                {% generation %}{{ m.content | default('-', true) | trim }}{{ eos_token }}{% endgeneration %}
            {%- else %}
    {{ '<' ~ m.role ~ '>' }} {{ m.content }}
            {%- endif %}
        {%- endfor %}
        {% if add_generation_prompt %}<assistant>{% endif %}
    """,
    "fields": "{% for m in messages %}{{ m | items | list }}{{ m.reasoning_content }}{{ m.thinking }}"
    "{% for call in m.tool_calls or [] %}{{ call.function.arguments | tojson }}{% endfor %}{% endfor %}",
    "macro": "{% macro turn(m) %}[{{ m.role | upper }}]{{ m.get('content', '') }}{% endmacro %}"
    "{% for m in messages %}{{ turn(m) }}{{ '\\n' if not loop.last }}{% endfor %}{{ dict(a=1) | tojson }}",
    "refusal": "{% if messages | length > 2 %}{{ raise_exception('too long') }}{% endif %}{{ messages[0].content }}",
}


ROLES = {
    "ours": None,
    "named": {
        "eos_token": "<|endoftext|>",
        "image_token": "<|endoftext|>",
        "bos_token": {"content": "<|endoftext|>", "__type": "AddedToken"},
    },
    "end alone": {"eos_token": "<|endoftext|>", "bos_token": None},
}


@pytest.fixture(scope="module", params=ROLES)
def tokenizers_of(request, tmp_path_factory):
    """One tokenizer as it is loaded here and there, with special tokens of several roles."""
    directory = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(
        train_byte_level_bpe(["Be brief and kind, it is noon."] * 3, 280), directory, max_length=64
    )
    if (roles := ROLES[request.param]) is not None:
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **roles}
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return load_tokenizer(directory), transformers.AutoTokenizer.from_pretrained(directory)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_text_is_that_of_transformers(name, tokenizers_of):
    ours, theirs = tokenizers_of
    for messages, tools, continues in ((TALK, [TOOL], True), (TALK, None, False), (TALK[:2], None, True)):
        settings = {"tools": tools, "add_generation_prompt": continues}
        asked = {"chat_template": TEMPLATES[name], "tokenize": False, "enable": True}
        try:
            expected = theirs.apply_chat_template(messages, **settings, **asked)
        except Exception as error:
            with pytest.raises(InputError, match=str(error)):
                render(messages, TEMPLATES[name], tokens=template_tokens(ours), enable=True, **settings)
            continue
        found = render(messages, TEMPLATES[name], tokens=template_tokens(ours), enable=True, **settings)
        assert found == expected


def sentencepiece(directory, kind):
    """A tokenizer that puts a space before a text, as SentencePiece does, or as Llama's class does."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    if kind == "normalizer":
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(
        ["<|user|>\n<|assistant|>\nIs it noon? It is noon. And now? Yes."] * 6, trainer
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": TURNS}
    settings["tokenizer_class"] = "LlamaTokenizer" if kind == "llama" else "PreTrainedTokenizerFast"
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return load_tokenizer(directory), transformers.AutoTokenizer.from_pretrained(directory)


TURNS = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}"
    "{{ m.content }}{{ eos_token }}{% endif %}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TURN = [
    {"role": "user", "content": "Is it noon?"},
    {"role": "assistant", "content": "It is noon."},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "Yes."},
]


@pytest.mark.parametrize("kind", ["normalizer", "metaspace", "llama", "bytes"])
def test_what_is_learned_is_what_their_mask_says(kind, tmp_path):
    """The tokens are those of the whole text, and those learned are those of the tag `generation`."""
    if kind == "bytes":
        save_tokenizer(
            train_byte_level_bpe(["It is noon. "] * 3, 270), tmp_path, max_length=64, chat_template=TURNS
        )
        ours, theirs = load_tokenizer(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    else:
        ours, theirs = sentencepiece(tmp_path, kind)
    expected = theirs.apply_chat_template(TURN, return_dict=True, return_assistant_tokens_mask=True)
    (talk,) = encode_conversations([read_record({"messages": TURN}, "")], ours, read_chat_template(tmp_path))
    assert talk.token_ids.tolist() == expected["input_ids"]
    assert talk.learnt.tolist() == list(map(bool, expected["assistant_masks"]))


@pytest.mark.parametrize("kind", ["metaspace", "llama"])
def test_a_text_is_continued_as_transformers_continues_it(kind, tmp_path):
    """From the beginning token to an end token that stands in generation_config.json alone."""
    from kerasllm import GPTCausalLM

    ours, theirs = sentencepiece(tmp_path, kind)
    config = transformers.LlamaConfig(
        vocab_size=ours.get_vocab_size(),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.6,
    )
    torch.manual_seed(3)
    model = transformers.LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    inputs = theirs("Is it noon?", return_tensors="pt")
    free = model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=None)[0].tolist()
    (tmp_path / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [2, free[-3]], "pad_token_id": 0, "temperature": 0.7, "do_sample": True})
    )
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path).eval()
    expected = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0].tolist()
    assert len(expected) < len(free)
    mine = GPTCausalLM.from_pretrained(tmp_path)
    np.testing.assert_array_equal(mine.generate(inputs["input_ids"].numpy(), max_new_tokens=8)[0], expected)
    text = mine.generate("Is it noon?", tokenizer=ours, max_new_tokens=8)
    assert text == theirs.decode(expected, skip_special_tokens=True)
    mine.save_pretrained(tmp_path / "again", tokenizer=ours)
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "again").eval()
    assert (
        again.generation_config.eos_token_id == [2, free[-3]] and again.generation_config.temperature == 0.7
    )
    assert again.generate(**inputs, max_new_tokens=8, do_sample=False)[0].tolist() == expected
    saved = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert (
        saved.chat_template == TURNS and saved("Is it noon?")["input_ids"] == inputs["input_ids"][0].tolist()
    )


WORDS = ["Paris paris caf\u00e9 Caf\u00e9 cafe the The ship Ship which sailed away at dawn"] * 9
TEXT = "The Caf\u00e9, the SHIP of Paris \u6f22\u5b57"


@pytest.mark.parametrize("said", [False, True, ...])
@pytest.mark.parametrize("accents", [None, False, True])
@pytest.mark.parametrize(("lowercase", "strips"), [(True, None), (False, None), (True, False)])
@pytest.mark.filterwarnings("ignore:.*tokenizer_config.json beside it says otherwise")
def test_settings_against_tokenizer_json(lowercase, strips, said, accents, tmp_path):
    tokenizer = train_wordpiece(WORDS, 120, lowercase=lowercase, strip_accents=strips)
    save_tokenizer(tokenizer, tmp_path / "a", max_length=32)
    same = transformers.AutoTokenizer.from_pretrained(tmp_path / "a")(TEXT)["input_ids"]
    assert same == load_tokenizer(tmp_path / "a").encode(TEXT).ids == tokenizer.encode(TEXT).ids
    path = tmp_path / "a" / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"strip_accents": accents, "do_lower_case": said}
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not ...}))
    changed = load_tokenizer(tmp_path / "a")
    assert (
        changed.encode(TEXT).ids == transformers.AutoTokenizer.from_pretrained(path.parent)(TEXT)["input_ids"]
    )
    save_tokenizer(changed, tmp_path / "b", max_length=32)
    assert (
        transformers.AutoTokenizer.from_pretrained(tmp_path / "b")(TEXT)["input_ids"]
        == changed.encode(TEXT).ids
    )


@pytest.mark.parametrize(
    "settings", [{}, {"add_prefix_space": True}, {"add_bos_token": True}, {"add_bos_token": False}]
)
@pytest.mark.parametrize("name", ["GPT2Tokenizer", "PreTrainedTokenizerFast"])
@pytest.mark.filterwarnings("ignore:.*tokenizer_config.json beside it says otherwise")
def test_settings_of_byte_level_tokenizers(name, settings, tmp_path):
    save_tokenizer(train_byte_level_bpe(WORDS, 300), tmp_path, max_length=32)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings | {"tokenizer_class": name}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).encode(TEXT).ids == theirs(TEXT)["input_ids"]
