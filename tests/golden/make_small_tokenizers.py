"""Trains small tokenizers of every supported kind and records their answers.

Usage: make_small_tokenizers.py .   (needs tokenizers, sentencepiece, protobuf)
Reads the texts of smollm2_tokenizer.jsonl; writes tokenizers/<name>.json (a
tokenizer.json, or for the kinds spm_* the fields of a TokenizerSpec) and
tokenizers/<name>_cases.jsonl: one row per text with
  text     only where it is not the text of the same number in that file
  ids      special tokens parsed, BOS and EOS added
  plain    special tokens are text, nothing added
  decoded  text of `plain` (null where the oracle splits invalid UTF-8)
ids and plain are null where Hugging Face's Unigram takes text that spells a
special or byte token for that token: sluice (as SentencePiece) never does.
"""
import io
import json
import sys

import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as spm_pb2
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models,
                        normalizers, pre_tokenizers, processors, trainers)

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
MARK = "\u2581"
BYTES = [f"<0x{b:02X}>" for b in range(256)]
SPELT = ("<s>", "</s>", "<unk>", "<0x")
EXTRA = [
    "<s>", "a<s>b </s> c", "x <s> y", "<s><s>", "hello <mask> world",
    "hello<mask>world", "word tool call toolbox a tool", "tool_ x", "<unk> is text",
    "I'M SURE THEY'LL SAY IT'S", "\u017f's 'S 'ſ", "1234567 12 1", "\u180e a\u180eb",
    "  leading", "trailing  ", "   ", "a\u00a0b\u3000c", "e\u0301 \u00e9",
    "tab\t\tend", "\u2581already \u2581marked", "<0x41><0x0A>", "\n\n\nx",
    "unknown \U0001f9a9\U0001f9a9 twice", "mixed \U0001f9a9a\U0001f9a9",
]


def byte_bpe(corpus, regex=None, normalizer=None, vocab=700, prefix=False):
    tok = Tokenizer(models.BPE())
    if normalizer:
        tok.normalizer = normalizer
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=prefix,
                                          use_regex=regex is None)
    tok.pre_tokenizer = byte_level if regex is None else \
        pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(regex), "isolated"), byte_level])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tok


def add_extras(tok):
    tok.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    tok.add_tokens([AddedToken("tool", single_word=True, normalized=True),
                    AddedToken(" call", rstrip=True, normalized=False)])


def with_bos(tok):
    tok.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(
            single="<s> $A </s>",
            special_tokens=[("<s>", tok.token_to_id("<s>")),
                            ("</s>", tok.token_to_id("</s>"))])])


def edited(tok, **changes):
    """The tokenizer after changing fields of its model."""
    data = json.loads(tok.to_str())
    data["model"].update(changes)
    return Tokenizer.from_str(json.dumps(data))


def llama2_bpe(corpus, pre_tokenizer, normalizer):
    """A character BPE with byte fallback, as Llama-2 and Mistral publish."""
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True,
                               byte_fallback=True))
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    tok.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<unk>", "<s>", "</s>"] + BYTES,
        limit_alphabet=120, show_progress=False))
    data = json.loads(tok.to_str())
    data["added_tokens"] = data["added_tokens"][:3]
    tok = Tokenizer.from_str(json.dumps(data))
    if normalizer:
        tok.normalizer = normalizer
    tok.pre_tokenizer = pre_tokenizer
    tok.decoder = decoders.Sequence([
        decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0)])
    tok.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)])
    return tok


def unigram(corpus, byte_fallback=False, scheme="always"):
    tok = Tokenizer(models.Unigram())
    tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tok.decoder = decoders.Metaspace(prepend_scheme=scheme)
    # A corpus of few distinct characters, so that some stay unknown.
    tok.train_from_iterator(corpus, trainers.UnigramTrainer(
        vocab_size=500, special_tokens=["<unk>", "<s>", "</s>"],
        unk_token="<unk>", show_progress=False))
    if byte_fallback:
        vocab = json.loads(tok.to_str())["model"]["vocab"]
        tok = edited(tok, vocab=vocab + [[b, 0.0] for b in BYTES],
                     byte_fallback=True)
        tok.decoder = decoders.Sequence([
            decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme)])
    return tok


def hugging_face(corpus):
    ascii_corpus = [t for t in corpus if t.isascii()]
    llama3 = byte_bpe(corpus, LLAMA3)
    vocab = json.loads(llama3.to_str())["model"]["vocab"]
    # A token no merge leads to: only ignore_merges finds it.
    llama3 = edited(llama3, ignore_merges=True,
                    vocab={**vocab, "\u0120unreachable": len(vocab)})
    with_bos(llama3)
    qwen2 = byte_bpe(corpus, QWEN2, normalizers.NFC())
    gpt2 = byte_bpe(corpus, prefix=True)
    for tok in (llama3, qwen2, gpt2):
        add_extras(tok)
    prepend = normalizers.Sequence([normalizers.Prepend(MARK),
                                    normalizers.Replace(" ", MARK)])
    return {
        "byte_llama3": llama3,
        "byte_qwen2": qwen2,
        "byte_gpt2_prefix": gpt2,
        "char_llama2": llama2_bpe(corpus, None, prepend),
        "char_metaspace_first": llama2_bpe(
            corpus, pre_tokenizers.Metaspace(prepend_scheme="first",
                                             split=False), None),
        "char_gemma": llama2_bpe(
            corpus, pre_tokenizers.Split(" ", "merged_with_previous"),
            normalizers.Replace(" ", MARK)),
        "unigram": unigram(ascii_corpus),
        "unigram_bytes": unigram(ascii_corpus, True, "first"),
    }


def write_cases(path, texts, first_extra, answer):
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        for n, text in enumerate(texts):
            row = {"n": n} if n < first_extra else {"n": n, "text": text}
            row.update(answer(text))
            f.write(json.dumps(row, ensure_ascii=True,
                               separators=(",", ":")) + "\n")


def answer_of(tok):
    unigram_model = isinstance(tok.model, models.Unigram)

    def answer(text):
        tok.encode_special_tokens = False
        ids = tok.encode(text).ids
        tok.encode_special_tokens = True
        plain = tok.encode(text, add_special_tokens=False).ids
        decoded = tok.decode(plain, skip_special_tokens=False)
        if unigram_model and any(t in text for t in SPELT):
            plain, decoded = None, "\ufffd"
            ids = None if "<0x" in text else ids
        return {"ids": ids, "plain": plain,
                "decoded": None if "\ufffd" in decoded else decoded}
    return answer


def sentence_piece(corpus, byte_fallback):
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=out, model_type="bpe",
        vocab_size=900 if byte_fallback else 600, byte_fallback=byte_fallback,
        normalization_rule_name="identity", remove_extra_whitespaces=False,
        character_coverage=0.99, user_defined_symbols=["<mask>"],
        minloglevel=2)
    model = spm_pb2.ModelProto()
    model.ParseFromString(out.getvalue())
    spec = {"tokens": [p.piece for p in model.pieces],
            "scores": [p.score for p in model.pieces],
            "types": [p.type for p in model.pieces],
            "bos_id": 1, "eos_id": 2, "unk_id": 0}
    processor = spm.SentencePieceProcessor(model_proto=out.getvalue())

    def answer(text):
        plain = processor.encode(text)
        decoded = processor.decode(plain)
        return {"ids": [1] + plain, "plain": plain,
                "decoded": None if "\ufffd" in decoded or 0 in plain
                else decoded}
    return spec, answer


def main():
    out = sys.argv[1]
    with open(f"{out}/smollm2_tokenizer.jsonl", encoding="utf-8") as f:
        corpus = [json.loads(line)["text"] for line in f]
    texts = corpus + EXTRA
    for name, tok in hugging_face(corpus).items():
        tok.save(f"{out}/tokenizers/{name}.json", pretty=False)
        write_cases(f"{out}/tokenizers/{name}_cases.jsonl", texts,
                    len(corpus), answer_of(tok))
    # sentencepiece treats a user-defined symbol and the space before it in
    # its own way, and NUL as the end of the text.
    lines = [t for t in corpus if t and "\x00" not in t]
    spm_texts = corpus + [t for t in EXTRA if "mask" not in t]
    for name, fallback in (("spm_bytes", True), ("spm_unk", False)):
        spec, answer = sentence_piece(lines, fallback)
        with open(f"{out}/tokenizers/{name}.json", "w", encoding="utf-8",
                  newline="\n") as f:
            json.dump(spec, f, ensure_ascii=False, separators=(",", ":"))
            f.write("\n")
        write_cases(f"{out}/tokenizers/{name}_cases.jsonl", spm_texts,
                    len(corpus), answer)


if __name__ == "__main__":
    main()
