// Byte-level BPE as in GPT-2 and its descendants, and BERT's WordPiece (arXiv 1810.04805), read
// from a Hugging Face `tokenizer.json`, from GPT-2's `encoder.json` and `vocab.bpe` or from BERT's
// `vocab.txt`. Ids are identical to the `tokenizers` package for the supported components; an
// unsupported component is a DataError that names it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace dsrsq {

class Tokenizer {
 public:
  // `path` is a tokenizer.json (any name), one of the two files of a pair with the other beside it
  // (encoder.json and vocab.bpe, or vocab.json and merges.txt), a vocab.txt, or a folder that
  // holds a tokenizer.json or else such a pair or else a vocab.txt. Each file has at most 128 MiB.
  // Throws DataError.
  static Tokenizer from_file(const std::string& path);
  // tokenizer.json: model BPE (merges as "a b" strings or as pairs; ignore_merges; unk_token;
  // byte_fallback unsupported), added_tokens (special and not), pre_tokenizer ByteLevel
  // (add_prefix_space, use_regex) or a Sequence of Split (Regex or String, every behavior), Digits
  // and a final ByteLevel, normalizer null (any other is an error), decoder ByteLevel.
  // Or: model WordPiece (continuing_subword_prefix, max_input_chars_per_word), normalizer
  // BertNormalizer, pre_tokenizer BertPreTokenizer, decoder WordPiece, added tokens not normalized.
  // post_processor, truncation and padding are ignored: encode adds no begin token and cuts
  // nothing; the prompt does. Ids are below 2^24 and may have holes. Throws DataError.
  static Tokenizer from_json(const std::string& json, const std::string& name_for_errors);
  // The texts of a pair. `vocabulary` is an object of token -> id, the ids 0 to n - 1; `merges` a
  // line "left right" for each merge, by rank, and lines that begin with #version. The
  // pre-tokenizer is GPT-2's, without a blank in front. Special are the tokens in angle brackets
  // that no merge makes (<|endoftext|>, <s>); other added tokens need a tokenizer.json. Throws
  // DataError.
  static Tokenizer from_pair(const std::string& vocabulary, const std::string& merges,
                             const std::string& vocabulary_name, const std::string& merges_name);
  // BERT's vocab.txt, a token a line, with [PAD], [UNK], [CLS], [SEP] and [MASK]; cased text keeps
  // its accents, too. Throws DataError.
  static Tokenizer from_word_pieces(const std::string& vocabulary,
                                    const std::string& name_for_errors, bool lowercase = true);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // Special tokens in the text are recognised only with parse_special: data is not to inject
  // control tokens (the `tokenizers` package with encode_special_tokens = True). Other added tokens
  // are always recognised. Invalid UTF-8 is encoded as U+FFFD, one for each maximal invalid
  // sequence, as Python's errors="replace" does. Thread-safe.
  std::vector<int32_t> encode(const std::string& text, bool parse_special = false) const;
  // As encode, and for each token the half-open byte range of `text` that it covers. Ranges are
  // ascending; together they cover the text except what the tokenizer drops (of WordPiece: white
  // space, control characters, accents that are characters of their own). Tokens of one invalid
  // sequence all have its range.
  struct Span {
    int64_t begin;
    int64_t end;
  };
  std::vector<int32_t> encode_with_spans(const std::string& text, std::vector<Span>& spans) const;
  // Special tokens are left out unless keep_special. Invalid UTF-8 becomes U+FFFD and ids that no
  // token has become nothing, as `tokenizers` does.
  std::string decode(const std::vector<int32_t>& ids, bool keep_special = false) const;

  // The text of ids as its bytes are, which need not be valid UTF-8, and for each id the range of
  // them that it stands for; empty for special tokens, which are left out, and ids without a token.
  std::string decode_with_spans(const std::vector<int32_t>& ids, std::vector<Span>& spans) const;

  int64_t vocabulary_size() const;  // highest id + 1
  int32_t begin_id() const;  // <|bos|>, <s>, <|begin_of_text|> or <|endoftext|>; throws DataError
                             // where none exists
  int32_t end_id()
      const;  // <|eos|>, </s>, <|im_end|>, <|endoftext|>; throws DataError where none exists
  int32_t token_id(const std::string& token) const;  // -1 where absent
  // In hex, the SHA-256 of tokenizer.json's bytes; of vocab.txt that of its bytes and, where cased,
  // "cased" behind them; of a pair the SHA-256 of the 128 characters
  // sha256(vocabulary) sha256(merges), whatever the files are called and whichever was named.
  const std::string& fingerprint() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// A `tokenizer.json` in which every given word, with a blank in front, is exactly one token (and
// any other text still encodes, as pieces and bytes). Each word is one entry of the vocabulary,
// found whole (`ignore_merges`): the vocabulary is 3 special tokens (<|pad|>, <|bos|>, <|eos|>: ids
// 0, 1, 2), 256 bytes, what the pieces need, and the words, in that order. `pieces` are strings
// without a leading blank that become one token each (syllables, say), so that unlisted words are
// spelled by them: their merges are added piece by piece, left to right over what earlier merges
// leave, so a later piece never changes an earlier one. Throws DataError on an empty word, white
// space in a word, or invalid UTF-8. For generated tasks, where a word is the unit.
std::string build_word_tokenizer(const std::vector<std::string>& words,
                                 const std::vector<std::string>& pieces = {});

}  // namespace dsrsq
