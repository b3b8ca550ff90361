"""Where a reply names options by their letters, and how each is meant: stated as the answer, denied, or just named.

A letter stands alone: "(C)", "C.", "C" between spaces or beside Chinese, Japanese or Korean text; not "A" in
"A man", "I" in "I think", "C" in "C-arm" or a small letter in prose. Letters that are joined ("A or B", "A, C",
"A 和 B") share what is said before the first and after the last of them.

What is denied must be said right at the letter ("not A", "A is wrong"): to miss a denial leaves one letter too many
and a reply unread, to see one that is none would leave one too few and a reply misread. In the phrases below a space
is any space of a line, and alternatives are tried in their order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MASK = "\u2026"
"""Stands for an option's own words, in which letters name nothing."""

CROSS = "[\u274c\u274e\u2716-\u2718\U0001f6ab\U0001f44e]"
"""Marks drawn beside what is wrong."""

SEEN = 80
"""Characters before and after a letter that are looked at."""

_ALPHABET = "0-9A-Za-z\u00aa-\u024f\u0300-\u052f_"  # of languages that put spaces between words
_OPEN, _CLOSE = r"""[\s(\[{<>"'`*_“「『【《$\\-]*""", rf"""[\s)\]}}<>"'`*_”」』】》.,:$/\\{MASK}-]*"""


def _phrases(text: str) -> str:
    return "(?:" + re.sub(r"\s*\n\s*", "", text.strip()).replace(" ", r"[^\S\n]+") + ")"


def _pattern(text: str) -> re.Pattern[str]:
    r"""\b is where a word of the alphabet begins or ends, also beside Chinese."""
    edge = rf"(?:(?<![{_ALPHABET}])(?=[{_ALPHABET}])|(?<=[{_ALPHABET}])(?![{_ALPHABET}]))"
    return re.compile(text.replace(r"\b", edge), re.IGNORECASE | re.DOTALL)


_LETTER = re.compile(
    rf"(?<![{_ALPHABET}°])(?<![{_ALPHABET}]')(?<![{_ALPHABET}]{{2}}-)(?<![A-Za-z]\.)([A-Za-z])"
    rf"(?![{_ALPHABET}+#])(?!'[a-z])(?!-[{_ALPHABET}]{{2}})(?!\.[A-Za-z](?![a-z]))"
)
_AND = _phrases(r"""\b(?:and|or|nor|und|oder|et|ou|y|o|e|и|или)\b|
    和|或|与|與|跟|及|还是|還是|と|や|か|または|あるいは|와|과|랑|나|또는|혹은|및""")
_HEDGE = _phrases(r"""\b(?:and|or|nor|und|oder|also|maybe|perhaps|possibly|even|the|option|choice|letter)\b|
    或者|者|选项|選項""")
_JOINED = _pattern(rf"{_CLOSE}(?:[,/&+|、·]|{_AND})+{_OPEN}(?:{_HEDGE}\s*)*{_OPEN}")
_BRACKETED = re.compile(r"""[(\[{"'“「『【《*`]\s*$"""), re.compile(r"""\s*[)\]}"'”」』】》*`]""")
_CLAUSE_START = re.compile(rf"(?:^|[\n.,;:!?。)-]){_OPEN}$")
_LINE_START = re.compile(r"(?:^|\n)[^\w\n]*$")
_LINE_MARK = re.compile(r"[^\w\n]*?(?:[)\]:]|\.(?![A-Za-z]\b))")
_CLAUSE_END = _pattern(
    r"[^\w\n]*(?:$|\n)|\s*[.,;:!?)\]。]|\s+(?:because|since)\b|\s+(?:is|does|it\s+is)\W*(?:$|\n)|"
    r"\s*(?:です|だ|である|でしょう|입니다|이다|예요|이에요|번|选项|選項|项|項)"
)
_VERB_NEXT = _phrases(r"""and|or|nor|is|are|was|were|has|had|would|could|should|must|might|may|can|can't|cannot|isn't|
    doesn't|does|will|seems|looks|appears|sounds|shows|says|describes|fits|matches|works|beats|because|since|as|but|not|
    if|it|rather|instead|then|than|along|plus|versus|vs|over|with|followed|for|to|also|too|though|although|while|
    whereas|when|after|before|so|only|alone|even|maybe|perhaps|possibly|probably|the|option|choice|hmm|
    wait|well|yes|no|und|oder|et|ou|est|es|ist|sondern""")
_NOUN_NEXT = re.compile(rf"[^\S\n]+(?!{_VERB_NEXT}\b)[a-z\u00e0-\u024f]{{2}}|[^\S\n]+\d")

_IS = _phrases(
    r"""(?: (?:is|are|was|were|would be|will be|must be|should be|has to be|seems|looks|appears|sounds))"""
)
_NOUN = r"(?:option|choice|letter|answer)"
_ANSWER = _phrases(rf"""
    \b(?:answers?|(?:correct|right|best|final|my) (?:option|choice|letter|one|pick|guess))
        (?: (?:to|for) (?:the|this|that|your) \w+)?(?:{_IS}| (?:clearly|definitely|therefore|thus|the|{_NOUN}))*|
    \b(?:choose|chose|pick|picked|select|selected|go with|going with|opt for)(?: (?:the|{_NOUN}))*|
    [\\]boxed\{{(?:[\\](?:text|mathrm|textbf)\{{)?|
    \b(?:antwort|lösung|réponse|respuesta|resposta|risposta)(?: (?:correcta|correcte|correta|corretta|ist|est|es|é|è|
        la|el|die|lautet|opción|opção|lettre|final))*|
    \bответ(?: это)?|
    (?:答案|正确选项|正確選項|正确的选项|选择的是)(?:应该|應該|应|應|当然|就|选择|选|選|是|为|為|选项|選項|[,\s])*|
    (?:选|選)(?:择|擇)?(?:选项|選項|了|的?是|\s)*|
    (?:正解|答え|解答|回答)(?:は|が|、|\s)*(?:選択肢)?|
    (?:정답|답)(?:은|이|\s)*
    """)  # noqa: RUF001 (Cyrillic)
_STATED_BEFORE = _pattern(rf"{_ANSWER}\s*[:=]?{_OPEN}$")
_STATED_AFTER = _pattern(
    _phrases(rf"""
    \s+(?:is|are|was|would be|must be)(?: (?:the|my|both|clearly|definitely|probably|most likely))*
        \s+(?:(?:correct|right|best|most likely|final)(?: (?:{_NOUN}|one|pick))?|answers?)
        (?![a-z-])|
    \s*(?:选项|選項)?(?:才|就)?(?:是|为|為)?(?:正确|正確|对的|對的|答案)|
    \s*(?:が|は|こそ)?\s*(?:正解|正しい|答え)|
    \s*(?:이|가|은|는)?\s*(?:정답|맞|옳)|\s*(?:를|을)?\s*(?:선택|고르|택)
    """)
)
_NOT = _phrases(rf"""
    (?:\bnot|n't|\bnever|\bcannot|\bneither|\bnicht|\bno es)
        (?: (?:be|go with|choose|pick|select|say|the|both|either|{_NOUN}))*|
    \b(?:rather than|instead of|other than|(?<!be\s)(?:rul(?:e|es|ed|ing) out|eliminat(?:e|es|ed|ing)|
        exclud(?:e|es|ed|ing)|reject(?:s|ed|ing)?|discard(?:s|ed|ing)?)|except(?: for)?|unlike|
        (?:everything|anything|nothing|all|none) but)
        (?: (?:both|either|{_NOUN}))*|
    (?:^|[\n.,;:!?(]|\b(?:the|an?|only|this))\s*(?:wrong|incorrect|false|worst|least likely)
        [^\S\n]+(?:one|{_NOUN})s?{_IS}?:?|
    (?:不(?:是|选|選|会是|能选|能選|应选|該选|该选|要选|要選)|并非|並非|而非|排除|除了|
        (?:错误|錯誤)的?(?:答案|选项|選項)(?:是|为)?:?)(?:选项|選項)?
    """)
_NOT_BEFORE = _pattern(rf"{_NOT}{_OPEN}$")
_END = rf"(?!\w{{0,3}}{_OPEN}[A-Z](?![{_ALPHABET}]))"  # else it denies the letter that follows
_NOT_AFTER = _pattern(
    _phrases(rf"""
    (?:{_IS}|\s+can(?: also)? be)(?: (?:to be|clearly|obviously|definitely|simply|also|both|all|the|an?))*
        \s+(?:not|wrong|incorrect|false|untrue|inaccurate|unlikely|impossible|implausible|invalid|ruled out|
        eliminated|excluded|out)\b|
    \s+(?:is|are|was|does|do|did|ca|could|would|wo)n't\b|\s+(?:does|do|did|would|could|can|will|should) not\b|
    \s+(?:cannot|never|contradicts?|fails?|makes? no sense|has no)\b{_END}|
    \s+(?:ist|es|est) (?:nicht|falsch|faux|falsa)|
    \s*(?:选项|選項|项|項)?(?:都|也|均|就|明显|显然|是|很)*(?:不(?![仅只但错僅錯])|错|錯|误|誤|(?:可以|应|被)?排除){_END}|
    \s*(?:は|が|も)?\s*(?:正解|正しい|正し|答え)?(?:(?:では|じゃ|で|く)(?:な[いくか]|ありません)|違|間違|誤|不正解){_END}|
    \s*(?:은|는|이|가|도)?\s*(?:정답|답|맞|옳)?(?:은|는|이|가|지)?\s*(?:아니|아닙|아닌|않|틀|오답){_END}
    """)
)
_ALL = _pattern(rf"\s+(?:are|were)\b|.*[都均]|.*\b(?:nor|ni|noch)\s*{_OPEN}$")
_DOUBT = _pattern(
    r"(?:\b(?:not|never|no|cannot|hardly|doubt|if|whether|unless|neither|unlikely|less|least|nicht|kein|pas|ni|não|nao|"
    r"non|niet|inte|ikke|nie|не|nem|nu|bukan|tidak|không|değil)\b|n't\b|"
    rf"不|没|沒|非|ない|안|못|ليس|{CROSS})(?:(?!\b(?:but|so|then|therefore|hence|thus|only)\b)[^.,;:!?\n。])*$"
)
_DOUBTED_AFTER = _pattern(
    rf"[^\w\n]*\?.*\w|[^\w\n]*{CROSS}|"
    r"[\s)\]}\"'*_]*(?:[:=(-]|\.\.)[^\w\n]*(?:no|nope|false|wrong|incorrect|untrue|falsch|faux|fals[oa])\b"
)
_SAYING = _phrases(r"""is|are|be|was|so|thus|therefore|hence|but|then|it's|that's|pick|choose|select|with|for|say|
    guess|think|believe|maybe|perhaps|possibly|probably|likely|definitely|certainly|clearly|surely|hmm|yes|no|
    option|choice|letter|answer|just|only|also|actually|both|either|and|or|ist|est|es|é|è|la|der|opción|opção|lettre|это|jest|là|
    adalah|är|er""")
_CHOOSING = _pattern(
    rf"""(?:^|[\n.,;:!?>=。、-]|[^\x00-\u052f]\s|是|为|為|选|選|は|\b{_SAYING})[\s(\[*"'“{{-]*$"""
)
_OPTION = _pattern(rf"(?:\b(?:option|choice|letter)|选项|選項|選択肢){_OPEN}$")


@dataclass(frozen=True)
class Mention:
    """A letter that a reply names."""

    letter: str
    """Capital."""
    start: int
    stated: bool
    """As the answer, be it in doubt: "the answer is C", "C is correct", "if the answer is C"."""
    denied: bool
    """As not the answer: "not C", "C is wrong"."""
    joined: bool
    """To another letter."""
    chosen: bool
    """In a way that by itself gives an answer: alone, marked, or where a choice is said."""


@dataclass(frozen=True)
class _Place:
    """A lone letter in a text, with what stands beside it."""

    letter: str
    start: int
    end: int
    before: str
    after: str

    @property
    def marked(self) -> bool:
        """In brackets, or at the beginning of a line and followed by a mark or nothing: "(b)", "b) a ball", "b"."""
        if _LINE_START.search(self.before):
            rest = self.after.split("\n")[0]
            return bool(_LINE_MARK.match(rest) or not re.search(r"\w", rest))
        opening, closing = _BRACKETED
        return bool(opening.search(self.before) and closing.match(self.after))

    @property
    def is_word(self) -> bool:
        """Whether it reads as a word, such as the article in "A man" and any small letter inside a clause."""
        if self.letter.islower():
            cued = _STATED_BEFORE.search(self.before) or _OPTION.search(self.before)
            return not (self.marked or (cued and _CLAUSE_END.match(self.after)))
        return self.has_noun and (self.letter == "I" or bool(_CLAUSE_START.search(self.before)))

    @property
    def has_noun(self) -> bool:
        """Whether it may be an article or pronoun: inside a clause a capital A rather is not."""
        return self.letter in "AI" and bool(_NOUN_NEXT.match(self.after))

    @property
    def is_choice(self) -> bool:
        """Whether it stands where a choice is said, "I think C.", and not as part of a name, "vitamin C"."""
        said = _CHOOSING.search(self.before) and _CLAUSE_END.match(self.after)
        return bool(said or self.marked or _OPTION.search(self.before)) and not self.has_noun


def find_mentions(text: str) -> list[Mention]:
    """The letters that a text names, in their order. Its quotes and dashes are the plain ones."""
    return [mention for places in _joined(text) for mention in _meant(places)]


def _joined(text: str) -> Iterator[Sequence[_Place]]:
    """Lone letters, those together that are joined. A small letter counts beside one that is no word."""
    groups: list[list[_Place]] = []
    for found in _LETTER.finditer(text):
        start, end = found.span(1)
        place = _Place(found[1], start, end, text[max(start - SEEN, 0) : start], text[end : end + SEEN])
        gap = start - groups[-1][-1].end if groups else SEEN
        if gap < SEEN and _JOINED.fullmatch(text, start - gap, start):
            groups[-1].append(place)
        else:
            groups.append([place])
    for group in groups:
        if not all(place.is_word for place in group):
            yield [place for place in group if place.letter.islower() or not place.is_word]


def _meant(places: Sequence[_Place]) -> Iterator[Mention]:
    """What is stated of letters that are joined is stated of each; what is denied, only where that is said."""
    first, last = places[0], places[-1]
    closing = re.match(_CLOSE, last.after.split("\n")[0])[0]
    rest = " " * bool(closing) + last.after[len(closing) :]
    nor, not_these = _NOT_BEFORE.search(first.before), _NOT_AFTER.match(rest)
    said = _STATED_BEFORE.search(first.before) or _STATED_AFTER.match(rest)
    doubted = _DOUBT.search(first.before) or _DOUBTED_AFTER.match(last.after)
    for place in places:
        denied = (nor and (place is first or _ALL.search(place.before))) or (
            not_these and (place is last or _ALL.match(not_these[0]))
        )
        yield Mention(
            place.letter.upper(),
            place.start,
            stated=bool(said and not denied),
            denied=bool(denied),
            joined=len(places) > 1,
            chosen=bool((said and not place.has_noun) or place.is_choice)
            and not (nor or not_these or doubted),
        )
