"""Texts that tokenizers get wrong. Everything here is written for this project."""

import random

HOSTILE = [
    "", " ", "  ", "   ", "a", " a", "a ", "  a  ", "Hello, world!",
    "The quick brown fox jumps over the lazy dog.",
    # Contractions, in both cases, with other apostrophes and a long s.
    "I'm you're he's she'd we'll they've don't", "I'M YOU'RE HE'S SHE'D WE'LL THEY'VE DON'T",
    "it'S o'Clock 'tis ''s 's'S 'LL'd", "it\u2019s don\u2019t", "a'\u017f b'\u017f",
    "'", "''", "'''", "'x 'sx 'rex", " 's 't", "can't've",
    # White space of every kind.
    "a\tb\t\tc", "a\nb\n\nc\n\n\nd", "a\r\nb\r\n\r\nc", "a\rb", " \n ", "\n \n", "\t \n\t", "a \n b",
    "x\u00a0y\u00a0\u00a0z", "x\u3000y \u3000 z", "a\u2028b\u2029c", "a\u0085b", "a\u000bb\u000cc",
    "a\u1680b\u2000c\u200ad\u202fe\u205ff", "   leading", "trailing   ", "a  b   c    d     e",
    "def f(x):\n    if x:\n        return x\n\n\treturn  None\n", "\n\n\n", "      \n      ",
    "a\u200bb\u200cc\u200dd\ufeffe\u2060f", "\ufeffBOM",
    # Digits, of other scripts too.
    "0 1 12 123 1234 12345 1234567890", "3.14159 1,000,000 1e-5 0x1F", "a1b22c333d4444",
    "\u0661\u0662\u0663\u0664 \u0967\u0968\u0969\u096a \uff11\uff12\uff13\uff14", "\u00b2\u00b3\u00b9\u00bc\u00bd\u00be",
    "\u2160\u2161\u2167 \u2460\u2461 \u4e00\u4e8c\u4e09", "\U0001d7d8\U0001d7d9 \U0001d7ce", "\U00011f50\U00011f51 \U0001d2c0",
    # Combining marks and normalization.
    "e\u0301 \u00e9 E\u0301", "a\u0300\u0301\u0302\u0303\u0304b", "\u0301alone", "n\u0303 \u00f1 \u1e9b\u0323",
    "\u212b \u00c5 A\u030a", "\ufb01\ufb02\ufb03 \u2126 \u00b5", "\u0345\u03b1\u0345 \u1fb3", "q\u0307\u0323 q\u0323\u0307",
    "\u0130stanbul I\u0307 \u0131", "STRASSE stra\u00dfe \u1e9e", "\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2 \u03a3\u03a3",
    "\u1cf2\u1cf3 a\u1cf2b", "\u32ff \ufdfa \u3392", "\u0958 \u0929 \u0928\u093c", "\U00011938 \U00011935\U00011930", "x\U000111c9y",
    # Hangul, composed and as jamo.
    "\ud55c\uad6d\uc5b4", "\u1112\u1161\u11ab\u1100\u116e\u11a8", "\uac00\u11a8 \u1100\u1161", "\u3131\u314f \uffa1",
    # Other scripts.
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002", "\u3053\u3093\u306b\u3061\u306f\u3001\u4e16\u754c\uff01\u30ab\u30bf\u30ab\u30ca", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645", "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd \u05e2\u05d5\u05dc\u05dd", "\u202eabc\u202c \u200fx\u200e",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01", "\u1019\u103c\u1014\u103a\u1019\u102c", "\u13c3\u13cd\uab70",
    "\u01c5\u01c8\u01cb \u02b0\u02b1 \u00aa\u00ba", "\u212a\u017f k s",
    # Emoji and joiners.
    "\U0001f600\U0001f680", "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7", "\u2764\ufe0f\u200d\U0001f525",
    "1\ufe0f\u20e3", "\U0001faf8 \U0001fae8",
    # What no letter is.
    "\x00", "a\x00b\x00\x00c", "\x01\x02\x1f\x7f\x80\x9f", "\ue000\uf8ff\U000f0000\U0010fffd", "\ufffd\ufffe\uffff\U0010ffff",
    "\u0378\u0379\U000e0080", "\u1c89\ua7cb\U00031350\U0001e4d0 \U00010d40", "\u0870\u0898\u2c2f\U0001df00", "\ufdd0",
    "\ufffd\ufffd\ufffd",
    # Punctuation and symbols.
    "!!! ??? ... --- ___ *** ###", "a-b_c.d/e\\f|g", "$1.00 \u20ac2 \u00a33 \u20bf4", "\u2026\u2014\u2013\u201cquoted\u201d\u2018x\u2019", "(a[b{c<d>e}f]g)",
    "!\n?\r\n.\n\n", "x = y**2 + 3*z; // comment\n", "https://example.org/a?b=c&d=%20e#f", "user@example.org", "#include <vector>\n",
    "\u00a1Hola! \u00bfQu\u00e9 tal?", "x\u2260y \u2264 z \u2211\u221e", "\u2581a \u2581\u2581b\u2581", "a\u2581b",
    # Text that equals added tokens, and touches them.
    "<|endoftext|>", "a<|endoftext|>b", "<|endoftext|><|endoftext|>", " <|endoftext|> ", "<|endoftext|", "<s>", "</s>", "<unk>",
    "a<s>b</s>c", " <s> x", "<s><s>", "<0x41>", "<0x0A>x", "<|left|>", "x  <|left|>  y", "x  <|right|>  y", "x\n<|left|>\n<|right|>\ny",
    "<|right|> <|left|>", "<|right|>  <|right|>", "cat", "cat cats cat's cat_ _cat (cat) \u00e9cat cat\u0301", "tomcat cat", "CAFE\u0301 caf\u00e9 Caf\u00e9!",
    "Na\u00efve nai\u0308ve", "<|Upper|> <|upper|>", "<|im_start|>user\nhi<|im_end|>\n", "<|begin_of_text|>hi",
    "Ab Abc Abcd", "    \t    ", "[PAD]  [PAD]",
    # Long runs.
    "a" * 600, " " * 300, "\n" * 100, "ab" * 200, "\u00e9" * 150, "!" * 257, "1" * 100, "\u3042" * 60, "a " * 80, " \n" * 40, "x" + " " * 50 + "y",
    "the the the the the", "hahahahahahaha", "mississippi", "zzzzzzzzzz", "\u2581" * 20,
]

_PARTS = (
    ["a", "B", "the", " ", " ", "  ", "\n", "\r\n", "\t", "'s", "'LL", "'", "1", "23", "\u0664", ".", "!?", "-", "\u00a0", "\u3000", "\u2028",
     "\u00e9", "e\u0301", "\u0301", "\u4e2d", "\u3042", "\ud55c", "\u1112\u1161", "\U0001f600", "\u200d", "\ufe0f", "\x00", "\u0130", "\u017f", "\ufb01", "\u00bd",
     "\u2581", "<s>", "<|endoftext|>", "cat", "<|left|>", "<|right|>", "\u0628", "\u0921\u093c", "\ue000", "\u0378", "_", "<0x41>", "\u212b"])


def fuzz(count, seed=20240607):
    rng = random.Random(seed)
    return ["".join(rng.choice(_PARTS) for _ in range(rng.randint(2, 24))) for _ in range(count)]


STRINGS = HOSTILE + fuzz(60)

INVALID = [
    b"\xff", b"a\x80b", b"\xc3", b"\xc3(", b"\xe2\x82", b"\xe2\x82x", b"\xf0\x9f\x98", b"\xf0\x9f\x98x", b"\xc0\xaf", b"\xe0\x80\xaf",
    b"\xed\xa0\x80", b"\xed\xa0\xbd\xed\xb8\x80", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xf8\x88\x80\x80\x80", b"ok\xe2\x82\xac\xe2\x82",
    b"\x80\x81\x82", b"\xf0\x80\x80\x41", b"\xf1\x80\xc3\xa9", b"\xee\x80", b"\xfe\xff\x00a", b"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41",
]
