"""Two tokenisations of one text, lined up by bytes.

Characters do not work as the common ruler: the offsets that fast tokenizers report
are in characters, and two byte-pieces of one emoji get overlapping spans. Bytes do:
every token of a byte-level or byte-fallback vocabulary stands for a known string of
bytes, and a text is their concatenation.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from tokenizers import Tokenizer

# The beginning of a text, and its tokens.
Head: TypeAlias = tuple[str, list[int]]

_SPELLING = 32  # bytes: words are shorter
_BATCH = 50_000  # texts to a call of a tokenizer


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[str, int]:
    """The printable stand-ins that byte-level BPE writes bytes with (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in set(printable)]
    alphabet = {chr(b): b for b in printable}
    alphabet.update({chr(256 + i): b for i, b in enumerate(others)})
    return alphabet


def _decoders(tokenizer: Any) -> str:
    """The tokenizer's decoder, as text: it says which alphabet its tokens use."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise TypeError(
            f"{type(tokenizer).__name__} has no fast backend; expected a tokenizer "
            "loaded from tokenizer.json (use_fast=True)"
        )
    return json.dumps(json.loads(backend.to_str()).get("decoder"))


def _token_bytes(token: str, byte_level: bool, added: bool) -> bytes:
    if byte_level:
        alphabet = _byte_alphabet()
        # An added token is plain text: its é is an é and stands for no byte.
        if not added and all(c in alphabet for c in token):
            return bytes(alphabet[c] for c in token)
        return token.encode()
    if re.fullmatch("<0x[0-9A-Fa-f]{2}>", token):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").encode()


def _longest_prefix(word: bytes, index: Mapping[bytes, int]) -> int:
    for length in range(len(word), 0, -1):
        found = index.get(word[:length])
        if found is not None:
            return found
    return -1


def _goes_on(text: str, begin: str) -> bool:
    """Whether a text ends or is cut behind a beginning that an earlier one had.

    Not if words were taken back and others came: "the dog barks", now "the dogs".
    """
    behind = text[len(begin) : len(begin) + 2]
    cut = behind.startswith(" ") and bool(behind[1:].strip())
    return text.startswith(begin) and (cut or not behind)


class Way(NamedTuple):
    """One way to read a text: which row of tokens, and how many bytes are behind it."""

    row: int
    behind: int


class TokenBytes:
    """The bytes each token of a vocabulary stands for.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        Byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM, ...) or SentencePiece style with
        byte fallback (Llama 2, Gemma, Mistral, ...).

    Attributes
    ----------
    table : list of bytes
        ``table[i]`` is what token ``i`` writes; special tokens write nothing.
    specials : dict of str to int
        The special tokens by name.
    state : str
        The tokenizer as text, as it came.

    Raises
    ------
    TypeError
        When the tokenizer has no fast backend.
    ValueError
        When its tokens cannot be read as bytes (WordPiece, for example).
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        decoders = _decoders(tokenizer)
        # A copy: who pads a batch with the tokenizer changes it for everybody.
        plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        plain.no_padding()
        plain.no_truncation()
        self.state = plain.to_str()
        # Special tokens that are written out in a text are text to this one.
        self.backend = Tokenizer.from_str(self.state)
        self.backend.encode_special_tokens = True
        byte_level = "ByteLevel" in decoders
        if not byte_level and "\\u2581" not in decoders:
            raise ValueError(
                f"cannot read the tokens of {type(tokenizer).__name__} as bytes; "
                "expected a byte-level BPE or a SentencePiece-style tokenizer"
            )
        special = set(tokenizer.all_special_ids)
        added = tokenizer.added_tokens_decoder
        special |= {i for i, token in added.items() if token.special}
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self.table: list[bytes] = [
            b""
            if i in special or t is None
            else _token_bytes(t, byte_level, i in added)
            for i, t in enumerate(tokens)
        ]
        self.specials = {t: i for i, t in enumerate(tokens) if i in special and t}
        # Some SentencePiece models write a space before the text that is not in it.
        probe = tokenizer("a", add_special_tokens=False)["input_ids"]
        self.prepends_space = self.join(probe) == b" a"
        # Most of these leave it out before a text that begins with one, and then nobody
        # can tell the two texts apart by their tokens: such a text gets one more.
        spaced = tokenizer(" a", add_special_tokens=False)["input_ids"]
        self._spares_space = self.prepends_space and spaced == probe

    @cached_property
    def _parser(self) -> Tokenizer:
        """Takes special tokens that are written out in a text for what they name."""
        return Tokenizer.from_str(self.state)

    @cached_property
    def leaves_space(self) -> bool:
        """Whether the last of several spaces belongs to the word behind them."""
        ids = self.backend.encode("a    a", add_special_tokens=False).ids
        words = [self.table[i] for i in ids if b"a" in self.table[i]]
        return words[-1:] == [b" a"]

    @cached_property
    def key(self) -> str:
        """Equal for tokenizers whose token numbers mean the same."""
        names = self.tokenizer.convert_ids_to_tokens(list(range(len(self.table))))
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()

    def join(self, ids: Sequence[int]) -> bytes:
        """The bytes that the tokens write, one after the other."""
        table = self.table
        return b"".join(table[i] if i < len(table) else b"" for i in ids)

    def text(self, ids: Sequence[int]) -> bytes:
        """The bytes of the text that the tokens came from."""
        joined = self.join(ids)
        if self.prepends_space and joined.startswith(b" "):
            return joined[1:]
        return joined

    def ends(self, ids: Sequence[int]) -> np.ndarray:
        """Where the text ends after each token, in bytes: ``(len(ids),)`` int64."""
        table = self.table
        lengths = [len(table[i]) if i < len(table) else 0 for i in ids]
        ends = np.cumsum(lengths, dtype=np.int64) if lengths else np.zeros(0, np.int64)
        if self.prepends_space and self.join(ids).startswith(b" "):
            ends = np.maximum(ends - 1, 0)
        return ends

    def encode(self, text: str) -> list[int]:
        """Tokenise, and verify that the tokens write exactly this text.

        Raises
        ------
        ValueError
            When they do not: a normaliser changed the text, or pieces are unknown.
        """
        return self._piece(text, True, True)

    def _spaced(self, text: str) -> str:
        return f" {text}" if self._spares_space and text.startswith(" ") else text

    def mentions_specials(self, text: str) -> bool:
        """Whether special tokens are written out in a text."""
        return any(name in text for name in self.specials)

    def read(self, text: str) -> list[int]:
        """Tokenise as the model itself reads a prompt, such as a chat template's text.

        Special tokens that are written out are these tokens, and those that the
        tokenizer puts around a text are not doubled where the text has them already.
        """
        return self._parse(text)[0]

    def read_with_ends(self, text: str) -> tuple[list[int], np.ndarray]:
        """`read`, and where the text ends after each token, in bytes of the text.

        The names of special tokens that are written out count. Raises as `encode`.
        """
        ids, marks = self._parse(text)
        if not marks:
            self._verify(self.text(ids), text)
            return ids, self.ends(ids)
        ends = np.zeros(len(ids), np.int64)
        low, at = 0, 0
        for mark, (begin, stop) in [*marks.items(), (len(ids), (len(text), len(text)))]:
            between = text[at:begin]
            written = self.join(ids[low:mark])
            # Some tokenizers put a space behind each special token.
            space = int(self.prepends_space and written == b" " + between.encode())
            self._verify(written[space:], between)
            before = len(text[:at].encode())
            lengths = [len(self.join([i])) for i in ids[low:mark]]
            ends[low:mark] = before + np.maximum(np.cumsum(lengths) - space, 0)
            ends[mark : mark + 1] = len(text[:stop].encode())
            low, at = mark + 1, stop
        return ids, ends

    def _parse(self, text: str) -> tuple[list[int], dict[int, tuple[int, int]]]:
        """Tokens, and which of them the text names: where, in characters."""
        if not self.mentions_specials(text):
            return self.backend.encode(self._spaced(text)).ids, {}
        spaced = self._spaced(text)
        found = self._parser.encode(spaced)
        inside = [i for i, added in enumerate(found.special_tokens_mask) if not added]
        first, last = inside[0], inside[-1] + 1
        head, ids, tail = (
            found.ids[part]
            for part in (slice(first), slice(first, last), slice(last, None))
        )
        head = [] if ids[: len(head)] == head else head
        tail = [] if tail and ids[-len(tail) :] == tail else tail
        names = {i: name for name, i in self.specials.items()}
        marks = {}
        for i, (token, span) in enumerate(
            zip(ids, found.offsets[first:last], strict=True), len(head)
        ):
            # An unknown character is a special token too, but not by its name.
            if token in names and names[token] in spaced[slice(*span)]:
                begin, end = (max(at - len(spaced) + len(text), 0) for at in span)
                marks[i] = begin, end
        return [*head, *ids, *tail], marks

    def of_anchor(self, anchor: TokenBytes, ids: Sequence[int]) -> list[int]:
        """The tokens with which a donor reads a text that an anchor has read.

        The very same where they mean the same; else of what the anchor's tokens write.
        """
        if anchor.key == self.key:
            return list(ids)
        return self.encode(complete_text(anchor.text(ids)))

    def of_growing_anchor(
        self,
        anchor: TokenBytes,
        ids: Sequence[int],
        new: int,
        head: Head | None = None,
    ) -> tuple[list[list[int]], list[list[Way]], Head | None]:
        """`of_anchor` for the text up to each of the last ``new`` tokens of the anchor.

        A text that ends in white space may be cut otherwise once a word follows, of
        which the last space is a part: it is read without its last character first if
        the donor cuts so, and with one more space if only the anchor does. ``head`` is
        as in `encode_growing`.

        Returns
        -------
        rows : list of list of int
            The tokens of each text, shortest first.
        ways : list of list of Way
            For each of the anchor's tokens, which rows are of its text.
        head : tuple of str and list of int, or None
        """
        first = len(ids) - new
        if anchor.key == self.key:
            rows = [list(ids[: t + 1]) for t in range(first, len(ids))]
            return rows, [[Way(i, 0)] for i in range(new)], None
        data = anchor.text(ids)
        spaces = anchor.leaves_space and not self.leaves_space
        texts: list[str] = []
        ways: list[list[Way]] = []
        for end in anchor.ends(ids)[first:].tolist():
            text, read = codecs.utf_8_decode(data[:end], "replace", False)
            mine = [(text, end - read)]
            if self.leaves_space and text[1:] and text[-1].isspace():
                behind = end - read + len(text[-1].encode())
                mine.insert(0, (text[:-1], behind))
            elif spaces and text.endswith(" ") and read == end:
                mine.append((f"{text} ", -1))
            ways.append([Way(len(texts) + i, n) for i, (_, n) in enumerate(mine)])
            texts += [text for text, _ in mine]
        # What comes in is refused with the reason. What the anchor then writes is read
        # as nearly as the donor can: no request ends in the middle.
        rows, head = self.encode_growing(texts, head, verify=first == 0)
        return rows, ways, head

    def written_behind(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        """What ``tokens`` write behind the ``prompt`` that they begin with.

        Not what they write alone: many tokenizers drop a space in front of a text.
        """
        before, whole = (
            str(
                self.tokenizer.decode(
                    ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
            )
            for ids in (prompt, tokens)
        )
        if whole.startswith(before):
            return whole[len(before) :]
        # Bytes of no character spoil those beside them, the prompt's last ones too.
        return self.join(tokens[len(prompt) :]).decode(errors="replace")

    def encode_growing(
        self, texts: Sequence[str], head: Head | None = None, verify: bool = True
    ) -> tuple[list[list[int]], Head | None]:
        """`encode` for texts that mostly begin with the one before.

        A text is cut before a space that no token of the vocabulary reaches across,
        and what stands before the cut is not tokenised again: the time goes with the
        length of the longest text, not with the sum of all.

        Parameters
        ----------
        texts : sequence of str
        head : tuple of str and list of int, optional
            Returned by an earlier call: the beginning of its last text, and its tokens.
        verify : bool
            Whether a text that does not round-trip is an error; if not, the tokens
            write it as nearly as they can.

        Returns
        -------
        rows : list of list of int
        head : tuple of str and list of int, or None
        """
        rows: list[list[int]] = []
        for text in texts:
            begin, known = head if head and _goes_on(text, head[0]) else ("", [])
            rest = text[len(begin) :]
            cut = self._last_cut(rest)
            if cut:
                known = [*known, *self._piece(rest[:cut], not begin, verify)]
                begin, rest = begin + rest[:cut], rest[cut:]
            tail = self._piece(rest, not begin, verify)
            rows.append([*known, *tail])
            head = (begin, known) if begin else None
        if len(texts) > 1 and head and rows[-1] != self._piece(texts[-1], True, False):
            # What is known of the vocabulary does not tell all of this tokenizer.
            self._cut = None
            return self.encode_growing(texts, None, verify)
        return rows, head

    @cached_property
    def _cut(self) -> re.Pattern[str] | None:
        """Finds the spaces, between other characters, that no token reaches across."""
        before = {
            written[i - 1]
            for written in self.table
            for i in range(1, len(written))
            if written[i] == 0x20
        }
        not_these = "".join(re.escape(chr(b)) for b in sorted(before) if b < 0x80)
        if max(before, default=0) >= 0x80:
            not_these += "\x80-\U0010ffff"
        return re.compile(rf"(?<=[^\s{not_these}]) (?=\S)")

    def _last_cut(self, text: str) -> int:
        found = 0
        for match in self._cut.finditer(text) if self._cut else ():
            found = match.start()
        return found

    def _piece(self, text: str, first: bool, verify: bool) -> list[int]:
        """The tokens of a text, or of one that goes on behind a cut."""
        if first:
            ids: list[int] = self.backend.encode(self._spaced(text)).ids
            written = self.text(ids)
        else:
            # The space that such a tokenizer puts in front is the one in the text.
            rest = text[1:] if self.prepends_space else text
            ids = self.backend.encode(rest, add_special_tokens=False).ids
            written = self.join(ids)
        if verify:
            self._verify(written, text)
        return ids

    def spelling(self, ids: Sequence[int], t: int) -> tuple[int, ...]:
        """The tokens up to number ``t``, from the last one that begins a word."""
        begin, size = t, 0
        for begin in range(t, -1, -1):
            word = self.join([ids[begin]])
            size += len(word)
            if not word:
                return tuple(ids[begin + 1 : t + 1])
            before = self.join(ids[begin - 1 : begin]) if begin else b""
            if size > _SPELLING or (word[:1].isspace() and not before.isspace()):
                break
        return tuple(ids[begin : t + 1])

    def spellings(self, ids: Sequence[int], first: int) -> list[tuple[int, ...]]:
        """`spelling` up to each token from number ``first`` on."""
        return [self.spelling(ids, t) for t in range(first, len(ids))]

    def first_tokens(self, words: Sequence[bytes], size: int) -> np.ndarray:
        """The token with which each string of bytes begins, inside a text.

        As the tokenizer cuts the string; where it cannot, as it is no text, the longest
        token that the string begins with. White space is cut as before a word.

        Parameters
        ----------
        words : sequence of bytes
        size : int
            Tokens that the model has.

        Returns
        -------
        ndarray (len(words),), int64
            -1 where no token begins a string.
        """
        index = self._index(size)
        found = np.full(len(words), -1, dtype=np.int64)
        rows, texts = [], []
        for i, word in enumerate(words):
            text = self._inside(word + b"a" if word.isspace() else word)
            if text is None:
                found[i] = _longest_prefix(word, index)
            else:
                rows.append(i)
                texts.append(text)
        for low in range(0, len(texts), _BATCH):
            encoded = self.backend.encode_batch(
                texts[low : low + _BATCH], add_special_tokens=False
            )
            for i, row in zip(rows[low : low + _BATCH], encoded, strict=True):
                good = self.join(row.ids).startswith(words[i]) and row.ids[0] < size
                # One space may be a part of the word behind it: no token of its own.
                good = good and len(self.table[row.ids[0]]) <= len(words[i])
                found[i] = row.ids[0] if good else _longest_prefix(words[i], index)
        return found

    def _index(self, size: int) -> dict[bytes, int]:
        """The token of each string; of several, the one that the tokenizer writes."""
        index: dict[bytes, int] = {}
        twins: set[bytes] = set()
        for i, word in enumerate(self.table[:size]):
            if word and index.setdefault(word, i) != i:
                twins.add(word)
        for word in twins:
            text = self._inside(word)
            if text is not None:
                ids = self.backend.encode(text, add_special_tokens=False).ids
                if len(ids) == 1 and ids[0] < size and self.table[ids[0]] == word:
                    index[word] = ids[0]
        return index

    def behind(self, before: tuple[int, ...], word: bytes) -> int | None:
        """The token behind those of ``before`` where a text goes on with ``word``.

        Parameters
        ----------
        before : tuple of int
            From one that begins a word.
        word : bytes

        Returns
        -------
        int or None
            -1 if the text is then not cut behind them; None if that cannot be told, as
            ``before`` is not how its bytes are cut, or these are no text.
        """
        return self._behind(before, word)

    def behind_each(
        self, before: tuple[int, ...], words: Sequence[bytes]
    ) -> list[int | None]:
        """`behind` for several words; of white space only whether the text is cut.

        More of it may follow, and then a word.
        """
        found: list[int | None] = []
        for word in words:
            token = self.behind(before, word)
            if word.isspace():
                whole = token == -1 and self.behind(before, word + b"a") == -1
                token = -1 if whole else None
            found.append(token)
        return found

    @cached_property
    def _behind(self) -> Callable[[tuple[int, ...], bytes], int | None]:
        # For each tokenizer: texts repeat themselves.
        return lru_cache(maxsize=1 << 15)(self._cut_behind)

    @cached_property
    def _is_cut_so(self) -> Callable[[tuple[int, ...]], bool]:
        return lru_cache(maxsize=1 << 12)(self._check_cut)

    def _cut_behind(self, before: tuple[int, ...], word: bytes) -> int | None:
        if not self._is_cut_so(before):
            return None
        found = self._cut_inside(self.join(before) + word)
        if found is None:
            return None
        n = len(before)
        return found[n] if tuple(found[:n]) == before and len(found) > n else -1

    def _check_cut(self, before: tuple[int, ...]) -> bool:
        for more in (b"", b"a", b" a"):
            found = self._cut_inside(self.join(before) + more)
            if found is not None and tuple(found[: len(before)]) == before:
                return True
        return False

    def _cut_inside(self, data: bytes) -> list[int] | None:
        text = self._inside(data)
        if text is None:
            return None
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return ids if self.join(ids) == data else None

    def _inside(self, data: bytes) -> str | None:
        """What to tokenise for bytes inside a text; None where that is not possible."""
        if self.prepends_space:
            if not data.startswith(b" "):
                return None
            data = data[1:]
        try:
            return data.decode()
        except UnicodeDecodeError:
            return None

    def _verify(self, written: bytes, text: str) -> None:
        wanted = text.encode()
        if written != wanted:
            at = len(os.path.commonprefix([written, wanted]))
            raise ValueError(
                f"{type(self.tokenizer).__name__} cannot round-trip this text: "
                f"byte {at} reads {wanted[at : at + 12]!r}, its tokens write "
                f"{written[at : at + 12]!r}; normalise the text (NFC) or leave "
                "this strand out"
            )


def complete_text(data: bytes) -> str:
    """The text that ``data`` completes: an unfinished last character is left out.

    Bytes that can never become text are shown as U+FFFD, as a tokenizer would.

    Examples
    --------
    >>> complete_text("café".encode()[:-1])
    'caf'
    >>> complete_text(b"a\\xffb")
    'a\\ufffdb'
    """
    return codecs.utf_8_decode(data, "replace", False)[0]


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens two lists share.

    Examples
    --------
    >>> common_prefix([1, 2, 3], [1, 2, 4, 5])
    2
    """
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    return next(i for i in range(n) if a[i] != b[i])


@dataclass
class TokenTree:
    """The tokens of a growing text, where later text may cut earlier text anew.

    Tokens are counted from the first one of the text that was known before: ``past`` of
    those are kept, and the new ones follow in the order of their coming.

    Attributes
    ----------
    past : int
    tokens : list of int
        The new tokens.
    lineage : list of list of int
        For each new token, its ancestors and itself: the text up to there.
    seen : list of list of int
        For each beginning of the text, the tokens that it consists of.
    kept : list of int
        For each beginning, how many of its first tokens are those of the one before;
        0 for the first.
    length : int
        How many tokens the text has in the end.
    branches : bool
        Whether the new tokens are more than one text that goes on from the past.
    """

    past: int
    tokens: list[int]
    lineage: list[list[int]]
    seen: list[list[int]]
    kept: list[int]
    length: int = field(init=False)
    branches: bool = field(init=False)

    def __post_init__(self) -> None:
        size = self.past + len(self.tokens)
        self.length = len(self.seen[-1]) if self.seen else self.past
        self.branches = bool(self.tokens) and self.lineage[-1] != list(range(size))


def token_tree(
    known: Sequence[int], prefixes: Sequence[Sequence[int]], anew: Sequence[bool]
) -> TokenTree:
    """How the tokens of a growing text follow from each other.

    Parameters
    ----------
    known : sequence of int
        The tokens of the text so far.
    prefixes : sequence of sequence of int
        The tokens of each beginning of the longer text, shortest first.
    anew : sequence of bool
        For each beginning, whether it is read from its first token on whatever went
        before.

    Examples
    --------
    >>> tree = token_tree([7], [[7, 8], [7, 9, 5]], [False, False])
    >>> tree.past, tree.tokens, tree.lineage
    (1, [8, 9, 5], [[0, 1], [0, 2], [0, 2, 3]])
    >>> tree.seen, tree.kept
    ([[0, 1], [0, 2, 3]], [0, 1])
    """
    past = len(known)
    if prefixes:
        past = 0 if anew[0] else common_prefix(known, prefixes[0])
    where, before = list(range(past)), known[:past]
    tokens: list[int] = []
    lineage, seen, kept = [], [], []
    for prefix, from_the_start in zip(prefixes, anew, strict=True):
        keep = 0 if from_the_start else common_prefix(before, prefix)
        del where[keep:]
        for token in prefix[keep:]:
            where.append(past + len(tokens))
            tokens.append(token)
            lineage.append(list(where))
        kept.append(keep if seen else 0)
        seen.append(list(where))
        before = prefix
    return TokenTree(past, tokens, lineage, seen, kept)
